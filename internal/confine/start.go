package confine

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// namespaces are the ones a confined process gets its own of.
const namespaces = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID

// Start starts exe in namespaces of its own, and without them on a host that refuses those. The
// process must call Enter first thing. attr is as for os.StartProcess; Sys gets what Start adds and
// keeps the rest. A Pdeathsig in it refers to the calling thread, so lock that thread for as
// long as the process lives.
func Start(exe string, argv []string, attr *os.ProcAttr) (*os.Process, error) {
	var keep syscall.SysProcAttr
	if attr.Sys != nil {
		keep = *attr.Sys
	}
	isolated := keep
	isolated.Cloneflags |= namespaces
	// Root inside, so that the exec keeps the capabilities with which Enter mounts. It is still
	// the caller outside, and there is nobody else in the namespace.
	isolated.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	isolated.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	with := *attr
	with.Sys = &isolated
	restore := dumpableForStart()
	p, err := os.StartProcess(exe, argv, &with)
	restore()
	if err == nil || !refused(err) {
		return p, err
	}
	with.Sys = &keep
	p, err2 := os.StartProcess(exe, argv, &with)
	if err2 != nil {
		return nil, fmt.Errorf("%w (and with namespaces of its own: %w)", err2, err)
	}
	return p, nil
}

// refused reports whether err may be the host's refusal of namespaces rather than of the program:
// switched off, over the limit, not built in, or denied by a security module at the clone
// or at the write of the uid map.
func refused(err error) bool {
	for _, e := range []error{syscall.EPERM, syscall.EACCES, syscall.ENOSPC, syscall.EUSERS, syscall.EINVAL, syscall.ENOSYS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
