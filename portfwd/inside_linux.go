package portfwd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
)

// Connections from inside a container's network namespace.
//
// # Theory of operation
//
// A socket belongs for ever to the network namespace it was made in, whoever holds it. The datapath cannot enter the
// container's, but can be given sockets of it. Two unconnected TCP sockets, a listener and a caller, are enough to make as
// many more as are needed, because accept(2) makes a socket in the namespace of the listener, and
// connect(2) to AF_UNSPEC makes a connected or listening socket a fresh one:
//
//	listener: listen            on a port the kernel picks
//	caller:   connect           to it, over the container's lo
//	listener: accept            ──► a new socket
//	all three: connect AF_UNSPEC    nothing listens, nothing is connected, the port is free again
//	new:      connect           to the published port
//
// This takes about 40 µs, and nobody outside the datapath is asked. The kernel picks the source address of the last step: it
// is the container's own, since that is where the connection goes to.
//
// A socket whose connection has ended in order becomes a fresh one by the same call, and is kept as a spare for the next
// connection (spare_linux.go): a service that is called again and again costs no more than connect(2).
//
// # Trust
//
// The two sockets were made by a process in the container, and what runs there may have replaced them or hold them too. So
// they are checked to be what they are said to be, nothing is ever sent through them, and a step that fails or takes
// too long ends their use for good; the connections then go through the gateway. The new socket is made here and nobody
// else has it.

// insidePatience bounds the wait for a connection that the kernel makes within one system call unless
// the container interferes, or the machine is very busy.
const insidePatience = 5 * time.Second

// dialInsideTimeout is how long a service may take to accept, as through the gateway.
const dialInsideTimeout = 10 * time.Second

// errNotInside says that there is no way to connect from inside.
var errNotInside = errors.New("no sockets of the container are at hand")

// Inside connects to services of a container from inside its network namespace. Without sockets it refuses. It is safe
// for concurrent use.
type Inside struct {
	mu     sync.Mutex // a leaf; guards what follows
	makers [2]*maker  // for IPv4 and IPv6
	closed bool

	patience time.Duration // 0 means insidePatience
}

// maker makes sockets of one family from two given ones.
type maker struct {
	mu       sync.Mutex // held while a socket is made: one at a time
	listener *os.File
	caller   *os.File // nil until it has come
	patience time.Duration
	off      bool // a step has failed

	closed bool // guarded by spares.mu; it has no spares any more
}

// Add takes over a TCP socket of the container's namespace and closes it on an error. Two of a family
// make connections possible; more are refused.
func (in *Inside) Add(f *os.File) error {
	v6, err := checkSocket(f)
	if err == nil {
		err = in.add(f, v6)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("take a socket of the container: %w", err)
	}
	return nil
}

func (in *Inside) add(f *os.File, v6 bool) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	m := &in.makers[0]
	if v6 {
		m = &in.makers[1]
	}
	switch {
	case in.closed:
		return net.ErrClosed
	case *m == nil:
		*m = &maker{listener: f, patience: cmp.Or(in.patience, insidePatience)}
	case (*m).caller == nil:
		// A maker without a caller is used by nobody.
		(*m).caller = f
	default:
		return errors.New("there are two of its family already")
	}
	return nil
}

// checkSocket makes sure that f is a TCP socket that does not block, and is neither connected nor listening. A datapath that was
// killed may have left it either.
func checkSocket(f *os.File) (v6 bool, err error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return false, err
	}
	cerr := rc.Control(func(fd uintptr) { v6, err = checkSocketFD(int(fd)) })
	return v6, errors.Join(cerr, err)
}

func checkSocketFD(fd int) (v6 bool, err error) {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return false, err
	}
	if family != unix.AF_INET && family != unix.AF_INET6 {
		return false, fmt.Errorf("its family is %d", family)
	}
	for _, o := range []struct {
		option, want int
		what         string
	}{
		{unix.SO_TYPE, unix.SOCK_STREAM, "type"}, {unix.SO_PROTOCOL, unix.IPPROTO_TCP, "protocol"},
	} {
		if v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, o.option); err != nil || v != o.want {
			return false, errors.Join(fmt.Errorf("its %s is %d, want %d", o.what, v, o.want), err)
		}
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK == 0 {
		return false, errors.Join(errors.New("it blocks"), err)
	}
	return family == unix.AF_INET6, sys.Disconnect(fd)
}

