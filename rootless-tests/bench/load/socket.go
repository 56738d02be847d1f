package load

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// chunk is what a stream reads and writes at once: iperf3's default, and small enough for the L2 cache.
	chunk = 128 << 10
	// ioTimeout is how long a path may be silent before the measurement is given up: longer than the
	// retransmissions that a full queue causes, shorter than a person's patience.
	ioTimeout = 5 * time.Second
	// backlog takes what a few hundred clients can have in flight; the kernel caps it at somaxconn.
	backlog = 1024
)

// errTimeout is what the kernel calls EAGAIN, and EINPROGRESS for a connection.
var errTimeout = errors.New("no progress, timed out")

// socket is a blocking socket of IPv4.
type socket int

func open(kind int) (socket, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	s := socket(fd)
	return s, s.prepare(kind == unix.SOCK_STREAM)
}

// prepare sets what a connected socket needs. Nagle's algorithm off: a round trip is one byte, and must not wait.
func (s socket) prepare(stream bool) error {
	if err := s.setPatience(ioTimeout); err != nil {
		return err
	}
	if !stream {
		return nil
	}
	if err := unix.SetsockoptInt(int(s), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return fmt.Errorf("set TCP_NODELAY: %w", err)
	}
	return nil
}

func sockaddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

func dial(kind int, to netip.AddrPort) (socket, error) {
	s, err := open(kind)
	if err != nil {
		return -1, err
	}
	if err := retry(func() error { return unix.Connect(int(s), sockaddr(to)) }); err != nil {
		s.close()
		return -1, fmt.Errorf("connect to %v: %w", to, err)
	}
	return s, nil
}

// listen binds a socket of kind to port on every address of the host; 0 is a free one.
func listen(kind int, port uint16) (socket, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	s := socket(fd)
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(port)})
	}
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		s.close()
		return -1, fmt.Errorf("listen on port %d: %w", port, err)
	}
	return s, nil
}

// port is the local one.
func (s socket) port() (uint16, error) {
	sa, err := unix.Getsockname(int(s))
	if err != nil {
		return 0, fmt.Errorf("read socket name: %w", err)
	}
	in, ok := sa.(*unix.SockaddrInet4)
	if !ok {
		return 0, errors.New("read socket name: not IPv4")
	}
	return uint16(in.Port), nil
}

func (s socket) accept() (c socket, err error) {
	err = retry(func() error {
		fd, _, err := unix.Accept4(int(s), unix.SOCK_CLOEXEC)
		c = socket(fd)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("accept connection: %w", err)
	}
	if err := c.prepare(true); err != nil {
		c.close()
		return -1, err
	}
	return c, nil
}

// read returns 0 and no error at the end of a stream.
func (s socket) read(b []byte) (int, error) {
	return s.quietly(func() (uintptr, uintptr, unix.Errno) {
		return unix.RawSyscall(unix.SYS_READ, uintptr(s), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	})
}

func (s socket) write(b []byte) error {
	for len(b) > 0 {
		n, err := s.quietly(func() (uintptr, uintptr, unix.Errno) {
			return unix.RawSyscall(unix.SYS_WRITE, uintptr(s), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		})
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// echo returns one datagram to its sender.
func (s socket) echo(buf []byte) error {
	var from unix.RawSockaddrInet4
	size := uint32(unix.SizeofSockaddrInet4)
	n, err := s.quietly(func() (uintptr, uintptr, unix.Errno) {
		return unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s), uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)), 0,
			uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&size)))
	})
	if err != nil {
		return err
	}
	_, err = s.quietly(func() (uintptr, uintptr, unix.Errno) {
		return unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s), uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(n), 0,
			uintptr(unsafe.Pointer(&from)), unix.SizeofSockaddrInet4)
	})
	return err
}

// quietly makes a system call without telling the Go runtime that it may wait, and again while signals interrupt it. What is told, the runtime's
// monitor looks after: it comes thousands of times a second to see whether another goroutine wants the turn of one
// that has made calls for 10 ms, and it is first whenever a CPU wakes up. Untold, it sleeps for 10 ms at a time, and an end behaves as a
// program in C does. Others cannot have its turn meanwhile, so there are more of them than threads (processors).
func (s socket) quietly(call func() (uintptr, uintptr, unix.Errno)) (int, error) {
	var interrupted time.Time
	for {
		n, _, errno := call()
		switch {
		case errno == 0:
			return int(n), nil
		case errno == unix.EAGAIN:
			return 0, errTimeout
		case errno != unix.EINTR:
			return 0, errno
		case interrupted.IsZero():
			interrupted = time.Now()
		case time.Since(interrupted) > s.patience():
			return 0, errTimeout
		}
	}
}

// setPatience is how long a call may wait.
func (s socket) setPatience(d time.Duration) error {
	tv := unix.NsecToTimeval(int64(d))
	for _, opt := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(int(s), unix.SOL_SOCKET, opt, &tv); err != nil {
			return fmt.Errorf("set socket timeout: %w", err)
		}
	}
	return nil
}

// patience is the kernel's with this socket. It begins anew with every call.
func (s socket) patience() time.Duration {
	tv, err := unix.GetsockoptTimeval(int(s), unix.SOL_SOCKET, unix.SO_RCVTIMEO)
	if err != nil {
		return 0
	}
	return time.Duration(tv.Nano())
}

func (s socket) readFull(b []byte) error {
	for len(b) > 0 {
		n, err := s.read(b)
		if err != nil {
			return err
		}
		if n == 0 {
			return errors.New("connection closed by peer")
		}
		b = b[n:]
	}
	return nil
}

func (s socket) close() { _ = unix.Close(int(s)) }

// reset closes a connection and forgets what is queued: what a slow path still had to carry would be measured
// with whatever comes next.
func (s socket) reset() {
	_ = unix.SetsockoptLinger(int(s), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	s.close()
}

// retry repeats f while signals interrupt it, as the Go runtime's own do. A timeout becomes errTimeout.
func retry(f func() error) error {
	for {
		switch err := f(); err {
		case unix.EINTR:
		case unix.EAGAIN, unix.EINPROGRESS:
			return errTimeout
		default:
			return err
		}
	}
}
