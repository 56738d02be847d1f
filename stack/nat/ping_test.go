package nat

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netns"

	"github.com/usernet/usernet/internal/proctest"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/spec"
)

// permitPings sets ping_group_range in the namespace of the tests. A new namespace has "1 0", which is
// nobody, and there is no way back to it where group 1 is not mapped.
func permitPings(t testing.TB) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0); err != nil {
		t.Fatal(err)
	}
}

// openElsewhere is openSocket in a new network namespace.
func openElsewhere(proto uint8, v6 bool, bind netip.Addr) (*socket, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	host, err := netns.Get()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	other, err := netns.New()
	if err != nil {
		return nil, err
	}
	defer other.Close()
	defer netns.Set(host)
	return openSocket(proto, v6, bind)
}

func startPing(t testing.TB, env Env, n spec.Network) *Ping {
	g := NewPing(env, mustPolicy(t, n, nil), n)
	t.Cleanup(func() { g.Close() })
	return g
}

// request is an echo request of a container.
type request struct {
	from, to string
	id, seq  uint16
	ttl      uint8
	df       bool
	data     []byte
}

func (r request) packet(t testing.TB) *ip.Packet {
	t.Helper()
	src := netip.MustParseAddr(r.from)
	b := ip.AppendEcho(nil, ip.Echo{Src: src, Dst: netip.MustParseAddr(r.to), ID: r.id, Seq: r.seq, TTL: r.ttl, Data: r.data})
	p := new(ip.Packet)
	if reason := ip.ParsePacket(p, b); reason != drop.None {
		t.Fatalf("%+v: %v", r, reason)
	}
	p.DF, p.MAC = r.df, macOf(src)
	return p
}

// reply checks that g answers r.
func (r request) reply(t *testing.T, g got) {
	t.Helper()
	want := ip.AppendEcho(nil, ip.Echo{Src: netip.MustParseAddr(r.to), Dst: netip.MustParseAddr(r.from), ID: r.id, Seq: r.seq, Reply: true, Data: r.data})
	hl := ip.HeaderLen4
	if g.proto == ip.ICMPv6 {
		hl = ip.HeaderLen6
	}
	if g.src.Addr().String() != r.to || g.dst.Addr().String() != r.from || !bytes.Equal(g.payload, want[hl:]) {
		t.Errorf("%s to %s, id %d, seq %d, %d bytes: got %d bytes from %v to %v",
			r.from, r.to, r.id, r.seq, len(r.data), len(g.payload)-8, g.src, g.dst)
	}
}

// NAT-20: replies of every size, to the container that asked, though all use one identifier.
func TestPing(t *testing.T) {
	permitPings(t)
	l := newLink(t)
	g := startPing(t, l.env(), testNetwork())
	containers := []struct {
		from string
		to   []string
	}{
		{"10.0.2.100", []string{"10.0.2.2", "203.0.113.1", "192.0.2.2"}},
		{"10.0.2.101", []string{"10.0.2.2", "203.0.113.1", "192.0.2.2"}},
		{"fd00::100", []string{"fd00::2", "2001:db8:113::1", "2001:db8:2::2"}},
		{"fd00::101", []string{"fd00::2", "2001:db8:113::1", "2001:db8:2::2"}},
	}
	seq := uint16(0)
	for _, size := range []int{0, 1, 56, 1472, 1473, 8000, 65507} {
		for _, c := range containers {
			for _, to := range c.to {
				if netip.MustParseAddr(to).Is6() && size == 65507 {
					size = 65000 // the kernel's bound is 65 535 with headers
				}
				seq++
				r := request{from: c.from, to: to, id: 7, seq: seq, data: append(pattern(size), c.from[len(c.from)-1])[:size]}
				g.Input(r.packet(t))
				r.reply(t, l.next())
			}
		}
	}
	if g.Flows() != 4 {
		t.Errorf("%d flows, want one for each container", g.Flows())
	}
	r := request{from: "10.0.2.100", to: "203.0.113.1", id: 8, seq: 1}
	g.Input(r.packet(t))
	r.reply(t, l.next())
	if g.Flows() != 5 {
		t.Errorf("%d flows after another identifier", g.Flows())
	}
}

