package nat

import (
	"bytes"
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
)

const (
	a1 = "10.0.2.100:41000"
	a2 = "10.0.2.101:41000"
	b6 = "[fd00::100]:41000"
)

// NAT-01, NAT-03: one outside port whatever the destination, and a different one for each container.
func TestUDPEndpointIndependentMapping(t *testing.T) {
	l := newLink(t)
	u := startUDP(t, l, testNetwork())
	servers := []*server{listen(t, "203.0.113.1:0"), listen(t, "203.0.113.1:0"), listen(t, "203.0.113.2:0")}
	outside := map[string]uint16{}
	for _, from := range []string{a1, a2} {
		for _, s := range servers {
			u.input(t, datagram{from: from, to: s.addr().String(), payload: []byte(from)})
			src, payload := s.next()
			if string(payload) != from {
				t.Errorf("%s: got %q", from, payload)
			}
			if outside[from] == 0 {
				outside[from] = src.Port()
			}
			if src.Port() != outside[from] {
				t.Errorf("%s to %s leaves from port %d, before from %d", from, s.addr(), src.Port(), outside[from])
			}
			s.reply(src, payload)
			if g := l.next(); g.dst.String() != from || g.src != s.addr() || string(g.payload) != from {
				t.Errorf("reply to %s: %+v", from, g)
			}
		}
	}
	if outside[a1] == outside[a2] {
		t.Error("two containers share an outside port")
	}
	if u.Flows() != 2 {
		t.Errorf("%d flows, want 2", u.Flows())
	}
}

// NAT-08: the filter is by address: any port of one sent to, nothing from another.
func TestUDPAddressDependentFilter(t *testing.T) {
	l := newLink(t)
	u := startUDP(t, l, testNetwork())
	x1, x1b, x2 := listen(t, "203.0.113.1:0"), listen(t, "203.0.113.1:0"), listen(t, "203.0.113.2:0")
	u.input(t, datagram{from: a1, to: x1.addr().String()})
	src, _ := x1.next()
	outside := netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), src.Port())

	x2.reply(outside, []byte("stranger"))
	x1b.reply(outside, []byte("other port"))
	if g := l.next(); string(g.payload) != "other port" || g.src != x1b.addr() {
		t.Errorf("from another port of the same address: %+v", g)
	}
	l.nothing()
	if n := l.drops.Get(drop.FilterDenied); n != 1 {
		t.Errorf("%d filtered, want 1", n)
	}
	u.input(t, datagram{from: a1, to: x2.addr().String()})
	x2.next()
	x2.reply(outside, []byte("known"))
	if g := l.next(); string(g.payload) != "known" {
		t.Errorf("after sending there: %+v", g)
	}
}

// NAT-16, UDP-01: every size both ways, with and without DF where the path takes it.
func TestUDPSizes(t *testing.T) {
	for _, row := range []struct{ from, server, to string }{
		{a1, "127.0.0.1:0", "10.0.2.2:%d"},
		{a1, "203.0.113.1:0", "203.0.113.1:%d"},
		{b6, "[::1]:0", "[fd00::2]:%d"},
		{b6, "[2001:db8:113::1]:0", "[2001:db8:113::1]:%d"},
	} {
		l := newLink(t)
		u := startUDP(t, l, testNetwork())
		s := listen(t, row.server).echo()
		to := fmt.Sprintf(row.to, s.port())
		for _, size := range []int{0, 1, 2, 1471, 1472, 1473, 2047, 2048, 2049, 8000, 32000, 65506, 65507} {
			for _, df := range []bool{false, true} {
				if df && row.from == b6 && size > 65536-48 {
					continue // larger than the loopback's MTU
				}
				want := pattern(size)
				u.input(t, datagram{from: row.from, to: to, payload: want, df: df})
				g := l.next()
				if g.src.String() != to || g.dst.String() != row.from || !bytes.Equal(g.payload, want) || g.ttl != 63 {
					t.Fatalf("%s to %s, %d bytes, df %v: got %d bytes from %v, ttl %d", row.from, to, size, df, len(g.payload), g.src, g.ttl)
				}
			}
		}
	}
}