// Dial connects to an address of the container. errNotInside and a refusal say that another way may be tried.
func (in *Inside) Dial(ctx context.Context, to netip.AddrPort) (*conn, error) {
	if in == nil {
		return nil, errNotInside
	}
	in.mu.Lock()
	m := in.makers[0]
	if to.Addr().Is6() {
		m = in.makers[1]
	}
	ready := !in.closed && m != nil && m.caller != nil
	in.mu.Unlock()
	if !ready {
		return nil, errNotInside
	}
	c := spares.take(m)
	if c == nil {
		var err error
		if c, err = m.make(to.Addr().Is6()); err != nil {
			return nil, err
		}
	}
	if err := c.connect(ctx, to); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// closeAtOnce has close(2) of fd wait for nobody. A socket gets SO_LINGER from its listener, where a container may have set it, and
// close then waits for what was sent to be read, on a thread and with locks held.
func closeAtOnce(fd int) error {
	return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{})
}

// make makes a socket like the two of m.
func (m *maker) make(v6 bool) (*conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.off {
		return nil, errNotInside
	}
	fd, err := m.mint(v6)
	if err != nil && !exhausted(err) {
		m.off = true
	}
	var c *conn
	if err == nil {
		c, err = newConn(fd)
	}
	if err != nil {
		return nil, fmt.Errorf("make a socket of the container: %w", err)
	}
	c.home = m
	return c, nil
}

// exhausted reports whether err will pass.
func exhausted(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (m *maker) mint(v6 bool) (fd int, err error) {
	lrc, err := m.listener.SyscallConn()
	if err != nil {
		return -1, err
	}
	crc, err := m.caller.SyscallConn()
	if err != nil {
		return -1, err
	}
	defer func() {
		derr := errors.Join(control(lrc, sys.Disconnect), control(crc, sys.Disconnect))
		if fd >= 0 {
			derr = errors.Join(derr, refresh(fd), sys.InlineUrgent(fd), closeAtOnce(fd))
		}
		if derr != nil && fd >= 0 {
			unix.Close(fd)
			fd = -1
		}
		err = errors.Join(err, derr)
	}()
	var port uint16
	if err := control(lrc, func(fd int) (err error) {
		if err = unix.Listen(fd, 1); err == nil {
			port, err = boundPort(fd)
		}
		return err
	}); err != nil {
		return -1, err
	}
	at := loopback4
	if v6 {
		at = netip.IPv6Loopback()
	}
	err = control(crc, func(fd int) error { return unix.Connect(fd, sockaddr(netip.AddrPortFrom(at, port))) })
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return -1, err
	}
	return m.accept(lrc)
}

// accept takes the connection that is on its way.
func (m *maker) accept(rc syscall.RawConn) (fd int, err error) {
	if err := m.listener.SetReadDeadline(time.Now().Add(m.patience)); err != nil {
		return -1, err
	}
	fd = -1
	rerr := rc.Read(func(s uintptr) bool {
		fd, _, err = unix.Accept4(int(s), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		return err != unix.EAGAIN && err != unix.EINTR && err != unix.ECONNABORTED
	})
	if rerr != nil {
		return -1, rerr
	}
	return fd, err
}

// connect connects c, a fresh socket.
func (c *conn) connect(ctx context.Context, to netip.AddrPort) error {
	c.peer = to
	sa := sockaddr(to)
	err := control(c.raw, func(fd int) error {
		err := unix.Connect(fd, sa)
		if errors.Is(err, unix.EINPROGRESS) {
			// Within one kernel it is done by now, unless the service's queue is full. To ask for it again tells.
			err = unix.Connect(fd, sa)
		}
		return err
	})
	if errors.Is(err, unix.EALREADY) {
		err = c.waitConnected(ctx, sa)
	}
	return errors.Join(err, ctx.Err())
}

// waitConnected waits until the service's side has accepted or refused, ctx ends, or it takes too long.
func (c *conn) waitConnected(ctx context.Context, to unix.Sockaddr) error {
	if err := c.file.SetWriteDeadline(time.Now().Add(dialInsideTimeout)); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = c.file.SetWriteDeadline(time.Unix(1, 0)) })()
	var failed error
	err := c.raw.Write(func(fd uintptr) bool {
		failed = unix.Connect(int(fd), to)
		return !errors.Is(failed, unix.EALREADY)
	})
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	return c.file.SetWriteDeadline(time.Time{})
}

// Close ends the use of the sockets. Connections that were made go on. It is idempotent.
func (in *Inside) Close() error {
	in.mu.Lock()
	makers := in.makers
	in.makers, in.closed = [2]*maker{}, true
	in.mu.Unlock()
	var errs []error
	for _, m := range makers {
		if m != nil {
			errs = append(errs, m.close())
		}
	}
	return errors.Join(errs...)
}

// close also ends a wait that the container has made a blocking one.
func (m *maker) close() error {
	errs := []error{spares.end(m)}
	for _, f := range []*os.File{m.listener, m.caller} {
		if f == nil {
			continue
		}
		if rc, err := f.SyscallConn(); err == nil {
			_ = control(rc, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) })
		}
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
