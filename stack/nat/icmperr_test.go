package nat

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
)

// wantError checks an ICMP error and that it quotes a datagram as the container sent it.
func wantError(t *testing.T, g got, kind ip.ErrorKind, from, src, dst string) {
	t.Helper()
	if g.err.Kind != kind || g.src.Addr().String() != from || g.err.Src.String() != src || g.err.Dst.String() != dst {
		t.Errorf("got %v from %v about %v to %v; want %v from %s about %s to %s",
			g.err.Kind, g.src.Addr(), g.err.Src, g.err.Dst, kind, from, src, dst)
	}
}

// unusedPort is a port of addr nobody listens on.
func unusedPort(t *testing.T, addr string) uint16 {
	s := listen(t, addr)
	defer s.Close()
	return s.port()
}

// NAT-11: port unreachable comes from where the datagram went, and names the sender.
func TestUDPPortUnreachable(t *testing.T) {
	for _, row := range []struct{ from, closed, to, offender string }{
		{a1, "203.0.113.1:0", "203.0.113.1:%d", "203.0.113.1"},
		{a1, "127.0.0.1:0", "10.0.2.2:%d", "10.0.2.2"}, // the host's loopback shows as the gateway
		{b6, "[2001:db8:113::1]:0", "[2001:db8:113::1]:%d", "2001:db8:113::1"},
		{b6, "[::1]:0", "[fd00::2]:%d", "fd00::2"},
	} {
		l := newLink(t)
		u := startUDP(t, l, testNetwork())
		to := fmt.Sprintf(row.to, unusedPort(t, row.closed))
		for _, size := range []int{0, 1, 100, 5000} {
			u.input(t, datagram{from: row.from, to: to, payload: pattern(size), ttl: 64})
			g := l.next()
			wantError(t, g, ip.PortUnreachable, row.offender, row.from, to)
			inner := g.payload[8:]
			if length := quotedLength(inner); length != size+8 {
				t.Errorf("%s, %d bytes: the quoted datagram is %d long", to, size, length-8)
			}
			if size > 0 && !bytes.HasPrefix(pattern(size), quotedPayload(inner)) {
				t.Errorf("%s, %d bytes: the quote has another payload", to, size)
			}
		}
	}
}

// quotedLength is the length field of the UDP header in a quote.
func quotedLength(inner []byte) int { return int(binary.BigEndian.Uint16(transport(inner)[4:])) }

func quotedPayload(inner []byte) []byte { return transport(inner)[8:] }

func transport(inner []byte) []byte {
	if inner[0]>>4 == 6 {
		return inner[ip.HeaderLen6:]
	}
	return inner[ip.HeaderLen4:]
}

// An error goes to the flow whose datagram it is about, and to no other.
func TestUDPErrorsOfTheRightFlow(t *testing.T) {
	l := newLink(t)
	u := startUDP(t, l, testNetwork())
	good := listen(t, "203.0.113.1:0").echo()
	bad := fmt.Sprintf("203.0.113.1:%d", unusedPort(t, "203.0.113.1:0"))
	for i := range 20 {
		u.Input(datagram{from: a1, to: bad, payload: []byte{byte(i)}}.packet(t))
		u.Input(datagram{from: a2, to: good.addr().String(), payload: []byte{byte(i)}}.packet(t))
		u.Flush()
		for range 2 {
			if g := l.next(); g.proto == ip.UDP {
				if g.dst.String() != a2 || g.payload[0] != byte(i) {
					t.Errorf("reply %+v", g)
				}
			} else {
				wantError(t, g, ip.PortUnreachable, "203.0.113.1", a1, bad)
			}
		}
	}
}

// NAT-12: errors end nothing. The flow keeps its outside port and goes on; none of its datagrams is
// lost to the error of an earlier one.
func TestUDPErrorsDoNotEndFlows(t *testing.T) {
	l := newLink(t)
	u := startUDP(t, l, testNetwork())
	s := listen(t, "203.0.113.1:0")
	bad := fmt.Sprintf("203.0.113.1:%d", unusedPort(t, "203.0.113.1:0"))
	var outside netip.AddrPort
	for i := range 20 {
		u.input(t, datagram{from: a1, to: bad, payload: pattern(i)})
		wantError(t, l.next(), ip.PortUnreachable, "203.0.113.1", a1, bad)
		u.input(t, datagram{from: a1, to: s.addr().String(), payload: pattern(i)})
		from, _ := s.next()
		if outside.IsValid() && from != outside {
			t.Fatalf("after an error the flow leaves from %v, before from %v", from, outside)
		}
		outside = from
	}
	if u.Flows() != 1 {
		t.Errorf("%d flows", u.Flows())
	}
}

