package slirp4netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/usernet/usernet/compat/session"
)

// Exit codes of the original.
const (
	exitOK      = 0
	exitFailure = 1
)

// Main is the whole life of slirp4netns. args begin with the name it was called by; stdio are its descriptors 0, 1
// and 2. It returns the exit code, unless a signal ends the process.
func Main(args, env []string, stdio [3]*os.File) int {
	posix := slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "POSIXLY_CORRECT=") })
	o, err := parse(args, posix, interfaceAddrs)
	out := stdio[1]
	if err != nil {
		if err.Error() != "" {
			fmt.Fprintln(stdio[2], err)
		}
		if _, ok := errors.AsType[*usageError](err); ok {
			io.WriteString(out, usageText(args[0]))
		}
		return exitFailure
	}
	switch {
	case o.help:
		io.WriteString(out, usageText(args[0]))
		return exitOK
	case o.version:
		io.WriteString(out, versionText())
		return exitOK
	}
	if o.surplus {
		fmt.Fprintln(out, "WARNING: too many arguments")
	}
	r := &run{o: o, stdio: stdio, log: slog.New(slog.NewTextHandler(stdio[2], &slog.HandlerOptions{Level: slog.LevelWarn}))}
	err = r.run(context.Background())
	if err != nil {
		fmt.Fprintf(stdio[2], "slirp4netns: %v\n", err)
		return exitFailure
	}
	if r.signal != 0 {
		return dieBy(r.signal)
	}
	return exitOK
}

// dieBy ends the process by a signal, which is what our caller sees in wait(2) of the original. Nothing of ours is left
// to be closed. The code is for a signal that does not end it.
func dieBy(s syscall.Signal) int {
	if s != syscall.SIGQUIT { // of which the runtime makes a dump of its goroutines
		signal.Reset(s)
		if syscall.Kill(os.Getpid(), s) == nil {
			<-time.After(time.Second) // it is another thread that takes it
		}
	}
	return 128 + int(s)
}

// ending are the signals that end it.
var ending = []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT}

// run is one life.
type run struct {
	o      *options
	stdio  [3]*os.File
	log    *slog.Logger
	signal syscall.Signal // that ended it; 0 when none did
}

// run serves until the end; its own is no error.
func (r *run) run(ctx context.Context) error {
	// A caller that has closed its end of a pipe shall not end us.
	signal.Ignore(syscall.SIGPIPE)
	signals := make(chan os.Signal, len(ending))
	for _, s := range ending {
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	ready, err := inherited(r.o.readyFD, "ready-fd")
	if err != nil {
		return err
	}
	exit, err := watchExit(r.o.exitFD)
	if err != nil {
		return err
	}
	defer exit.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	started := make(chan error, 1)
	var s *session.Session
	go func() {
		var err error
		s, err = r.start(ctx)
		started <- err
	}()
	select {
	case err = <-started:
	case <-exit.event:
		cancel()
		err = <-started
	case sig := <-signals:
		r.signal = sig.(syscall.Signal)
		cancel()
		err = <-started
	}
	if ctx.Err() != nil {
		// Asked to end before it began.
		if err == nil {
			err = s.Close()
		} else {
			err = nil
		}
		return err
	}
	if err != nil {
		return err
	}
	return errors.Join(r.serve(s, ready, exit, signals), s.Close())
}

// start brings the network up.
func (r *run) start(ctx context.Context) (*session.Session, error) {
	cfg := plan(r.o)
	cfg.Log, cfg.Level, cfg.Stderr = r.log, slog.LevelWarn, r.stdio[2]
	dev, err := openTarget(ctx, r.o, r.stdio[2])
	if err != nil {
		return nil, err
	}
	if dev != nil {
		defer dev.File.Close()
		cfg.TAP = dev
	}
	return session.Start(ctx, cfg)
}

// serve lasts from when the network works to the end.
func (r *run) serve(s *session.Session, ready *os.File, exit *exitWatch, signals <-chan os.Signal) error {
	if r.o.apiSocket != "" {
		a, err := serveAPI(r.o.apiSocket, &forwards{to: s}, addressesOf(r.o.cidr).guest, clientPatience, r.log)
		if err != nil {
			return err
		}
		defer a.close()
	}
	io.WriteString(r.stdio[1], banner(r.o, addressesOf(r.o.cidr)))
	if ready != nil {
		_, err := ready.WriteString("1")
		if err = errors.Join(err, ready.Close()); err != nil {
			// Whoever wanted to know is gone; the network is not the worse for it.
			r.log.Warn("not signalled that it is ready", "err", err)
		}
	}
	select {
	case <-exit.event:
	case sig := <-signals:
		r.signal = sig.(syscall.Signal)
	case <-s.Done():
		return s.Err()
	}
	return nil
}
