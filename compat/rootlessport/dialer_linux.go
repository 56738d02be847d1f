package rootlessport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
)

// dialTimeout is for a container whose queue of connections is full.
const dialTimeout = 10 * time.Second

// socket makes a socket inside, for a client and a port of the container; who looks at the client's address there finds
// from, or the container's own address where from is the same. release is to be called when the socket is closed.
func (in *inside) socket(kind int, from, to netip.AddrPort) (fd int, release func(), err error) {
	keep := from.Addr() != to.Addr() && !to.Addr().IsLoopback() && in.claim(from.Addr())
	release = func() {}
	if keep {
		release = sync.OnceFunc(func() { in.release(from.Addr()) })
	}
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	in.do(func() {
		fd, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	})
	if err == nil {
		if kind == unix.SOCK_STREAM {
			err = sys.InlineUrgent(fd)
		}
		if err == nil && keep {
			err = bindAs(fd, from)
		}
		if err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		release()
		return -1, nil, fmt.Errorf("open socket in the container: %w", err)
	}
	return fd, release, nil
}

// bindAs binds to an address that is not of the namespace, and to another port where that one is taken.
func bindAs(fd int, from netip.AddrPort) error {
	var err error
	if from.Addr().Is4() {
		err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
	} else {
		err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
	}
	if err != nil {
		return err
	}
	// The client has one port for many servers.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	err = unix.Bind(fd, sockaddr(from))
	if errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EACCES) {
		err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(from.Addr(), 0)))
	}
	return err
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// Forward implements portfwd.Dialer.
func (in *inside) Forward(ctx context.Context, client *net.TCPConn, from, to netip.AddrPort) error {
	defer client.Close()
	server, release, err := in.dial(ctx, from, to)
	if err != nil {
		_ = client.SetLinger(0) // refused is refused
		return fmt.Errorf("connect to %s in the container: %w", to, err)
	}
	defer release()
	defer server.Close()
	relay(ctx, client, server)
	return ctx.Err()
}

// dial opens a connection inside; release is to be called when it is closed. A client may have two connections from one
// port, to two addresses of the host that lead to one port of the container: the second has another port then.
func (in *inside) dial(ctx context.Context, from, to netip.AddrPort) (c *net.TCPConn, release func(), err error) {
	for _, port := range []uint16{from.Port(), 0} {
		var fd int
		fd, release, err = in.socket(unix.SOCK_STREAM, netip.AddrPortFrom(from.Addr(), port), to)
		if err != nil {
			return nil, nil, err
		}
		if c, err = connect(ctx, fd, to); err == nil {
			return c, release, nil
		}
		release()
		if !errors.Is(err, unix.EADDRNOTAVAIL) {
			break
		}
	}
	return nil, nil, err
}

// connect connects a non-blocking socket, which it takes over.
func connect(ctx context.Context, fd int, to netip.AddrPort) (*net.TCPConn, error) {
	f := os.NewFile(uintptr(fd), "connection to "+to.String())
	defer f.Close()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := unix.Connect(fd, sockaddr(to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return nil, err
	}
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })()
	var failed error
	err = rc.Write(func(fd uintptr) (done bool) {
		e, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			failed = err
		case e != 0:
			failed = syscall.Errno(e)
		default:
			_, err := unix.Getpeername(int(fd))
			return err == nil // not yet connected otherwise
		}
		return true
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, err
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// relay carries both directions until both are done, or one fails, or ctx ends; the latter two reset both ends. Between
// two TCP sockets io.Copy is splice(2).
func relay(ctx context.Context, a, b *net.TCPConn) {
	reset := func() {
		for _, c := range []*net.TCPConn{a, b} {
			_ = c.SetLinger(0)
			_ = c.Close()
		}
	}
	defer context.AfterFunc(ctx, reset)()
	half := func(dst, src *net.TCPConn) {
		if _, err := io.Copy(dst, src); err != nil || dst.CloseWrite() != nil {
			reset()
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { half(a, b) })
	half(b, a)
	wg.Wait()
}
