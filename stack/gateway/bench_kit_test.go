package gateway

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
)

var (
	other4   = netip.MustParseAddr("10.0.2.101")
	otherMAC = l2.MAC{0x52, 0x55, 0x0a, 0, 2, 101}
)

// bench is a gateway between fakes: frames go in through Output on the test's goroutine, as they do on
// a TAP reader's; what comes out, and what reached which service, is recorded. Unlike a world it has
// no TCP/IP stack on the container's side, so a test says everything byte by byte.
type bench struct {
	t     testing.TB
	gw    *Gateway
	drops *drop.Counters
	link  *wireTap

	udp, ping, published, autoconf, dns arrivals
}

func newBench(t testing.TB, opts ...worldOption) *bench {
	t.Helper()
	b := &bench{t: t, drops: new(drop.Counters), link: newWireTap()}
	cfg := Config{Spec: testNet, Drops: b.drops, Log: slog.New(slog.DiscardHandler), Dial: noDial(t)}
	for _, o := range opts {
		o(&cfg)
	}
	cfg.Policy = mustPolicy(t, cfg.Spec)
	gw, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.gw = gw
	t.Cleanup(func() { gw.Close() })
	gw.Use(Services{
		Link: b.link.put, UDP: inputs{&b.udp}, Ping: inputs{&b.ping}, DNS: fakeDNS{&b.dns},
		Autoconf:  claims{&b.autoconf, func(p *ip.Packet) bool { return port(p) == 67 || p.Proto == ip.ICMPv6 }},
		Published: claims{&b.published, func(p *ip.Packet) bool { return port(p) == publishedPort }}.Input,
	})
	gw.AddNeighbour(container4, containerMAC)
	gw.AddNeighbour(container6, containerMAC)
	gw.AddNeighbour(other4, otherMAC)
	return b
}

// publishedPort is the destination port the fake of published ports takes for its own.
const publishedPort = 4711

func port(p *ip.Packet) uint16 {
	_, dst, _ := p.Ports()
	return dst
}

// noDial is for tests in which nothing may be dialled.
func noDial(t testing.TB) func(context.Context, string, netip.Addr, netip.AddrPort) (*net.TCPConn, error) {
	return func(_ context.Context, _ string, _ netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
		t.Errorf("dialled %s", to)
		return nil, net.ErrClosed
	}
}

// send gives the gateway IP packets of the container.
func (b *bench) send(packets ...[]byte) {
	for _, p := range packets {
		b.frames(packettest.Frame(containerMAC, testNet.GatewayMAC, p))
	}
}

func (b *bench) frames(fs ...l2.Frame) {
	b.gw.Output(fs)
	b.gw.Flush()
}

// netstackPackets is how many packets netstack has been given.
func (b *bench) netstackPackets() uint64 {
	s := stackOf(b.t, b.gw).Stats()
	return s.NICs.Rx.Packets.Value() + s.TCP.ValidSegmentsReceived.Value()
}

