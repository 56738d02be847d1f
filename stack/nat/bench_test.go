package nat

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
)

// counter is an Emitter that counts datagrams and allocates nothing.
type counter struct {
	n    atomic.Int64
	wake chan struct{} // has room for one
}

func (c *counter) EmitIP(_ netip.Addr, v l2.VNet, l3 [][]byte) bool {
	n := 1
	if v.GSOSize > 0 {
		n = (len(l3[1]) + int(v.GSOSize) - 1) / int(v.GSOSize)
	}
	c.n.Add(int64(n))
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return true
}

// startEcho answers on the host's loopback with batches, so it is not what is measured.
func startEcho(b testing.TB) netip.AddrPort {
	s := listen(b, "127.0.0.1:0")
	rc, err := s.SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	if err := sys.SetOptions(rc, false, sys.OptUDPGRO); err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		in, out := sys.NewRecvBatch(32, 65535), sys.NewSendBatch(32, 1)
		parts := make([][]byte, 1)
		for {
			n, err := in.Recv(rc)
			if err != nil {
				return
			}
			for i := range n {
				m := in.Message(i)
				parts[0] = m.Data
				out.Add(&sys.Datagram{To: m.From, Data: parts, Segment: m.Segment})
			}
			_, _ = out.Send(rc)
		}
	}()
	b.Cleanup(func() { s.Close(); <-done })
	return s.addr()
}

// echoBench sends windows of datagrams through Input and waits for each to come back.
func echoBench(b *testing.B, size, window int) {
	n := testNetwork()
	c := &counter{wake: make(chan struct{}, 1)}
	u := NewUDP(Env{Emit: c}, mustPolicy(b, n, nil), n)
	defer u.Close()
	d := datagram{from: a1, to: fmt.Sprintf("10.0.2.2:%d", startEcho(b).Port()), payload: pattern(size)}
	p := d.packet(b)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	var sent int64
	for b.Loop() {
		u.Input(p)
		if sent++; sent%int64(window) != 0 {
			continue
		}
		u.Flush()
		for c.n.Load() < sent {
			<-c.wake
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "datagrams/s")
}

func BenchmarkUDPEcho(b *testing.B) {
	for _, size := range []int{1, 1400} {
		for _, window := range []int{1, 32} {
			b.Run(fmt.Sprintf("%dB/window%d", size, window), func(b *testing.B) { echoBench(b, size, window) })
		}
	}
}

func BenchmarkFlowTable(b *testing.B) {
	n := testNetwork()
	u := NewUDP(Env{Emit: &counter{}}, mustPolicy(b, n, nil), n)
	defer u.Close()
	p := datagram{from: a1, to: "203.0.113.1:9"}.packet(b)
	key, dst := netip.MustParseAddrPort(a1), netip.MustParseAddrPort("203.0.113.1:9")
	peer := dst.Addr()
	for _, batch := range []int{1, 32} {
		b.Run(fmt.Sprintf("batch%d", batch), func(b *testing.B) {
			n := 0
			for b.Loop() {
				f := u.s.flow(p, key, idleLong, false)
				f.sent(p, dst, peer)
				if n++; n%batch == 0 {
					u.Flush()
				}
			}
		})
	}
}

// BenchmarkFlowTableGrowth finds one of many flows: batches of 32 datagrams, each batch of another flow. 25 to 27 ns a
// datagram with one flow, 26 to 35 with 5000, whose memory is not all in the cache (2 CPUs).
func BenchmarkFlowTableGrowth(b *testing.B) {
	for _, flows := range []int{1, 5000} {
		b.Run(fmt.Sprintf("%dflows", flows), func(b *testing.B) {
			n := testNetwork()
			n.Limits.UDPFlows = flows
			u := NewUDP(Env{Emit: &counter{}}, mustPolicy(b, n, nil), n)
			defer u.Close()
			// The table is what is measured: all flows share a socket.
			sock, err := openSocket(ip.UDP, false, netip.Addr{})
			if err != nil {
				b.Fatal(err)
			}
			u.s.openSocket = func(uint8, bool, netip.Addr) (*socket, error) { return sock, nil }
			p := datagram{from: a1, to: "203.0.113.1:9"}.packet(b)
			addr := netip.MustParseAddrPort(a1).Addr()
			key := func(i int) netip.AddrPort { return netip.AddrPortFrom(addr, uint16(1024+i%flows)) }
			for i := range flows {
				if u.s.flow(p, key(i), idleLong, false) == nil {
					b.Fatal("no flow")
				}
			}
			i := 0
			for b.Loop() {
				u.s.flow(p, key(i/32*7919), idleLong, false)
				if i++; i%32 == 0 {
					u.Flush()
				}
			}
		})
	}
}
