package shim

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
)

// startInit clones init into its namespaces and returns it with the shim's end of the socket. It waits
// for its setup there.
//
// Init starts without identity maps, so that it makes no difference who writes them. An unmapped
// process would lose its capabilities by exec; the ambient set keeps them.
func startInit(cfg *Config) (*os.Process, *conn, error) {
	if err := CloseOnExec(); err != nil {
		return nil, nil, fmt.Errorf("mark inherited descriptors: %w", err)
	}
	ours, its, err := sys.Socketpair()
	if err != nil {
		return nil, nil, err
	}
	defer its.Close()
	exe := cfg.Exe
	if exe == "" {
		exe = "/proc/self/exe"
	}
	flags := uintptr(syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS)
	if cfg.Network != NetworkHost {
		flags |= syscall.CLONE_NEWNET
	}
	attr := &os.ProcAttr{
		Env:   cfg.Env,
		Files: append(cfg.Stdio[:], its),
		Sys:   &syscall.SysProcAttr{Cloneflags: flags, AmbientCaps: allCaps()},
	}
	p, err := os.StartProcess(exe, append([]string{"usernet", InitRole}, cfg.Command...), attr)
	if err != nil {
		ours.Close()
		return nil, nil, startError(cfg, err)
	}
	c, err := newConn(ours)
	if err != nil {
		// Its end of the socket is closed by now, so init ends by itself.
		ours.Close()
		_, _ = p.Wait()
		return nil, nil, err
	}
	return p, c, nil
}

func startError(cfg *Config, err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	if errors.Is(err, syscall.E2BIG) {
		return fmt.Errorf("start sandbox: %w: CMD's arguments and environment are %d strings", err, len(cfg.Command)+len(cfg.Env))
	}
	return withUserNamespaceHint(fmt.Errorf("make user, mount and network namespaces: %w", err))
}

// CloseOnExec marks every descriptor from 3 up as one that no program executed later gets: what the caller of usernet
// left open (a shell's redirections, a make's job server) is neither the sandbox's nor the datapath's. Ours are marked
// already.
func CloseOnExec() error {
	err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	// Before Linux 5.11.
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range fds {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}

// allCaps lists every capability the kernel knows.
func allCaps() (caps []uintptr) {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		// Kernels know fewer or more than the headers this was built with.
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err != nil {
			break
		}
		caps = append(caps, c)
	}
	return caps
}
