package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// defaultPath is where execvp(3) of glibc looks when PATH is not set.
const defaultPath = "/bin:/usr/bin"

// lookPath finds the executable of CMD as execvp(3) does: a name with a slash is a path, any other is
// looked for in path. The error has the exit code a shell gives.
func lookPath(name, path string) (string, error) {
	if name == "" {
		return "", notFound(name, syscall.ENOENT)
	}
	if strings.Contains(name, "/") {
		return name, classify(name, executable(name))
	}
	if path == "" {
		path = defaultPath
	}
	var denied error
	for _, dir := range filepath.SplitList(path) {
		if dir == "" {
			dir = "."
		}
		p := dir + "/" + name
		err := executable(p)
		switch {
		case err == nil:
			return p, nil
		case errors.Is(err, syscall.EACCES) && denied == nil && exists(p):
			denied = classify(p, err)
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", &Error{ExitNotFound, fmt.Errorf("run %s: not found in PATH (%s)", name, path)}
}

func exists(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil
}

// executable says why path cannot be executed.
func executable(path string) error {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return errors.Unwrap(err)
	case st.IsDir():
		return syscall.EACCES
	}
	return unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS)
}

// classify gives the errors of stat and exec their exit codes.
func classify(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOENT) && exists(path):
		return &Error{ExitNotExecutable, fmt.Errorf("run %s: its interpreter is missing; look at its first line (#!)", path)}
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR):
		return notFound(path, err)
	case errors.Is(err, syscall.ENOEXEC):
		return &Error{ExitNotExecutable, fmt.Errorf("run %s: %w; a script needs a first line such as #!/bin/sh", path, err)}
	}
	return &Error{ExitNotExecutable, fmt.Errorf("run %s: %w", path, err)}
}

func notFound(path string, err error) error {
	return &Error{ExitNotFound, fmt.Errorf("run %q: %w", path, err)}
}

// startCommand runs CMD with descriptors 0, 1 and 2 only. As root of the namespace it gets all
// capabilities by exec, as any other user none.
func startCommand(path string, argv []string) (pid int, err error) {
	// Capabilities are a thread's; the child has those of the thread that forks.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := dropInheritableCaps(); err != nil {
		return 0, fmt.Errorf("drop capabilities: %w", err)
	}
	pid, err = syscall.ForkExec(path, argv, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		return 0, classify(path, err)
	}
	return pid, nil
}

// dropInheritableCaps undoes what brought init its capabilities across exec: without the ambient and
// inheritable sets only the rules of exec for uid 0 remain. The permitted set stays, init needs it.
// The bounding set stays too: programs with file capabilities (ping) could not be executed without it.
func dropInheritableCaps() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return err
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	return unix.Capset(&hdr, &data[0])
}
