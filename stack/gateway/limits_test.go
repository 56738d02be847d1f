package gateway

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
)

// TestCloseDuringDial: a connection that came through just when Close ended its dial does not make Close wait
// for a container that will not answer.
func TestCloseDuringDial(t *testing.T) {
	o := newOutside(t)
	dialling := make(chan struct{})
	b := newBench(t, withDial(func(ctx context.Context, network string, from netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
		close(dialling)
		<-ctx.Done()
		return o.dial(context.WithoutCancel(ctx), network, from, to)
	}))
	b.send(synPacket(container4, ap(outside4), 1000))
	<-dialling
	closed := make(chan struct{})
	go func() {
		b.gw.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(handshakeTimeout / 2):
		t.Error("Close waits for the handshake")
		<-closed
	}
}

// blackHole is an outside where one address never answers.
type blackHole struct {
	*outside
	hole          netip.AddrPort
	pending, most atomic.Int64
}

func (h *blackHole) dial(ctx context.Context, network string, from netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
	if to != h.hole {
		return h.outside.dial(ctx, network, from, to)
	}
	for n, m := h.pending.Add(1), h.most.Load(); n > m && !h.most.CompareAndSwap(m, n); m = h.most.Load() {
	}
	defer h.pending.Add(-1)
	<-ctx.Done()
	return nil, ctx.Err()
}

// clock is a time that only a test moves on.
type clock struct{ ns atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(0, c.ns.Load()) }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

// stopClock keeps handshakes from giving way because a slow machine has sent fewer than it should in a second.
func stopClock(b *bench) *clock {
	c := new(clock)
	b.gw.handshakes.now = c.now
	return c
}

// TestSYNFlood: SYNs into a black hole occupy what their container may have and no more, keep nobody else
// out, and a second after the flood the container itself connects again (HC-23).
func TestSYNFlood(t *testing.T) {
	t.Parallel()
	hole := &blackHole{outside: newOutside(t), hole: ap("198.51.100.99:80")}
	b := newBench(t, withDial(hole.dial))
	time := stopClock(b)
	const flood = 5000
	// On a machine too busy to admit or refuse as fast as they come, netstack's own bound meets some of them first.
	refused := func() uint64 {
		return b.drops.Get(drop.HandshakeLimit) + stackOf(b.t, b.gw).Stats().TCP.ForwardMaxInFlightDrop.Value()
	}
	for i := range flood {
		b.send(synPacket(container4, hole.hole, uint16(1000+i)))
	}
	waitFor(t, func() bool { return refused() == flood-defaultHandshakes })
	if n, m := b.gw.handshakes.inFlight(), hole.most.Load(); n != defaultHandshakes || m > defaultHandshakes {
		t.Errorf("%d in flight, %d dials at once; want %d", n, m, defaultHandshakes)
	}

	other := packettest.Frame(otherMAC, testNet.GatewayMAC, synPacket(other4, ap(outside4), 1000))
	b.frames(other)
	b.next("SYN-ACK to the other container", func(p segment) bool {
		return p.Dst == netip.AddrPortFrom(other4, 1000) && p.Flags == packettest.SYN|packettest.ACK
	})
	hole.accept(t)

	// The flooder's kernel repeats its SYN until there is room.
	again := synPacket(container4, ap(outside4), 999)
	time.advance(evictAfter - 1)
	b.send(again)
	waitFor(t, func() bool { return refused() == flood-defaultHandshakes+1 })
	time.advance(1)
	b.send(again)
	hole.accept(t)
}

// TestSquatters: 3000 SYNs to a live port that are never ACKed hold as many host sockets as the container may have,
// and another container connects meanwhile (HC-24).
func TestSquatters(t *testing.T) {
	t.Parallel()
	o := newOutside(t)
	b := newBench(t, withDial(o.dial))
	stopClock(b)
	const squatters = 3000
	for i := range squatters {
		b.send(synPacket(container4, ap(outside4), uint16(1000+i)))
	}
	var held []*net.TCPConn
	for range defaultHandshakes {
		held = append(held, o.accept(t))
	}
	waitFor(t, func() bool { return b.drops.Get(drop.HandshakeLimit) == squatters-defaultHandshakes })
	if n := b.gw.handshakes.inFlight(); n != defaultHandshakes {
		t.Errorf("%d in flight, want %d", n, defaultHandshakes)
	}
	b.frames(packettest.Frame(otherMAC, testNet.GatewayMAC, synPacket(other4, ap(outside4), 1000)))
	o.accept(t)
	b.next("SYN-ACK to the other container", func(p segment) bool { return p.Dst.Addr() == other4 && p.Flags&packettest.SYN != 0 })
	b.gw.Close()
	for _, h := range held { // the host's sockets go with the handshakes
		h.SetDeadline(time.Now().Add(packetWait))
		if _, err := h.Read(make([]byte, 1)); err == nil {
			t.Fatal("a socket of a handshake stayed open")
		}
	}
}

