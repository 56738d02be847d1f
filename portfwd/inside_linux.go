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
