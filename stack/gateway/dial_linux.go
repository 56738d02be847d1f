package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
)

// # Dialling
//
// A connection to the outside is a descriptor and nothing else: net.Dialer and net.TCPConn would add seven system
// calls and 1.5 KiB to each, and their calls wake the runtime's monitor (see quiet_linux.go). A server
// on this host has answered when connect returns, which a second connect tells, so that nothing waits for it.
//
// A local port is chosen by connect and not by bind. bind does not know the destination: it takes a port that
// no other socket has, so 28 000 connections to one server would leave none for the others.

// outbound says how a connection leaves the host: by an address of it, an interface, or as the kernel chooses where
// they are zero.
type outbound struct {
	from    netip.Addr
	device  string
	lateACK bool          // the handshake's last ACK waits for data; see lateack_linux.go
	spares  *spareSockets // where there may be a socket to use again; nil: one is made
}

// dialHost connects to an address of the outside. The socket is non-blocking and the caller's. await is asked, where there is
// something to wait for, for what ends the wait.
func dialHost(await func() (context.Context, context.CancelFunc), by outbound, to netip.AddrPort) (fd int, err error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	family := uintptr(unix.AF_INET)
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd = by.spares.take()
	made := fd < 0
	if made {
		s, _, errno := unix.RawSyscall(unix.SYS_SOCKET, family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if errno != 0 {
			return -1, fmt.Errorf("dial %s: create socket: %w", to, errno)
		}
		fd = int(s)
	}
	if made && to.Addr().IsLoopback() {
		// One upload has 1.26 to 1.44 of the throughput, 4 have 1.18 to 1.29, 16 have 1.17 to 1.31, for 0.77 to 0.90 of the CPU per GB (medians
		// of three runs of 8 or 9 pairs in turns, each pair with fresh processes). All other destinations have what the host chose.
		sys.AvoidPacing(fd)
	}
	if by.lateACK {
		_ = setsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0) // or the ACK is prompt
	}
	if err = by.bind(fd); err == nil {
		err = connectSocket(await, fd, to)
	}
	if err == nil && made {
		err = setHostOptions(fd)
	}
	if err != nil {
		closeSocket(fd)
		return -1, fmt.Errorf("dial %s: %w", to, err)
	}
	return fd, nil
}

// connectSocket connects fd and waits until it is.
func connectSocket(await func() (context.Context, context.CancelFunc), fd int, to netip.AddrPort) error {
	var a sockaddr
	a.set(to)
	errno := a.call(unix.SYS_CONNECT, fd)
	if errno == unix.EINPROGRESS {
		errno = a.call(unix.SYS_CONNECT, fd)
	}
	switch errno {
	case 0, unix.EISCONN:
		return nil
	case unix.EALREADY, unix.EINPROGRESS, unix.EINTR:
		ctx, done := await()
		defer done()
		return awaitConnected(ctx, fd, &a)
	}
	return errno
}

// awaitConnected waits in the runtime's poller, for which os needs a descriptor of its own: it closes what it is
// given.
func awaitConnected(ctx context.Context, fd int, a *sockaddr) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(own), "dial")
	defer f.Close()
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { f.SetWriteDeadline(past) })()
	var errno syscall.Errno
	err = rc.Write(func(fd uintptr) bool {
		errno = a.call(unix.SYS_CONNECT, int(fd))
		return errno != unix.EALREADY && errno != unix.EINPROGRESS && errno != unix.EINTR
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	case errno != 0 && errno != unix.EISCONN:
		return errno
	}
	return nil
}

// setHostOptions: a relay has nothing to gain from Nagle's algorithm.
func setHostOptions(fd int) error {
	return errors.Join(inlineUrgent(fd), setsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
}

// keepSocketAlive has a connected socket look for a peer that vanished.
func keepSocketAlive(fd int) error {
	return errors.Join(
		setsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepaliveIdle.Seconds())),
		setsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepaliveInterval.Seconds())),
		setsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepaliveCount),
		setsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
	)
}

// bind makes bind take the address only (ip(7), Linux 4.2; the option is of IPv6 sockets too). Binding to a device needs
// no privilege since Linux 5.7.
func (by outbound) bind(fd int) error {
	if by.from.IsValid() {
		if err := setsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			return fmt.Errorf("bind to %s: %w", by.from, err)
		}
		var a sockaddr
		a.set(netip.AddrPortFrom(by.from, 0))
		if errno := a.call(unix.SYS_BIND, fd); errno != 0 {
			return fmt.Errorf("bind to %s: %w", by.from, errno)
		}
	}
	if by.device != "" {
		if err := unix.BindToDevice(fd, by.device); err != nil {
			return fmt.Errorf("bind to interface %s: %w", by.device, err)
		}
	}
	return nil
}

// sockaddr is a sockaddr_in or sockaddr_in6.
type sockaddr struct {
	b [unix.SizeofSockaddrInet6]byte
	n uintptr
}

func (a *sockaddr) set(to netip.AddrPort) {
	if to.Addr().Is4() {
		s := (*unix.RawSockaddrInet4)(unsafe.Pointer(&a.b))
		*s = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: to.Addr().As4()}
		a.n = unix.SizeofSockaddrInet4
	} else {
		s := (*unix.RawSockaddrInet6)(unsafe.Pointer(&a.b))
		*s = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: to.Addr().As16()}
		a.n = unix.SizeofSockaddrInet6
	}
	a.b[2], a.b[3] = byte(to.Port()>>8), byte(to.Port())
}

func (a *sockaddr) call(trap uintptr, fd int) syscall.Errno {
	_, _, errno := unix.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(&a.b)), a.n)
	return errno
}

// adopt takes over a connection as a bare socket.
func adopt(c *net.TCPConn) (fd int, err error) {
	defer c.Close()
	rc, err := c.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("take over connection: %w", err)
	}
	if cerr := rc.Control(func(s uintptr) { fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		return -1, fmt.Errorf("take over connection: %w", err)
	}
	if err := inlineUrgent(fd); err != nil {
		closeSocket(fd)
		return -1, fmt.Errorf("take over connection: %w", err)
	}
	return fd, nil
}
