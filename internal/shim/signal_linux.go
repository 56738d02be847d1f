package shim

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// forwarded are the signals the shim passes on to CMD. Left to their default action: SIGTSTP,
// SIGTTIN and SIGTTOU, which stop the whole job, and those that tell of a fault.
var forwarded = []syscall.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2,
	syscall.SIGALRM, syscall.SIGWINCH, syscall.SIGCONT, syscall.SIGIO, syscall.SIGPWR,
}

// catchSignals delivers the forwarded signals to the channel until release.
func catchSignals() (c chan os.Signal, release func()) {
	// A burst of different signals is kept; of many equal ones the kernel keeps one anyway.
	c = make(chan os.Signal, 2*len(forwarded))
	for _, s := range forwarded {
		// What the caller ignores (nohup) stays ignored, for CMD too.
		if !signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
	return c, func() { signal.Stop(c) }
}

// reachedCommand says that CMD has got the signal too: the terminal sent it to our whole process group.
func reachedCommand(s syscall.Signal) bool {
	switch s {
	case syscall.SIGINT, syscall.SIGQUIT, syscall.SIGWINCH:
		return inForeground()
	case syscall.SIGCONT:
		// A shell resumes its jobs as groups. Passed on late, the signal would undo the next ^Z for CMD alone.
		return hasTerminal()
	}
	return false
}

// inForeground says that our process group has the keyboard of our controlling terminal.
func inForeground() bool {
	fd, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	pgrp, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err == nil && pgrp == unix.Getpgrp()
}

// stopWith stops the calling process as CMD, process pid, was stopped by sig.
func stopWith(pid int, sig syscall.Signal) {
	// When the terminal stopped all of us, the news may arrive after we have been resumed.
	if state, _, ok := readStat(pid); !ok || state != 'T' {
		return
	}
	// SIGTSTP and its like do nothing where there is no shell that could resume us. SIGSTOP would: it is
	// mirrored only under a terminal, where a shell waits.
	if sig == syscall.SIGSTOP && !hasTerminal() {
		return
	}
	_ = syscall.Kill(os.Getpid(), sig)
}

func hasTerminal() bool {
	fd, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}