// A batch leaves in order, with every boundary where it was, whatever was joined on the way.
func TestUDPBatchKeepsOrderAndBoundaries(t *testing.T) {
	l := newLink(t)
	u := startUDP(t, l, testNetwork())
	s := listen(t, "127.0.0.1:0").echo()
	to := fmt.Sprintf("10.0.2.2:%d", s.port())
	var want [][]byte
	for i, size := range []int{5, 5, 5, 3, 5, 5, 6, 0, 0, 6, 6, 1, 1, 1, 1400, 1400, 1400, 2049, 7, 7, 65507, 8, 8, 2} {
		b := pattern(size)
		if size > 0 {
			b[0] = byte(i)
		}
		want = append(want, b)
		u.Input(datagram{from: a1, to: to, payload: b, df: i%7 == 6}.packet(t))
	}
	u.Flush()
	for i := range want {
		if g := l.next(); !bytes.Equal(g.payload, want[i]) {
			t.Fatalf("datagram %d: %d bytes, want %d", i, len(g.payload), len(want[i]))
		}
	}
}

// A USO train of the container arrives as the datagrams it is made of.
func TestUDPTrainFromContainer(t *testing.T) {
	l := newLink(t)
	u := startUDP(t, l, testNetwork())
	for _, row := range []struct{ segment, total int }{{1200, 12_000}, {1200, 12_001}, {1, 200}, {1, 64}, {1400, 65_000}, {1400, 1000}, {9000, 65_000}} {
		s := listen(t, "127.0.0.1:0")
		whole := pattern(row.total)
		u.input(t, datagram{from: a1, to: fmt.Sprintf("10.0.2.2:%d", s.port()), payload: whole, segment: row.segment})
		for rest := whole; len(rest) > 0; {
			n := min(row.segment, len(rest))
			if _, b := s.next(); !bytes.Equal(b, rest[:n]) {
				t.Fatalf("%+v: %d bytes at %d, want %d", row, len(b), row.total-len(rest), n)
			}
			rest = rest[n:]
		}
	}
}

// Datagrams that come together go on as one packet, and apart again as they were.
func TestUDPTrainsToContainer(t *testing.T) {
	l := newLink(t)
	u := startUDP(t, l, testNetwork())
	s := listen(t, "127.0.0.1:0")
	to := fmt.Sprintf("10.0.2.2:%d", s.port())
	longest := 0
	for range 50 {
		u.input(t, datagram{from: a1, to: to})
		outside, _ := s.next()
		for i := range 30 {
			s.reply(outside, bytes.Repeat([]byte{byte(i)}, 100))
		}
		for i := range 30 {
			g := l.next()
			if len(g.payload) != 100 || g.payload[0] != byte(i) {
				t.Fatalf("datagram %d: %v", i, g)
			}
			longest = max(longest, g.train)
		}
	}
	if longest < 2 {
		t.Error("1500 datagrams, and no two were joined")
	}
}

