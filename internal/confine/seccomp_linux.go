package confine

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Verdicts of a filter (linux/seccomp.h).
const (
	retAllow = unix.SECCOMP_RET_ALLOW
	retEPERM = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	retKill  = unix.SECCOMP_RET_KILL_PROCESS
)

// auditArch is this architecture's number in a filter's input.
var auditArch = map[string]uint32{
	"amd64":   unix.AUDIT_ARCH_X86_64,
	"arm64":   unix.AUDIT_ARCH_AARCH64,
	"riscv64": unix.AUDIT_ARCH_RISCV64,
}[runtime.GOARCH]

// loadFilter puts the allow-list in force on all threads. no_new_privs must be set.
func loadFilter(kill bool) error {
	if auditArch == 0 {
		return fmt.Errorf("no rules for architecture %s", runtime.GOARCH)
	}
	deny := retEPERM
	// With the log flag, what is denied shows in the audit log: either the list lacks something or
	// somebody is in the process who should not be.
	flags := uintptr(unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_LOG)
	if kill {
		deny = retKill
	}
	raw, err := bpf.Assemble(assemble(auditArch, allowed(), deny))
	if err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(raw)), Filter: (*unix.SockFilter)(unsafe.Pointer(&raw[0]))}
	tid, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(raw)
	switch {
	case errno != 0:
		return errno
	case tid != 0:
		return fmt.Errorf("thread %d has a filter of its own", tid)
	}
	return nil
}
