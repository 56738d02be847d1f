package gateway

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// until is a dial's wait that ends with ctx.
func until(ctx context.Context) func() (context.Context, context.CancelFunc) {
	return func() (context.Context, context.CancelFunc) { return context.WithCancel(ctx) }
}

// TestDialHost: connections come from the address that was asked for, their port was left to connect, and nothing paces them on loopback.
func TestDialHost(t *testing.T) {
	for _, row := range []struct{ listen, from string }{
		{"127.0.0.1:0", ""}, {"127.0.0.1:0", "127.0.0.2"}, {"[::1]:0", ""}, {"[::1]:0", "::1"},
	} {
		l, err := net.Listen("tcp", row.listen)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		from := netip.Addr{}
		if row.from != "" {
			from = netip.MustParseAddr(row.from)
		}
		fd, err := dialHost(until(t.Context()), outbound{from: from}, l.Addr().(*net.TCPAddr).AddrPort())
		if err != nil {
			t.Fatalf("dial %s from %q: %v", row.listen, row.from, err)
		}
		defer closeSocket(fd)
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); from.IsValid() && got != from {
			t.Errorf("connection comes from %v, want %v", got, from)
		}
		v, err := unix.GetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT)
		if want := from.IsValid(); err != nil || (v != 0) != want {
			t.Errorf("dial from %q: IP_BIND_ADDRESS_NO_PORT is %d, %v; want %v", row.from, v, err, want)
		}
		if name, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION); err != nil || name != "reno" {
			t.Errorf("dial %s: congestion control is %q, %v; want reno", row.listen, name, err)
		}
	}
}

// rawListener is a listener that does not block, with room for queue connections and one more.
func rawListener(t *testing.T, queue int) (fd int, at netip.AddrPort) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, queue); err != nil {
		t.Fatal(err)
	}
	a, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fd, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(a.(*unix.SockaddrInet4).Port))
}

// fullListener is a listener whose queue is full: whoever dials it waits.
func fullListener(t *testing.T) (fd int, to netip.AddrPort) {
	t.Helper()
	fd, to = rawListener(t, 0)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 16 {
		c, err := dialHost(until(ended), outbound{}, to)
		if errors.Is(err, context.Canceled) {
			return fd, to
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeSocket(c) })
	}
	t.Fatal("the queue of a listener does not get full")
	return 0, to
}

// TestDialWaits: a connection that is not there at once is waited for, and no longer than its context.
func TestDialWaits(t *testing.T) {
	t.Parallel()
	l, to := fullListener(t)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() {
		_, err := dialHost(until(ctx), outbound{}, to)
		got <- err
	}()
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("dial that is cancelled: %v", err)
	}
	go func() {
		fd, err := dialHost(until(t.Context()), outbound{}, to)
		if err == nil {
			closeSocket(fd)
		}
		got <- err
	}()
	for {
		select {
		case err := <-got: // the SYN is sent again after a second
			if err != nil {
				t.Errorf("dial: %v", err)
			}
			return
		default:
			if c, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC); err == nil {
				unix.Close(c)
			} else if _, err := unix.Poll([]unix.PollFd{{Fd: int32(l), Events: unix.POLLIN}}, 10); err != nil && err != unix.EINTR {
				t.Fatal(err)
			}
		}
	}
}

// TestDialRefused: what the host's kernel says is what the caller gets.
func TestDialRefused(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	to := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	if _, err := dialHost(until(t.Context()), outbound{}, to); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("dial a closed port: %v, want refused", err)
	}
	if _, err := dialHost(until(t.Context()), outbound{device: "no-such-device"}, to); !errors.Is(err, unix.ENODEV) {
		t.Errorf("dial by an interface that is not there: %v", err)
	}
}
