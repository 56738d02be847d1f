package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// AvoidPacing has a TCP socket send by window alone. BBR, where a host has it as its default, sends by a timer at the rate that it
// believes the path has. Within the host there is no path, nothing is lost, and the timers only cost. A socket that has sent already goes
// on being paced in part, so this is best done before it connects. It is a system call of which the runtime is not told.
func AvoidPacing(fd int) {
	// Reno is in every kernel and free to all. Without it the connection is as good, and slower.
	name := [...]byte{'r', 'e', 'n', 'o'}
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, uintptr(unsafe.Pointer(&name)), unsafe.Sizeof(name), 0)
}