// stackOf is the netstack of a gateway, made if need be.
func stackOf(t testing.TB, g *Gateway) *gvstack.Stack {
	t.Helper()
	s, err := g.netstack()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wireTap records the frames the gateway sends, for tests that look at one after the other.
type wireTap struct {
	mu   sync.Mutex
	got  []l2.Frame    // guarded by mu; those no test has looked at
	news chan struct{} // holds a token when got grew

	direct atomic.Pointer[func(fs []l2.Frame)] // nil, or who is given the frames instead
}

func newWireTap() *wireTap { return &wireTap{news: make(chan struct{}, 1)} }

func (w *wireTap) put(fs []l2.Frame) {
	if direct := w.direct.Load(); direct != nil {
		(*direct)(fs)
		return
	}
	w.mu.Lock()
	for _, f := range fs {
		w.got = append(w.got, packettest.Clone(f))
	}
	w.mu.Unlock()
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// take returns what came since the last call.
func (w *wireTap) take() []l2.Frame {
	w.mu.Lock()
	defer w.mu.Unlock()
	got := w.got
	w.got = nil
	return got
}

// packetWait is how long an answer may take. Answers take microseconds; the machine may be busy.
const packetWait = 10 * time.Second

// next waits for an IP packet that match accepts and returns it. What came before it is forgotten.
func (b *bench) next(what string, match func(p segment) bool) segment {
	b.t.Helper()
	timeout := time.After(packetWait)
	var seen []segment
	for {
		b.link.mu.Lock()
		for len(b.link.got) > 0 {
			f := b.link.got[0]
			b.link.got = b.link.got[1:]
			s, err := decode(f)
			if err != nil {
				continue
			}
			if match(s) {
				b.link.mu.Unlock()
				return s
			}
			seen = append(seen, s)
		}
		b.link.mu.Unlock()
		select {
		case <-b.link.news:
		case <-timeout:
			b.t.Fatalf("no %s in %v; came: %v; drops: %v", what, packetWait, seen, b.drops.Snapshot())
		}
	}
}

// nothing fails the test when an IP packet that match accepts was sent before one that a ping of the
// gateway made later brought back.
func (b *bench) nothing(what string, match func(p segment) bool) {
	b.t.Helper()
	const mark = 0xfeed
	b.send(packettest.Echo(container4, testNet.Gateway4, mark, mark, nil))
	b.next("answer to a ping", func(p segment) bool {
		if match(p) {
			b.t.Errorf("%s was sent: %v", what, p)
		}
		return p.Proto == ip.ICMP && p.Kind == 0 && p.id() == mark
	})
}

// segment is an IP packet the gateway sent, with what packettest does not take apart.
type segment struct {
	packettest.Decoded
	l4     []byte
	window uint16
	opts   []byte
	gso    int // payload bytes of each segment this one is to be cut into; 0: not to be cut
}

func (s segment) id() uint16 { return binary.BigEndian.Uint16(s.l4[4:]) }

// options returns the TCP options by kind.
func (s segment) options() map[byte][]byte {
	m := make(map[byte][]byte)
	for o := s.opts; len(o) > 0 && o[0] != 0; {
		if o[0] == 1 {
			o = o[1:]
			continue
		}
		m[o[0]] = o[2:o[1]]
		o = o[o[1]:]
	}
	return m
}

func decode(f l2.Frame) (s segment, err error) {
	s.Decoded, err = packettest.Decode(f)
	if err != nil {
		return s, err
	}
	b := packettest.Bytes(f)[l2.HeaderLen:]
	at := 40
	if s.Src.Addr().Is4() {
		at = int(b[0]&15) * 4
	}
	s.l4, s.gso = b[at:], int(f.VNet.GSOSize)
	if s.Proto == ip.TCP {
		s.window = binary.BigEndian.Uint16(s.l4[14:])
		s.opts = s.l4[20 : int(s.l4[12]>>4)*4]
	}
	return s, nil
}

// arrivals records what reached one service.
type arrivals struct {
	mu  sync.Mutex
	got []string // guarded by mu
}

func (a *arrivals) add(p *ip.Packet) {
	src, dst, _ := p.Ports()
	payload, ok := p.UDPPayload()
	if !ok {
		payload = p.Payload()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.got = append(a.got, fmt.Sprintf("%s > %s, %d bytes",
		netip.AddrPortFrom(p.Src, src), netip.AddrPortFrom(p.Dst, dst), len(payload)))
}

func (a *arrivals) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	got := a.got
	a.got = nil
	return got
}

// inputs is a service that takes everything.
type inputs struct{ *arrivals }

func (i inputs) Input(p *ip.Packet) { i.add(p) }
func (i inputs) Flush()             {}

// claims is a service that takes what is its own.
type claims struct {
	*arrivals
	mine func(p *ip.Packet) bool
}

func (c claims) Input(p *ip.Packet) bool {
	if !c.mine(p) {
		return false
	}
	c.add(p)
	return true
}

// fakeDNS answers a query with itself, and every TCP connection by closing it.
type fakeDNS struct{ *arrivals }

func (d fakeDNS) HandleUDP(query []byte, from netip.AddrPort, reply func([]byte)) {
	d.mu.Lock()
	d.got = append(d.got, fmt.Sprintf("%s, %d bytes", from, len(query)))
	d.mu.Unlock()
	reply(slices.Clone(query))
}

func (d fakeDNS) ServeTCP(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		c.Close()
	}
}

// fragments cuts an IPv4 packet behind its 20-byte header at the given offsets, multiples of 8.
func fragments(packet []byte, id uint16, cuts ...int) [][]byte {
	var out [][]byte
	from, data := 0, packet[20:]
	for _, to := range append(cuts, len(data)) {
		f := append(slices.Clone(packet[:20]), data[from:to]...)
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		binary.BigEndian.PutUint16(f[4:], id)
		word := uint16(from / 8)
		if to < len(data) {
			word |= 0x2000
		}
		binary.BigEndian.PutUint16(f[6:], word)
		out = append(out, packettest.FixIPv4(f))
		from = to
	}
	return out
}

// fragments6 is fragments for IPv6 packets without extension headers.
func fragments6(packet []byte, id uint32, cuts ...int) [][]byte {
	var out [][]byte
	from, data := 0, packet[40:]
	for _, to := range append(cuts, len(data)) {
		f := slices.Clone(packet[:40])
		word := uint16(from)
		if to < len(data) {
			word |= 1
		}
		f = append(f, packet[6], 0)
		f = binary.BigEndian.AppendUint16(f, word)
		f = binary.BigEndian.AppendUint32(f, id)
		f = append(f, data[from:to]...)
		f[6] = 44
		binary.BigEndian.PutUint16(f[4:], uint16(len(f)-40))
		out = append(out, f)
		from = to
	}
	return out
}

// withTTL sets the TTL or hop limit of a packet.
func withTTL(p []byte, ttl uint8) []byte {
	if p[0]>>4 == 6 {
		p[7] = ttl
		return p
	}
	p[8] = ttl
	return packettest.FixIPv4(p)
}

// refuseAll is a Dial that tells what it was asked and refuses.
func refuseAll(dialled chan<- netip.AddrPort) func(context.Context, string, netip.Addr, netip.AddrPort) (*net.TCPConn, error) {
	return func(_ context.Context, _ string, _ netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
		dialled <- to
		return nil, syscall.ECONNREFUSED
	}
}