func TestUDPCarriesTTLAndTOS(t *testing.T) {
	for _, row := range []struct{ from, server, to string }{
		{a1, "127.0.0.1:0", "10.0.2.2:%d"}, {b6, "[::1]:0", "[fd00::2]:%d"},
	} {
		l := newLink(t)
		u := startUDP(t, l, testNetwork())
		s := listen(t, row.server)
		rc, err := s.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		probe := newFlowProbe(t, rc, row.from == b6)
		for _, ttl := range []uint8{64, 59, 2} {
			u.input(t, datagram{from: row.from, to: fmt.Sprintf(row.to, s.port()), payload: []byte("x"), ttl: ttl, tos: 0xb8})
			if m := probe.next(); m.TTL != ttl-map[bool]uint8{true: 0, false: 1}[ttl == 64] || m.TOS != 0xb8 {
				t.Errorf("%s: ttl %d leaves with ttl %d, tos %#x", row.from, ttl, m.TTL, m.TOS)
			}
		}
		level, name := unix.IPPROTO_IP, unix.IP_TOS
		if row.from == b6 {
			level, name = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
		}
		if err := rc.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, name, 0x28) }); err != nil {
			t.Fatal(err)
		}
		u.input(t, datagram{from: row.from, to: fmt.Sprintf(row.to, s.port())})
		s.reply(probe.next().From, []byte("y"))
		if g := l.next(); g.tos != 0x28 || g.ttl != 63 {
			t.Errorf("%s: the reply has ttl %d, tos %#x", row.from, g.ttl, g.tos)
		}
	}
}

// HC-15 to HC-17 at the flow: nothing is opened for what the Policy refuses, and the sender is told.
func TestUDPPolicy(t *testing.T) {
	l := newLink(t)
	n := privateNetwork() // no host loopback
	u := startUDP(t, l, n)
	for _, to := range []string{"10.0.2.2:9", "127.0.0.1:9", "169.254.169.254:80", "[fd00::2]:9", "[::1]:9", "[fd00:ec2::254]:80"} {
		from := a1
		if netip.MustParseAddrPort(to).Addr().Is6() {
			from = b6
		}
		u.input(t, datagram{from: from, to: to})
		if g := l.next(); g.err.Kind != ip.AdminProhibited || g.err.Src.String() != from || g.err.Dst.String() != to {
			t.Errorf("%s: %+v", to, g.err)
		}
	}
	for _, to := range []string{"224.0.0.251:5353", "255.255.255.255:67", "[ff02::fb]:5353"} { // UDP-04
		from := a1
		if netip.MustParseAddrPort(to).Addr().Is6() {
			from = b6
		}
		u.input(t, datagram{from: from, to: to})
	}
	l.nothing()
	if u.Flows() != 0 || l.drops.Get(drop.PolicyDenied) != 9 {
		t.Errorf("%d flows, drops %v", u.Flows(), l.drops.Snapshot())
	}
}

// NAT-29: at the limit a new flow is refused and told so, and the others go on.
func TestUDPLimit(t *testing.T) {
	l := newLink(t)
	n := testNetwork()
	n.Limits.UDPFlows = 50
	u := startUDP(t, l, n)
	s := listen(t, "127.0.0.1:0").echo()
	to := fmt.Sprintf("10.0.2.2:%d", s.port())
	send := func(host, port int) {
		u.input(t, datagram{from: fmt.Sprintf("10.0.2.%d:%d", host, port), to: to, payload: []byte{byte(port)}})
	}
	for port := 1; port <= 50; port++ {
		send(100, port)
		l.next()
	}
	for port := 51; port <= 60; port++ {
		send(100, port)
	}
	if g := l.next(); g.err.Kind != ip.AdminProhibited || g.err.Src.Port() != 51 {
		t.Errorf("flow 51: %+v", g)
	}
	l.nothing() // one error a second
	for port := 1; port <= 50; port++ {
		send(100, port)
		if g := l.next(); g.dst.Port() != uint16(port) {
			t.Errorf("flow %d: %+v", port, g)
		}
	}
	send(101, 1)
	if g := l.next(); g.dst.Addr().String() != "10.0.2.101" {
		t.Errorf("the other container: %+v", g)
	}
	if u.Flows() != 51 || l.drops.Get(drop.FlowLimit) != 10 {
		t.Errorf("%d flows, drops %v", u.Flows(), l.drops.Snapshot())
	}
}