// NAT-15: too large for the path with DF is told with the MTU, first by the router, then, when the
// kernel knows, by us. Without DF it is fragmented and passes.
func TestUDPFragNeeded(t *testing.T) {
	for _, row := range []struct{ from, to, router, gateway string }{
		{a1, farHost(false) + ":9", "192.0.2.2", "10.0.2.2"},
		{b6, "[" + farHost(true) + "]:9", "2001:db8:2::2", "fd00::2"},
	} {
		l := newLink(t)
		u := startUDP(t, l, testNetwork())
		for _, from := range []string{row.router, row.gateway, row.gateway} {
			u.input(t, datagram{from: row.from, to: row.to, payload: pattern(1400), df: true})
			g := l.next()
			wantError(t, g, ip.FragNeeded, from, row.from, row.to)
			if g.err.MTU != 1280 {
				t.Errorf("%s: mtu %d, want 1280", row.to, g.err.MTU)
			}
			if length := quotedLength(g.payload[8:]); length != 1408 {
				t.Errorf("%s: the quoted datagram is %d long", row.to, length)
			}
		}
		u.input(t, datagram{from: row.from, to: row.to, payload: pattern(1400)})
		u.input(t, datagram{from: row.from, to: row.to, payload: pattern(1200), df: true})
		l.nothing()
		if n := l.drops.Get(drop.SocketError); n != 2 {
			t.Errorf("%s: %d refused by the kernel, want 2", row.to, n)
		}
	}
}

// Trains of ours and of the container meet a narrow path too: what the kernel will not segment goes as
// single datagrams.
func TestUDPTrainOnNarrowPath(t *testing.T) {
	l := newLink(t)
	u := startUDP(t, l, testNetwork())
	to := farHost(false) + ":9"
	// Teach the kernel the path.
	u.input(t, datagram{from: a2, to: to, payload: pattern(1400), df: true})
	wantError(t, l.next(), ip.FragNeeded, "192.0.2.2", a2, to)
	for range 10 {
		u.Input(datagram{from: a1, to: to, payload: pattern(1400)}.packet(t))
	}
	u.Flush()
	u.input(t, datagram{from: a1, to: to, payload: pattern(14_000), segment: 1400})
	if n := l.drops.Get(drop.SocketError); n != 0 {
		t.Errorf("%d datagrams refused", n)
	}
	l.nothing()
	u.input(t, datagram{from: a1, to: to, payload: pattern(14_000), segment: 1400, df: true})
	wantError(t, l.next(), ip.FragNeeded, "10.0.2.2", a1, to)
}

// A traceroute by UDP sees the router behind us.
func TestUDPTimeExceeded(t *testing.T) {
	for _, row := range []struct{ from, to, router string }{
		{a1, farHost(false) + ":33434", "192.0.2.2"},
		{b6, "[" + farHost(true) + "]:33434", "2001:db8:2::2"},
	} {
		l := newLink(t)
		u := startUDP(t, l, testNetwork())
		u.input(t, datagram{from: row.from, to: row.to, payload: []byte("probe"), ttl: 2})
		wantError(t, l.next(), ip.TTLExceeded, row.router, row.from, row.to)
	}
}

// No route is told by us, with our address.
func TestUDPUnreachable(t *testing.T) {
	l := newLink(t)
	u := startUDP(t, l, testNetwork())
	u.input(t, datagram{from: a1, to: "8.8.8.8:53", payload: []byte("x")})
	wantError(t, l.next(), ip.NetUnreachable, "10.0.2.2", a1, "8.8.8.8:53")
	u.input(t, datagram{from: b6, to: "[2606:4700::1111]:53", payload: []byte("x")})
	wantError(t, l.next(), ip.NetUnreachable, "fd00::2", b6, "[2606:4700::1111]:53")
	u.input(t, datagram{from: a1, to: "192.0.2.255:9", payload: []byte("x")}) // the link's broadcast
	wantError(t, l.next(), ip.AdminProhibited, "10.0.2.2", a1, "192.0.2.255:9")
}

