package gateway

import (
	"errors"
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
// network while everybody is busy. So only small transfers are quiet, and what sets a connection up and ends it: a flow
// that is busy moves more at a time, and its calls wake the monitor as ever.

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

// vectors are the memory of one sendmsg.
type vectors struct {
	iov [64]unix.Iovec
	hdr unix.Msghdr
}

// errNoRoom says that a socket takes nothing now.
var errNoRoom = errors.New("the socket is full")

// send gives the socket what is gathered and returns how much of it was taken, errNoRoom if nothing.
func (g *gather) send(fd int) (int, error) {
	for i, b := range g.parts {
		g.iov[i].Base = unsafe.SliceData(b)
		g.iov[i].SetLen(len(b))
	}
	g.hdr = unix.Msghdr{Iov: &g.iov[0]}
	g.hdr.SetIovlen(len(g.parts))
	defer clear(g.iov[:len(g.parts)])
	const flags = unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	for {
		var n uintptr
		var errno syscall.Errno
		switch {
		case g.n > quietBytes:
			n, _, errno = unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&g.hdr)), flags)
		case len(g.parts) == 1:
			n, _, errno = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(g.iov[0].Base)), uintptr(g.n), flags, 0, 0)
		default:
			n, _, errno = unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&g.hdr)), flags)
		}
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, errNoRoom
		default:
			return 0, errno
		}
	}
}

func quietly(trap uintptr, fd int, a, b uintptr) error {
	if _, _, errno := unix.RawSyscall(trap, uintptr(fd), a, b); errno != 0 {
		return errno
	}
	return nil
}

// shutdownWrite sends FIN.
func shutdownWrite(fd int) error { return quietly(unix.SYS_SHUTDOWN, fd, unix.SHUT_WR, 0) }

// closeSocket closes a socket; what is still to be sent is sent.
func closeSocket(fd int) { _ = quietly(unix.SYS_CLOSE, fd, 0, 0) }

// resetSocket closes a socket with RST.
func resetSocket(fd int) {
	l := unix.Linger{Onoff: 1}
	_ = setsockopt(fd, unix.SOL_SOCKET, unix.SO_LINGER, unsafe.Pointer(&l), unsafe.Sizeof(l))
	closeSocket(fd)
}

func setsockopt(fd, level, name int, value unsafe.Pointer, size uintptr) error {
	if _, _, errno := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(value), size, 0); errno != 0 {
		return errno
	}
	return nil
}

func setsockoptInt(fd, level, name, value int) error {
	v := int32(value)
	return setsockopt(fd, level, name, unsafe.Pointer(&v), unsafe.Sizeof(v))
}

// inlineUrgent makes urgent bytes part of the stream (RFC 6093 §6), so that SIOCINQ counts them and what follows them. It
// must be on before the first comes: the kernel drops one that the next overtakes.
func inlineUrgent(fd int) error { return setsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) }
