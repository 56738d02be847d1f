package rig

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// exchange returns a net.Dialer.Control that puts a socket of the node in the place of the one that package
// net has just made. net registers it with the poller only after it is bound or connected, and so never sees
// the difference.
func (n *Node) exchange(options func(fd int) error) func(network, address string, c syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) error {
		domain, typ := unix.AF_INET, unix.SOCK_STREAM
		if strings.HasSuffix(network, "6") {
			domain = unix.AF_INET6
		}
		if strings.HasPrefix(network, "udp") {
			typ = unix.SOCK_DGRAM
		}
		f, err := n.Socket(domain, typ, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := setDefaults(f, domain, typ); err != nil {
			return fmt.Errorf("set socket options: %w", err)
		}
		if options != nil {
			if err := onFD(f, options); err != nil {
				return err
			}
		}
		var derr error
		if err := c.Control(func(to uintptr) {
			derr = onFD(f, func(from int) error { return unix.Dup3(from, int(to), unix.O_CLOEXEC) })
		}); err != nil {
			return err
		}
		return derr
	}
}

// setDefaults sets what package net set on the socket that is exchanged.
func setDefaults(f *os.File, domain, typ int) error {
	return onFD(f, func(fd int) error {
		if domain == unix.AF_INET6 {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
				return err
			}
		}
		if typ == unix.SOCK_DGRAM {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
		}
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	})
}

func onFD(f *os.File, do func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var derr error
	if err := rc.Control(func(fd uintptr) { derr = do(int(fd)) }); err != nil {
		return err
	}
	return derr
}

// family is network with the digit of the address's family.
func family(network string, a netip.Addr) string {
	if a.Is4() {
		return network + "4"
	}
	return network + "6"
}

// DialFrom is Dial with a local address, whose zero value leaves the choice to the kernel, and socket options,
// which may be nil.
func (n *Node) DialFrom(ctx context.Context, network string, from, to netip.AddrPort, options func(fd int) error) (net.Conn, error) {
	network = family(network, to.Addr())
	d := net.Dialer{Control: n.exchange(options), FallbackDelay: -1, KeepAlive: -1}
	d.SetMultipathTCP(false)
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(from)
		if strings.HasPrefix(network, "udp") {
			d.LocalAddr = net.UDPAddrFromAddrPort(from)
		}
	}
	return d.DialContext(ctx, network, to.String())
}

// Dial connects from the node; network is tcp or udp. The error is that of net.Dialer.
func (n *Node) Dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	return n.DialFrom(ctx, network, netip.AddrPort{}, to, nil)
}

// DialTCP makes a TCP connection that must come about. It is closed with the test.
func (n *Node) DialTCP(t testing.TB, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	c, err := n.Dial(ctx, "tcp", to)
	if err != nil {
		t.Fatalf("%s: %v", n.Name, err)
	}
	t.Cleanup(func() { c.Close() })
	return bounded(t, c).(*net.TCPConn)
}

// DialUDP makes a connected UDP socket. It is closed with the test.
func (n *Node) DialUDP(t testing.TB, to netip.AddrPort) *net.UDPConn {
	t.Helper()
	c, err := n.Dial(t.Context(), "udp", to)
	if err != nil {
		t.Fatalf("%s: %v", n.Name, err)
	}
	t.Cleanup(func() { c.Close() })
	return bounded(t, c).(*net.UDPConn)
}

// ListenTCP listens in the node at an address, whose port may be 0. It is closed with the test.
func (n *Node) ListenTCP(t testing.TB, at netip.AddrPort) *net.TCPListener {
	t.Helper()
	lc := net.ListenConfig{Control: n.exchange(nil), KeepAlive: -1}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), family("tcp", at.Addr()), at.String())
	if err != nil {
		t.Fatalf("%s: %v", n.Name, err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// ListenUDP binds an unconnected UDP socket in the node. It is closed with the test.
func (n *Node) ListenUDP(t testing.TB, at netip.AddrPort) *net.UDPConn {
	t.Helper()
	lc := net.ListenConfig{Control: n.exchange(nil)}
	c, err := lc.ListenPacket(t.Context(), family("udp", at.Addr()), at.String())
	if err != nil {
		t.Fatalf("%s: %v", n.Name, err)
	}
	t.Cleanup(func() { c.Close() })
	return bounded(t, c.(*net.UDPConn)).(*net.UDPConn)
}

// Patience is how long a test waits for what should take milliseconds.
const Patience = 20 * time.Second

// bounded gives a connection a deadline, so that a test that waits for what never comes fails with its own
// message. A test that needs another one sets it.
func bounded(t testing.TB, c net.Conn) net.Conn {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(Patience)); err != nil {
		t.Fatal(err)
	}
	return c
}