// TestFlowLimit: at its limit of flows a container is refused, another is not, and an ended flow makes room.
func TestFlowLimit(t *testing.T) {
	o := newOutside(t)
	b := newBench(t, withDial(o.dial), func(c *Config) { c.Spec.Limits.TCPFlows = 2 })
	first := b.newClient(1)
	first.open(o)
	b.newClient(2).open(o)
	refused := b.newClient(3)
	b.send(tcpPacket(refused.src, refused.dst, packettest.SYN, 1, 0, 100, 0, nil, nil))
	refused.next("RST", func(p segment) bool { return p.Flags&packettest.RST != 0 })
	if n := b.drops.Get(drop.FlowLimit); n != 1 || b.gw.Flows() != 2 {
		t.Errorf("%d drops over the limit with %d flows, want 1 and 2", n, b.gw.Flows())
	}
	b.frames(packettest.Frame(otherMAC, testNet.GatewayMAC, synPacket(other4, ap(outside4), 9)))
	o.accept(t)
	first.send(packettest.RST, nil)
	waitFor(t, func() bool { return b.gw.Flows() < 3 })
	b.newClient(4).syn()
}

// TestFragmentOrder: three fragments in every order, with a repetition, make one datagram; an overlap makes
// none (NAT-17).
func TestFragmentOrder(t *testing.T) {
	whole := packettest.UDP(ap("10.0.2.100:1000"), ap("198.51.100.1:7"), make([]byte, 3000))
	whole6 := packettest.UDP(ap("[fd00::100]:1000"), ap("[2001:db8::1]:7"), make([]byte, 3000))
	b := newBench(t)
	id := uint16(0)
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}, {0, 0, 1, 2}, {2, 1, 1, 2, 0}} {
		id++
		f4, f6 := fragments(whole, id, 1480, 2960), fragments6(whole6, uint32(id), 1448, 2896)
		for _, i := range order {
			b.send(f4[i], f6[i])
		}
		want := []string{"10.0.2.100:1000 > 198.51.100.1:7, 3000 bytes", "[fd00::100]:1000 > [2001:db8::1]:7, 3000 bytes"}
		if got := b.udp.take(); !slices.Equal(got, want) {
			t.Errorf("order %v: %q", order, got)
		}
	}
	checkDrops(t, b, drop.None)
	id++
	f := fragments(whole, id, 1480, 2960)
	overlap := slices.Clone(f[1])
	binary.BigEndian.PutUint16(overlap[6:], binary.BigEndian.Uint16(overlap[6:])-1)
	b.send(f[0], packettest.FixIPv4(overlap), f[1], f[2])
	if got := b.udp.take(); len(got) != 0 {
		t.Errorf("a datagram with an overlap arrived: %q", got)
	}
}

// TestFragmentFlood: a container that sends first fragments without end loses its own large datagrams and
// takes nothing from another's (NAT-18).
func TestFragmentFlood(t *testing.T) {
	b := newBench(t)
	first := fragments(packettest.UDP(ap("10.0.2.100:1000"), ap("198.51.100.1:7"), make([]byte, 3000)), 0, 1480)[0]
	lost := 0
	for i := range 20000 {
		binary.BigEndian.PutUint16(first[4:], uint16(i))
		b.send(packettest.FixIPv4(first))
		if i%100 != 0 {
			continue
		}
		large := packettest.UDP(ap("10.0.2.101:1000"), ap("198.51.100.1:7"), make([]byte, 8000))
		for _, f := range fragments(large, uint16(i), 1480, 2960, 4440, 5920, 7400) {
			b.frames(packettest.Frame(otherMAC, testNet.GatewayMAC, f))
			binary.BigEndian.PutUint16(first[4:], uint16(i)^0x8000)
			b.send(packettest.FixIPv4(first))
		}
		if len(b.udp.take()) != 1 {
			lost++
		}
	}
	if lost != 0 {
		t.Errorf("the other container lost %d of 200 large datagrams", lost)
	}
	if n, bytes := b.gw.reasm.Pending(); n > 2*fragmentDatagrams || bytes > 2*fragmentBytes {
		t.Errorf("%d datagrams of %d bytes wait, want %d of %d for each container", n, bytes, fragmentDatagrams, fragmentBytes)
	}
}

