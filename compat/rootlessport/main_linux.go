package rootlessport

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// Main is the program rootlessport. args begin with its name, and nothing follows; stdio are its descriptors 0, 1 and
// 2. It returns the exit code.
func Main(args, _ []string, stdio [3]*os.File) int {
	if len(args) > 1 {
		fmt.Fprintln(stdio[2], "too many arguments, rootlessport expects a json config via STDIN")
		return 1
	}
	log := slog.New(slog.NewTextHandler(stdio[2], &slog.HandlerOptions{Level: slog.LevelWarn}))
	if err := run(stdio, log); err != nil {
		fmt.Fprintln(stdio[1], err) // podman shows both
		return 1
	}
	return 0
}

func run(stdio [3]*os.File, log *slog.Logger) error {
	cfg, err := readConfig(stdio[0])
	if err != nil {
		return err
	}
	exit, ready, err := cfg.descriptors()
	if err != nil {
		return err
	}
	defer exit.Close()
	defer ready.Close()
	child, err := childIP(cfg.ChildIP)
	if err != nil {
		return err
	}
	specs, err := cfg.specs()
	if err != nil {
		return err
	}
	in, err := enter(cfg.NetNSPath)
	if err != nil {
		return err
	}
	defer in.close()
	p := &ports{in: in, log: log}
	defer p.close()
	if p.listeners, err = listen(specs); err != nil {
		return err
	}
	if err := p.lead(child); err != nil {
		return err
	}
	if cfg.RootlessCNI {
		r, err := serveReload(cfg.TmpDir, cfg.ContainerID, p.lead)
		if err != nil {
			return err
		}
		defer r.close()
	}
	if err := detach(stdio); err != nil {
		return err
	}
	if _, err := ready.WriteString("1"); err != nil {
		return fmt.Errorf("report ready: %w", err)
	}
	if err := ready.Close(); err != nil {
		return fmt.Errorf("report ready: %w", err)
	}
	return waitForEnd(exit)
}

// descriptors are those podman named.
func (c *config) descriptors() (exit, ready *os.File, err error) {
	if c.ExitFD == c.ReadyFD {
		return nil, nil, errors.New("invalid ReadyFD")
	}
	for name, fd := range map[string]int{"ExitFD": c.ExitFD, "ReadyFD": c.ReadyFD} {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return nil, nil, fmt.Errorf("invalid %s", name)
		}
	}
	return os.NewFile(uintptr(c.ExitFD), "exit descriptor"), os.NewFile(uintptr(c.ReadyFD), "ready descriptor"), nil
}

// detach lets go of what podman reads until its end: nobody reads it once the ports are ready.
func detach(stdio [3]*os.File) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for _, f := range stdio {
		if err := unix.Dup3(int(null.Fd()), int(f.Fd()), 0); err != nil {
			return fmt.Errorf("detach from the caller: %w", err)
		}
	}
	return nil
}

// waitForEnd waits until the exit descriptor's other end is closed, or a signal comes.
func waitForEnd(exit *os.File) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	closed := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, exit)
		closed <- err
	}()
	select {
	case err := <-closed:
		return err
	case <-signals:
		return nil
	}
}