// NAT-15 by ping -M do, NAT-19 by traceroute -I, and what needs no router.
func TestPingErrors(t *testing.T) {
	permitPings(t)
	for _, row := range []struct{ from, to, router, gateway, nowhere string }{
		{"10.0.2.100", farHost(false), "192.0.2.2", "10.0.2.2", "8.8.8.8"},
		{"fd00::100", farHost(true), "2001:db8:2::2", "fd00::2", "2606:4700::1111"},
	} {
		l := newLink(t)
		g := startPing(t, l.env(), testNetwork())
		check := func(r request, kind ip.ErrorKind, from string, mtu int) {
			t.Helper()
			g.Input(r.packet(t))
			e := l.next()
			if e.err.Kind != kind || e.src.Addr().String() != from || e.err.MTU != mtu || e.err.ID != r.id || e.err.Seq != r.seq ||
				!e.err.Request || e.err.Src.Addr().String() != r.from || e.err.Dst.Addr().String() != r.to {
				t.Errorf("%s to %s, seq %d, ttl %d: from %v %+v", r.from, r.to, r.seq, r.ttl, e.src, e.err)
			}
		}
		check(request{from: row.from, to: row.to, id: 9, seq: 1, ttl: 2}, ip.TTLExceeded, row.router, 0)
		check(request{from: row.from, to: row.to, id: 9, seq: 2, df: true, data: pattern(1400)}, ip.FragNeeded, row.router, 1280)
		check(request{from: row.from, to: row.to, id: 9, seq: 3, df: true, data: pattern(1400)}, ip.FragNeeded, row.gateway, 1280)
		check(request{from: row.from, to: row.nowhere, id: 9, seq: 4}, ip.NetUnreachable, row.gateway, 0)
		check(request{from: row.from, to: "127.0.0.1", id: 9}.family(row.from), ip.AdminProhibited, row.gateway, 0)
		r := request{from: row.from, to: row.router, id: 9, seq: 5, ttl: 3, data: pattern(56)}
		g.Input(r.packet(t))
		r.reply(t, l.next())
	}
}

// family makes a request to the loopback one to the loopback of from's family.
func (r request) family(from string) request {
	if netip.MustParseAddr(from).Is6() {
		r.to = "::1"
	}
	return r
}

// NAT-20 where the host does not allow it: the container is told each time, the person once and how to
// change that, and nothing else happens.
func TestPingNotPermitted(t *testing.T) {
	l := newLink(t)
	var lines proctest.Output
	env := l.env()
	env.Log = slog.New(slog.NewTextHandler(&lines, nil))
	g := startPing(t, env, testNetwork())
	g.s.openSocket = openElsewhere // where ping_group_range is as it comes
	r := request{from: "10.0.2.100", to: "203.0.113.1", id: 7}
	for r.seq = range 20 {
		g.Input(r.packet(t))
		if e := l.next(); e.err.Kind != ip.AdminProhibited || e.err.ID != 7 || e.err.Seq != r.seq {
			t.Errorf("%+v", e.err)
		}
	}
	l.nothing()
	if s := lines.String(); strings.Count(s, "\n") != 1 || !strings.Contains(s, "net.ipv4.ping_group_range='0 2147483647'") {
		t.Errorf("logged:\n%s", s)
	}
	if g.Flows() != 0 || l.drops.Get(drop.SocketError) != 20 {
		t.Errorf("%d flows, drops %v", g.Flows(), l.drops.Snapshot())
	}
	permitPings(t)
	g.s.openSocket = openSocket // and it is allowed without a restart
	g.Input(r.packet(t))
	r.reply(t, l.next())
}

func TestPingLimitAndOtherMessages(t *testing.T) {
	permitPings(t)
	l := newLink(t)
	n := testNetwork()
	n.Limits.PingFlows = 5
	g := startPing(t, l.env(), n)
	for id := range uint16(8) {
		r := request{from: "10.0.2.100", to: "203.0.113.1", id: id}
		g.Input(r.packet(t))
		if id < 5 {
			r.reply(t, l.next())
		}
	}
	if e := l.next(); e.err.Kind != ip.AdminProhibited || e.err.ID != 5 {
		t.Errorf("%+v", e.err)
	}
	l.nothing()
	// NAT-07: an error of the container's about a reply opens and refreshes nothing.
	var p ip.Packet
	reply := datagram{from: "203.0.113.1:7", to: a2}.packet(t)
	b := ip.ICMPError(nil, reply, netip.MustParseAddr("203.0.113.1"), ip.PortUnreachable, 0)
	if r := ip.ParsePacket(&p, b); r != drop.None {
		t.Fatal(r)
	}
	g.Input(&p)
	if g.Flows() != 5 || l.drops.Get(drop.IPProtocol) != 1 || l.drops.Get(drop.FlowLimit) != 3 {
		t.Errorf("%d flows, drops %v", g.Flows(), l.drops.Snapshot())
	}
}

func BenchmarkPing(b *testing.B) {
	permitPings(b)
	for _, size := range []int{56, 1400} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			c := &counter{wake: make(chan struct{}, 1)}
			g := startPing(b, Env{Emit: c}, testNetwork())
			p := request{from: "10.0.2.100", to: "10.0.2.2", id: 7, data: pattern(size)}.packet(b)
			b.ReportAllocs()
			var sent int64
			for b.Loop() {
				g.Input(p)
				for sent++; c.n.Load() < sent; {
					<-c.wake
				}
			}
		})
	}
}