// NAT-04, NAT-05: the default timers. What they do is TestTableIdle's.
func TestUDPIdleDefaults(t *testing.T) {
	u := startUDP(t, newLink(t), privateNetwork())
	if idle := u.s.table.idle; idle[idleLong] != 300*time.Second || idle[idleShort] != 30*time.Second || u.s.grain > 15*time.Second {
		t.Errorf("idle times %v, looked at every %v", idle, u.s.grain)
	}
	if _, wait := u.s.collect(time.Now()); wait != math.MaxInt64 {
		t.Errorf("without flows, wakes up in %v", wait)
	}
	if classOf(netip.MustParseAddrPort("8.8.8.8:53")) != idleShort || classOf(netip.MustParseAddrPort("8.8.8.8:5353")) != idleLong {
		t.Error("the short timer is for port 53")
	}
}

// The gateway stands for the loopback also when flows leave from an address of their own.
func TestUDPLoopbackFromOutboundAddress(t *testing.T) {
	l := newLink(t)
	n := testNetwork()
	n.Outbound4, n.Outbound6 = netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("2001:db8:113::1")
	u := startUDP(t, l, n)
	for from, server := range map[string]*server{a1: listen(t, "127.0.0.1:0"), b6: listen(t, "[::1]:0")} {
		to := netip.AddrPortFrom(u.s.gateway(server.addr().Addr().Is6()), server.port())
		u.input(t, datagram{from: from, to: to.String(), payload: []byte("x")})
		outside, _ := server.next()
		if outside.Addr() != n.Outbound4 && outside.Addr() != n.Outbound6 {
			t.Errorf("%s leaves from %v", from, outside)
		}
		server.reply(outside, []byte("y"))
		if g := l.next(); g.src != to || string(g.payload) != "y" {
			t.Errorf("reply %+v", g)
		}
	}
}

// A flow ends by its timer, its port is then nobody's, and the next datagram makes a new one.
func TestUDPExpires(t *testing.T) {
	l := newLink(t)
	n := testNetwork()
	n.Limits.UDPIdleMillis = 100
	u := startUDP(t, l, n)
	s := listen(t, "127.0.0.1:0")
	to := fmt.Sprintf("10.0.2.2:%d", s.port())
	for range 2 {
		u.input(t, datagram{from: a1, to: to})
		s.next()
		waitFor(t, func() bool { return u.Flows() == 0 })
	}
}

// SK-02: a thousand short flows leave nothing behind.
func TestUDPLeaks(t *testing.T) {
	l := newLink(t)
	sys.Linger(0) // has a descriptor from its first call on
	before := openFiles(t)
	u := startUDP(t, l, testNetwork())
	s := listen(t, "127.0.0.1:0").echo()
	for i := range 1000 {
		u.input(t, datagram{from: fmt.Sprintf("10.0.2.100:%d", 1000+i), to: fmt.Sprintf("10.0.2.2:%d", s.port())})
		l.next()
		if i%100 == 99 {
			dead, _ := u.s.collect(time.Now().Add(time.Hour))
			for _, f := range dead {
				f.close(u.s)
			}
		}
	}
	if n := u.Flows(); n != 0 {
		t.Errorf("%d flows after their time", n)
	}
	s.Close()
	waitFor(t, func() bool { return openFiles(t) <= before })
	// Goroutines are TestMain's to check.
}

func TestUDPClose(t *testing.T) {
	l := newLink(t)
	u := NewUDP(l.env(), mustPolicy(t, testNetwork(), nil), testNetwork())
	s := listen(t, "127.0.0.1:0").echo()
	d := datagram{from: a1, to: fmt.Sprintf("10.0.2.2:%d", s.port())}
	u.input(t, d)
	l.next()
	u.Input(d.packet(t)) // waits for a Flush that does not come
	for range 2 {
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	}
	u.input(t, d)
	u.HostChanged()
	if u.Flows() != 0 {
		t.Errorf("%d flows after Close", u.Flows())
	}
	l.nothing()
}

func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited in vain")
		}
	}
}
