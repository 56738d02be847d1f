package nat

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// got is one packet as a container's socket, or its ICMP, would see it: a train is taken apart.
type got struct {
	src, dst netip.AddrPort // ports of UDP only
	proto    uint8
	ttl, tos uint8
	payload  []byte // of UDP; of ICMP the whole message
	err      ip.Quoted
	train    int // datagrams in the packet it came in
}

// link is an Emitter that is all containers at once.
type link struct {
	t     testing.TB
	ch    chan got
	drops drop.Counters
}

func newLink(t testing.TB) *link { return &link{t: t, ch: make(chan got, 8192)} }

func (l *link) env() Env { return Env{Emit: l, Drops: &l.drops} }

// EmitIP checks the packet as a kernel would and queues what is in it.
func (l *link) EmitIP(dst netip.Addr, v l2.VNet, l3 [][]byte) bool {
	b := bytes.Join(l3, nil)
	if v.Flags&l2.VNetNeedsCsum != 0 {
		sum, at, ok := ip.CompleteSum(v, l3)
		if !ok {
			l.t.Errorf("partial checksum outside the packet: %+v", v)
			return false
		}
		binary.BigEndian.PutUint16(b[at:], sum)
	}
	var p ip.Packet
	if r := ip.ParsePacket(&p, b); r != drop.None || p.Dst != dst || !p.VerifyTransport() {
		l.t.Errorf("bad packet to %s: %v, %+v", dst, r, p)
		return false
	}
	g := got{proto: p.Proto, ttl: p.TTL, tos: p.TOS, payload: p.Payload(), train: 1,
		src: netip.AddrPortFrom(p.Src, 0), dst: netip.AddrPortFrom(p.Dst, 0)}
	if p.Proto != ip.UDP {
		ip.ParseQuoted(&g.err, &p)
		l.ch <- g
		return true
	}
	sport, dport, _ := p.Ports()
	g.src, g.dst = netip.AddrPortFrom(p.Src, sport), netip.AddrPortFrom(p.Dst, dport)
	payload, _ := p.UDPPayload()
	size := len(payload)
	if v.GSOType == l2.GSOUDPL4 {
		size = int(v.GSOSize)
		g.train = (len(payload) + size - 1) / size
	}
	for {
		n := min(size, len(payload))
		g.payload = payload[:n]
		l.ch <- g
		if payload = payload[n:]; len(payload) == 0 {
			return true
		}
	}
}

// next is the next packet to a container.
func (l *link) next() got {
	l.t.Helper()
	select {
	case g := <-l.ch:
		return g
	case <-time.After(30 * time.Second):
		l.t.Fatalf("nothing came back; drops %v", l.drops.Snapshot())
		panic("unreachable")
	}
}

// nothing fails the test when there is something for a container. Callers have waited for a later event.
func (l *link) nothing() {
	l.t.Helper()
	select {
	case g := <-l.ch:
		l.t.Errorf("unexpected packet %+v", g)
	default:
	}
}

// testNetwork is the private Network with the host's loopback behind the gateway.
func testNetwork() spec.Network {
	n := privateNetwork()
	n.Policy.HostLoopback = true
	return n
}

func mustPolicy(t testing.TB, n spec.Network, r *Reserved) *Policy {
	t.Helper()
	p, err := NewPolicy(n, r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func startUDP(t testing.TB, l *link, n spec.Network) *UDP {
	u := NewUDP(l.env(), mustPolicy(t, n, nil), n)
	t.Cleanup(func() { u.Close() })
	return u
}

// datagram is what a container sends.
type datagram struct {
	from, to string
	payload  []byte
	ttl, tos uint8
	df       bool
	segment  int // USO
}

func (d datagram) packet(t testing.TB) *ip.Packet {
	t.Helper()
	src, dst := netip.MustParseAddrPort(d.from), netip.MustParseAddrPort(d.to)
	b := make([]byte, ip.UDPHeadersLen(src.Addr())+len(d.payload))
	n := ip.PutUDPHeaders(b, src, dst, len(d.payload), ip.UDPOpts{TTL: d.ttl, TOS: d.tos, DF: d.df, Payload: d.payload})
	copy(b[n:], d.payload)
	p := new(ip.Packet)
	if r := ip.ParsePacket(p, b); r != drop.None {
		t.Fatalf("%+v: %v", d, r)
	}
	if !src.Addr().Is4() {
		p.DF = d.df
	}
	if d.segment > 0 {
		p.VNet = ip.UDPVNet(src.Addr(), d.segment)
	}
	p.MAC = macOf(src.Addr())
	return p
}

func macOf(a netip.Addr) l2.MAC {
	b := a.As16()
	return l2.MAC{2, 0, 0, 0, b[14], b[15]}
}

func (u *UDP) input(t testing.TB, d datagram) {
	t.Helper()
	u.Input(d.packet(t))
	u.Flush()
}

// server is a UDP socket of the host.
type server struct {
	*net.UDPConn
	t    testing.TB
	seen atomic.Uint64
}

func listen(t testing.TB, addr string) *server {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadBuffer(1 << 20)
	t.Cleanup(func() { c.Close() })
	return &server{UDPConn: c, t: t}
}

func (s *server) port() uint16 { return s.addr().Port() }

func (s *server) addr() netip.AddrPort {
	ap := s.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// next is the next datagram to the server and the outside address it came from.
func (s *server) next() (netip.AddrPort, []byte) {
	s.t.Helper()
	b := make([]byte, 65536)
	_ = s.SetReadDeadline(time.Now().Add(30 * time.Second))
	n, from, err := s.ReadFromUDPAddrPort(b)
	if err != nil {
		s.t.Fatal(err)
	}
	return netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), b[:n]
}

// reply sends to an outside address.
func (s *server) reply(to netip.AddrPort, payload []byte) {
	s.t.Helper()
	if _, err := s.WriteToUDPAddrPort(payload, to); err != nil {
		s.t.Fatal(err)
	}
}

// echo answers everything until the test ends.
func (s *server) echo() *server {
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 65536)
		for {
			n, from, err := s.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			s.seen.Add(1)
			_, _ = s.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	s.t.Cleanup(func() { s.Close(); <-done })
	return s
}

// farHosts counts the addresses behind the router that have been used.
var farHosts atomic.Uint32

// farHost is an address behind the router's narrow link that no test has sent to, so the kernel knows
// nothing of the path yet.
func farHost(v6 bool) string {
	n := farHosts.Add(1)
	if v6 {
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 1, 0, 14: byte(n >> 8), 15: byte(n)}).String()
	}
	return netip.AddrFrom4([4]byte{198, 51, 100, byte(1 + n%250)}).String()
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}
