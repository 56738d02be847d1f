package nat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/proctest"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
)

// RX-03: what an idle flow costs, its goroutine included.
func TestUDPMemoryOfIdleFlows(t *testing.T) {
	const bound = 12 << 10
	flows := 10_000
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if most := int(limit.Cur)/4 - 100; most < flows {
		t.Logf("%d open files are allowed: %d flows", limit.Cur, most)
		flows = most
	}
	c := &counter{wake: make(chan struct{}, 1)}
	n := testNetwork()
	n.Limits.UDPFlows = flows
	u := NewUDP(Env{Emit: c}, mustPolicy(t, n, nil), n)
	defer u.Close()
	to := startEcho(t)
	p := datagram{from: a1, to: fmt.Sprintf("10.0.2.2:%d", to.Port()), payload: pattern(100)}.packet(t)
	before := inUse()
	for i := range flows {
		p.Src = netip.AddrFrom4([4]byte{10, 0, 2, byte(100 + i>>13)})
		port := 1024 + i&0x1fff
		p.Payload()[0], p.Payload()[1] = byte(port>>8), byte(port)
		u.Input(p)
		if i%50 == 49 {
			u.Flush()
			waitFor(t, func() bool { return c.n.Load() == int64(i+1) })
		}
	}
	u.Flush()
	waitFor(t, func() bool { return c.n.Load() == int64(flows) })
	each := (inUse() - before) / uint64(flows)
	if u.Flows() != flows || each > bound {
		t.Errorf("%d flows with %d bytes each, want %d with at most %d", u.Flows(), each, flows, bound)
	}
	t.Logf("%d flows, %d bytes each", flows, each)
}

// inUse is the memory of heap and stacks that is in use.
func inUse() uint64 {
	for range 3 { // stacks shrink by half at a time, and pools are emptied
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse + m.MSpanInuse
}

// sorter is an Emitter that checks for each reply that it is its flow's own, and next in order.
type sorter struct {
	t    *testing.T
	next sync.Map // netip.AddrPort of the container: *atomic.Uint32
	n    atomic.Int64
}

func (s *sorter) EmitIP(_ netip.Addr, v l2.VNet, l3 [][]byte) bool {
	hdr, payload := l3[0], l3[1]
	dst := netip.AddrPortFrom(netip.AddrFrom4([4]byte(hdr[16:20])), uint16(hdr[22])<<8|uint16(hdr[23]))
	next, _ := s.next.LoadOrStore(dst, new(atomic.Uint32))
	for len(payload) > 0 {
		seq := next.(*atomic.Uint32).Add(1) - 1
		if want := label(dst, seq); !bytes.Equal(payload[:len(want)], want) {
			s.t.Errorf("%v got %q, want %q", dst, payload[:len(want)], want)
			return false
		}
		payload = payload[len(label(dst, seq)):]
		s.n.Add(1)
	}
	return true
}

func label(from netip.AddrPort, seq uint32) []byte { return fmt.Appendf(nil, "%-24s%8d", from, seq) }

// NAT-03, UDP-03: containers that send at once, from the same port, never get each other's replies; and
// each gets its own in order. A flush by one container's goroutine sends the others' datagrams too.
func TestUDPContainersAtOnce(t *testing.T) {
	s := &sorter{t: t}
	n := testNetwork()
	var drops drop.Counters
	u := NewUDP(Env{Emit: s, Drops: &drops}, mustPolicy(t, n, nil), n)
	defer u.Close()
	to := fmt.Sprintf("10.0.2.2:%d", startEcho(t).Port())
	const containers, rounds, burst = 4, 60, 40
	var wg sync.WaitGroup
	var flying atomic.Int64
	for c := range containers {
		wg.Go(func() {
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, byte(100 + c)}), 5000)
			for r := range rounds {
				for i := range burst {
					flying.Add(1)
					u.Input(datagram{from: from.String(), to: to, payload: label(from, uint32(r*burst+i))}.packet(t))
				}
				u.Flush()
				waitFor(t, func() bool { return t.Failed() || flying.Load()-s.n.Load() < containers*burst })
			}
		})
	}
	wg.Wait()
	u.Flush()
	waitFor(t, func() bool { return t.Failed() || s.n.Load() == containers*rounds*burst })
	if m := drops.Snapshot(); len(m) != 0 {
		t.Errorf("drops %v", m)
	}
}