// NAT-13: an error that bears our outside port, but quotes a destination the flow has not sent to.
func TestUDPForgedError(t *testing.T) {
	l := newLink(t)
	u := startUDP(t, l, testNetwork())
	s := listen(t, "203.0.113.1:0")
	u.input(t, datagram{from: a1, to: s.addr().String(), payload: []byte("x")})
	outside, _ := s.next()

	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	forge := func(dst string) {
		t.Helper()
		quote := datagram{from: outside.String(), to: dst, payload: []byte("forged")}.packet(t)
		b := ip.ICMPError(nil, quote, netip.MustParseAddr("203.0.113.2"), ip.PortUnreachable, 0)
		if err := unix.Sendto(fd, b[ip.HeaderLen4:], 0, &unix.SockaddrInet4{Addr: outside.Addr().As4()}); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		forge("198.51.100.77:9")
	}
	waitFor(t, func() bool { return l.drops.Get(drop.ICMPUnmatched) == 10 })
	l.nothing()
	// Its positive twin: the same error about where the flow did send.
	forge(s.addr().String())
	wantError(t, l.next(), ip.PortUnreachable, "203.0.113.1", a1, s.addr().String())
}

// Errors are limited, for each container.
func TestUDPErrorLimit(t *testing.T) {
	l := newLink(t)
	u := startUDP(t, l, testNetwork())
	start := time.Now()
	for range 500 {
		u.input(t, datagram{from: a1, to: "8.8.8.8:53"})
	}
	// A burst, and what the time it took allows, however slow the machine is.
	most := ip.ErrorBurst + 1 + int(time.Since(start).Seconds()*ip.ErrorsPerSecond)
	if n := len(l.ch); n < ip.ErrorBurst || n > most {
		t.Errorf("%d errors for 500 datagrams, want %d to %d", n, ip.ErrorBurst, most)
	}
	if n := l.drops.Get(drop.ICMPLimit); n != uint64(500-len(l.ch)) {
		t.Errorf("%d errors held back, %d sent", n, len(l.ch))
	}
}

// FT-16: the host changes its address; flows go on with the next datagram.
func TestUDPHostAddressChanges(t *testing.T) {
	l := newLink(t)
	n := testNetwork()
	free := startUDP(t, l, n)
	n.Outbound4 = netip.MustParseAddr("203.0.113.7")
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := netlink.ParseAddr("203.0.113.7/32")
	change := func(f func(netlink.Link, *netlink.Addr) error) {
		t.Helper()
		if err := f(lo, addr); err != nil {
			t.Fatal(err)
		}
		free.HostChanged()
	}
	change(netlink.AddrAdd)
	bound := startUDP(t, l, n)
	s := listen(t, "203.0.113.1:0")
	d := datagram{from: a1, to: s.addr().String(), payload: []byte("x")}

	bound.input(t, d)
	before, _ := s.next()
	if before.Addr() != n.Outbound4 {
		t.Errorf("leaves from %v, want %v", before, n.Outbound4)
	}
	free.input(t, d)
	s.next()

	change(netlink.AddrDel)
	bound.HostChanged()
	bound.input(t, d)
	if g := l.next(); g.err.Kind != ip.NetUnreachable && g.err.Kind != ip.HostUnreachable {
		t.Errorf("with the outbound address gone: %+v", g.err)
	}
	bound.input(t, datagram{from: a2, to: d.to}) // a new flow
	wantError(t, l.next(), ip.AdminProhibited, "10.0.2.2", a2, d.to)
	free.input(t, d)
	s.next()

	change(netlink.AddrAdd)
	defer change(netlink.AddrDel)
	bound.HostChanged()
	bound.input(t, d)
	if after, _ := s.next(); after != before {
		t.Errorf("leaves from %v, before from %v", after, before)
	}
}
