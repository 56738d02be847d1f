package gateway

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// # Quiet calls
//
// An ordinary system call of Go tells the scheduler. If the process was idle before, that wakes the
// runtime's monitor thread, which then looks at the scheduler every 20 µs until the process is idle
// again: two or three more switches of thread in each round trip, on the CPU that the client or the
// server wants. A call on a non-blocking socket is work and not waiting, so telling is of no use: with
// quiet ones a round trip takes 27 to 40 µs of CPU and 0.8 switches instead of 47 and 1.5 (2 CPUs).
//
// But the monitor also is what takes the CPU from a goroutine that never waits, and what looks at the
// network while everybody is busy. So only small transfers are quiet: a flow that is busy moves more at a
// time, and its calls wake the monitor as ever.

// quietBytes is the most that is moved quietly. A request or an answer is smaller; and copying more takes longer
// than what is saved.
const quietBytes = 4 << 10

// queued is the number of bytes that can be read (tcp(7), SIOCINQ).
func queued(fd int) (int, error) {
	var n int32
	if _, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCINQ, uintptr(unsafe.Pointer(&n))); errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// receive is recv(2) without waiting. b must not be empty.
func receive(fd int, b []byte, flags int) (int, error) {
	p, n := unsafe.SliceData(b), uintptr(len(b))
	flags |= unix.MSG_DONTWAIT
	var errno syscall.Errno
	if n <= quietBytes {
		n, _, errno = unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(p)), n, uintptr(flags), 0, 0)
	} else {
		n, _, errno = unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(p)), n, uintptr(flags), 0, 0)
	}
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// writeQuietly writes what is gathered if it is one small part and there is room for all of it. Otherwise
// parts is what is still to be written: the ordinary way waits for room, and says what is wrong.
func (g *gather) writeQuietly(rc syscall.RawConn) (all bool) {
	if len(g.parts) != 1 || g.n > quietBytes {
		return false
	}
	g.sent = 0
	if rc.Control(g.quiet) != nil {
		return false
	}
	g.parts[0] = g.parts[0][g.sent:]
	return len(g.parts[0]) == 0
}

func (g *gather) sendQuietly(fd uintptr) {
	b := g.parts[0]
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	if errno == 0 {
		g.sent = int(n)
	}
}
