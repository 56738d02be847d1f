package portfwd

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// conn is one of two TCP connections that are spliced: a socket in the runtime's poller, and no more. One that net makes
// costs a dozen system calls for options and addresses that nobody asks for here.
type conn struct {
	peer netip.AddrPort
	raw  syscall.RawConn
	file interface { // what raw belongs to
		SetWriteDeadline(t time.Time) error
		Close() error
	}
	home *maker // of which it is a socket; nil when it is none's
	// took and gave say that much has come by it and gone by it, so that its socket is not as good as new: its buffers have grown,
	// it may wait for many bytes (gathering), or be sent without pacing. Each is of the goroutine of that direction.
	took, gave bool
}

// connOf is c for splicing.
func connOf(c *net.TCPConn) (*conn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &conn{peer: clientOf(c), raw: raw, file: c}, nil
}

// newConn takes over a socket that does not block.
func newConn(fd int) (*conn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &conn{raw: raw, file: f}, nil
}

func (c *conn) Close() error { return c.file.Close() }

// reset closes c with a reset.
func (c *conn) reset() {
	// One that is gone needs none.
	_ = control(c.raw, func(fd int) error {
		return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
	_ = c.Close()
}

// closeWrite tells the peer the end of the stream.
func (c *conn) closeWrite() error {
	return control(c.raw, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) })
}

// isOver reports whether the kernel has nothing more to do for the connection.
func (c *conn) isOver() bool {
	over := false
	err := control(c.raw, func(fd int) (err error) {
		over, err = isOver(fd)
		return err
	})
	return over && err == nil
}

func isOver(fd int) (bool, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State == unix.BPF_TCP_CLOSE, err
}

// pendingError is the error of the socket fd, which it forgets.
func pendingError(fd int) error {
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && errno != 0 {
		err = syscall.Errno(errno)
	}
	return err
}

func control(rc syscall.RawConn, f func(fd int) error) (err error) {
	if cerr := rc.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}
