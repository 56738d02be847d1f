package confine

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options says what of the process remains.
type Options struct {
	// Keep is how many descriptors, from 0, are the process's own; any other that was inherited is closed.
	Keep int
	// KillOnDenied makes a system call outside the allow-list end the process; otherwise it is EPERM.
	KillOnDenied bool
}

// Enter isolates the calling process for good. Call it before anything else, from main's goroutine or any
// other: it acts on all threads. On an error the process is half isolated and should end.
func Enter(o Options) (Report, error) {
	began := time.Now()
	var r Report
	if builtWithRace {
		return unconfined("the race detector needs cgo, whose threads Go cannot restrict"), nil
	}
	if builtWithCgo {
		return r, errors.New("confine: built with cgo, whose threads Go cannot restrict; build with CGO_ENABLED=0")
	}
	// First, although nothing needs it: each of its 41 calls stops all threads, and every system call
	// that blocks before may bring another thread.
	r.Capabilities = layer(emptyBoundingSet())
	r.NoFile = raiseLimits()
	r.Closed = closeInherited(o.Keep)
	r.Namespaces = layer(inNamespaces())
	r.Root = layer(emptyRoot(r.Namespaces))
	r.NotDumpable = layer(unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
	if err := dropCapabilities(); err != nil {
		return r, fmt.Errorf("confine: drop capabilities: %w", err)
	}
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return r, fmt.Errorf("confine: set no_new_privs: %w", err)
	}
	r.NoNewPrivs.On = true
	var err error
	r.LandlockABI, err = restrictPaths()
	r.Landlock = layer(err)
	if err := loadFilter(o.KillOnDenied); err != nil {
		return r, fmt.Errorf("confine: load seccomp filter: %w", err)
	}
	r.Seccomp.On = true
	r.Took = time.Since(began)
	return r, nil
}

// raiseLimits raises the soft limit of open files to the hard one, since each flow is a socket, and forbids
// core dumps, which would hold the traffic. It returns the limit of open files.
func raiseLimits() uint64 {
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	if l.Cur < l.Max {
		// syscall's, not unix's: the former tells the runtime, which would otherwise restore its own.
		n := syscall.Rlimit{Cur: l.Max, Max: l.Max}
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &n) == nil {
			l.Cur = l.Max
		}
	}
	return l.Cur
}

var errNotIsolated = errors.New("the host refused user namespaces; check kernel.unprivileged_userns_clone, user.max_user_namespaces and the AppArmor restriction of user namespaces")

// inNamespaces reports whether Start got its way: the first process of a PID namespace has number 1,
// which no other process of ours ever has.
func inNamespaces() error {
	if os.Getpid() != 1 {
		return errNotIsolated
	}
	return nil
}

// allThreads makes a system call on every thread of the process.
func allThreads(nr, a1, a2, a3 uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall(nr, a1, a2, a3); errno != 0 {
		return errno
	}
	return nil
}