// TestSYNOptions: whatever options a SYN has, the connection is usable or refused (TCP-08).
func TestSYNOptions(t *testing.T) {
	long := func(kind byte) []byte { return append([]byte{kind, 40}, make([]byte, 38)...) }
	for i, opts := range [][]byte{
		nil,
		{2, 4, 0, 0}, {2, 4, 0, 1}, {2, 4, 0xff, 0xff}, {2, 4, 5}, {2, 3, 1, 1}, {2, 0}, {2},
		{3, 3, 15, 0}, {3, 3, 255, 0}, {3, 2, 0, 0}, {3, 0, 0, 0}, {3, 3},
		{4, 2, 1, 1}, {4, 0, 1, 1}, {4, 255, 1, 1},
		{8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1}, {8, 10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1}, {8, 9, 0, 0}, {8, 0, 0, 0},
		{5, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1}, {5, 2, 1, 1},
		{254, 0, 0, 0}, {254, 1, 0, 0}, {254, 255, 0, 0}, {254, 2, 1, 1}, {34, 2, 1, 1}, {19, 18, 0, 0},
		long(254), long(2), long(8), long(0), slices.Repeat([]byte{1}, 40), slices.Repeat([]byte{2, 4, 0, 1}, 10),
	} {
		t.Run(fmt.Sprintf("% x", opts[:min(len(opts), 8)]), func(t *testing.T) {
			o := newOutside(t)
			b := newBench(t, withDial(o.dial))
			c := b.newClient(uint16(1000 + i))
			c.synOpts = opts
			b.send(tcpPacket(c.src, c.dst, packettest.SYN, c.isn, 0, c.window, 0, opts, nil))
			c.seq = c.isn + 1
			p := c.next("answer", func(p segment) bool { return p.Flags&(packettest.SYN|packettest.RST) != 0 })
			if p.Flags&packettest.RST != 0 {
				return
			}
			c.ack = p.Seq + 1
			if ts := p.options()[8]; ts != nil {
				c.opts = []byte{1, 1, 8, 10, 0, 0, 0, 1, ts[0], ts[1], ts[2], ts[3]}
			}
			h := o.accept(t)
			h.SetDeadline(time.Now().Add(packetWait))
			c.write([]byte("ping"))
			readFull(t, h, "ping")
			if _, err := h.Write(make([]byte, 3000)); err != nil {
				t.Fatal(err)
			}
			// netstack sends 48 bytes at a time at least, as Linux does (min_snd_mss).
			if _, least := c.read(3000); least < 36 {
				t.Errorf("segments of %d bytes", least)
			}
		})
	}
}

// TestUrgentPointer: urgent data is ordinary data, wherever the pointer points (TCP-07).
func TestUrgentPointer(t *testing.T) {
	o := newOutside(t)
	b := newBench(t, withDial(o.dial))
	c, h := b.connect(o)
	for i, urgent := range []uint16{0, 1, 5, 10, 11, 0x7fff, 0xffff} {
		p := fmt.Appendf(nil, "%010d", i)
		b.send(tcpPacket(c.src, c.dst, packettest.ACK|packettest.URG|packettest.PSH, c.seq, c.ack, c.window, urgent, nil, p))
		c.seq += 10
		readFull(t, h, string(p))
	}
	b.send(tcpPacket(c.src, c.dst, packettest.ACK|packettest.URG, c.seq, c.ack, c.window, 0xffff, nil, nil)) // none at all
	c.send(packettest.FIN|packettest.ACK, nil)
	if n, err := h.Read(make([]byte, 10)); n != 0 || err == nil {
		t.Errorf("outside read %d bytes more, %v; want the end", n, err)
	}
}

// TestPingFlood: a container that pings the gateway without end does not silence another's pings.
func TestPingFlood(t *testing.T) {
	b := newBench(t)
	for i := range 3000 {
		b.send(packettest.Echo(container4, testNet.Gateway4, 1, uint16(i), nil))
	}
	b.frames(packettest.Frame(otherMAC, testNet.GatewayMAC, packettest.Echo(other4, testNet.Gateway4, 7, 7, nil)))
	b.next("reply to the other container", func(p segment) bool { return p.Dst.Addr() == other4 && p.Proto == ip.ICMP })
}