// A host without sockets to give: counted, told to the container once a second and to the log once a minute.
func TestUDPSocketErrors(t *testing.T) {
	l := newLink(t)
	var lines proctest.Output
	env := l.env()
	env.Log = slog.New(slog.NewTextHandler(&lines, nil))
	u := NewUDP(env, mustPolicy(t, testNetwork(), nil), testNetwork())
	defer u.Close()
	real := u.s.openSocket
	u.s.openSocket = func(uint8, bool, netip.Addr) (*socket, error) {
		return nil, errors.Join(unix.EMFILE)
	}
	for range 100 {
		u.input(t, datagram{from: a1, to: "203.0.113.1:9"})
	}
	wantError(t, l.next(), ip.AdminProhibited, "10.0.2.2", a1, "203.0.113.1:9")
	l.nothing()
	if s := lines.String(); strings.Count(s, "\n") != 1 || !strings.Contains(s, "ulimit -n") {
		t.Errorf("logged:\n%s", s)
	}
	if u.Flows() != 0 || l.drops.Get(drop.SocketError) != 100 {
		t.Errorf("%d flows, drops %v", u.Flows(), l.drops.Snapshot())
	}
	u.s.openSocket = real
	s := listen(t, "203.0.113.1:0")
	u.input(t, datagram{from: a1, to: s.addr().String()})
	s.next()
}

// FuzzInput gives whatever a container can get past ip.Parse to UDP and Ping. It must not panic, and
// nothing may reach an address the Policy refuses.
func FuzzInput(f *testing.F) {
	permitPings(f)
	for _, d := range []datagram{
		{from: a1, to: "203.0.113.1:9", payload: []byte("x")},
		{from: b6, to: "[2001:db8:113::1]:9", payload: []byte("x")},
		{from: a1, to: "127.0.0.1:9"}, {from: a1, to: "203.0.113.1:53", payload: pattern(3000)},
	} {
		f.Add(d.packet(f).Data, uint16(0), true)
		f.Add(d.packet(f).Data, uint16(7), false)
	}
	f.Add(request{from: "10.0.2.100", to: "203.0.113.1", id: 7, data: []byte("x")}.packet(f).Data, uint16(0), true)
	f.Add(request{from: "fd00::100", to: "2001:db8:113::1", id: 7}.packet(f).Data, uint16(0), false)
	n := privateNetwork()
	n.Limits.UDPFlows, n.Limits.PingFlows, n.Limits.UDPIdleMillis = 16, 16, 100
	c := &counter{}
	p := mustPolicy(f, n, nil)
	u, g := NewUDP(Env{Emit: c}, p, n), NewPing(Env{Emit: c}, p, n)
	f.Cleanup(func() { u.Close(); g.Close() })
	f.Fuzz(func(t *testing.T, b []byte, segment uint16, df bool) {
		var p ip.Packet
		if len(b) >= ip.HeaderLen4 && b[0]>>4 == 4 { // a checksum is not what a fuzzer should have to find
			b = bytes.Clone(b)
			b[10], b[11] = 0, 0
			binary.BigEndian.PutUint16(b[10:], ip.Checksum(b[:min(len(b), int(b[0]&15)*4)], 0))
		}
		if ip.ParsePacket(&p, b) != drop.None || p.IsFragment() {
			return
		}
		p.DF = df
		if segment > 0 {
			p.VNet = ip.UDPVNet(p.Src, int(segment))
		}
		u.Input(&p)
		g.Input(&p)
		u.Flush()
		for _, s := range []*flows{u.s, g.s} {
			s.mu.Lock()
			for _, e := range s.table.flows {
				e.value.mu.Lock()
				for _, peer := range e.value.peers.list {
					if !slowAllow(n, peer.addr) {
						t.Errorf("%v sent to %v", e.key, peer.addr)
					}
				}
				e.value.mu.Unlock()
			}
			s.mu.Unlock()
		}
	})
}
