package autoconf

import (
	"net/netip"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	testNet = spec.Network{
		Name: "test", MTU: 1500, GatewayMAC: l2.MAC{0x02, 0, 0, 0, 0, 0x02},
		Subnet4: netip.MustParsePrefix("10.0.2.0/24"), Gateway4: netip.MustParseAddr("10.0.2.2"), DNS4: netip.MustParseAddr("10.0.2.3"),
		Subnet6: netip.MustParsePrefix("fd00::/64"), Gateway6: netip.MustParseAddr("fd00::2"), DNS6: netip.MustParseAddr("fd00::3"),
	}
	guestMAC   = l2.MAC{0x02, 0, 0, 0, 0, 0x64}
	strangeMAC = l2.MAC{0x02, 0, 0, 0, 0, 0x65}
	guestAddr  = netip.MustParseAddr("10.0.2.100")
	guestLL    = linkLocal(guestMAC)
	unset4     = netip.AddrFrom4([4]byte{})
)

// sentPacket is one packet a link has taken.
type sentPacket struct {
	dst netip.Addr
	ip.Packet
}

// link is an Emitter that keeps what it is given. It knows where the addresses in known are.
type link struct {
	t     testing.TB
	known map[netip.Addr]bool

	mu   sync.Mutex
	sent []sentPacket
}

func (l *link) EmitIP(dst netip.Addr, v l2.VNet, l3 [][]byte) bool {
	if !dst.IsMulticast() && dst != broadcast4 && !l.known[dst] {
		return false
	}
	var whole []byte
	for _, b := range l3 {
		whole = append(whole, b...)
	}
	s := sentPacket{dst: dst}
	if r := ip.ParsePacket(&s.Packet, whole); r != drop.None || !s.VerifyTransport() || s.Dst != dst || v != (l2.VNet{}) {
		l.t.Errorf("sent a bad packet to %v: %v %x", dst, r, whole)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent = append(l.sent, s)
	return true
}

// take returns what was sent since the last take.
func (l *link) take() []sentPacket {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sent
	l.sent = nil
	return s
}

// newServer returns a Server for n whose only guest is guestMAC, and its link.
func newServer(t testing.TB, n spec.Network) (*Server, *link) {
	l := &link{t: t, known: map[netip.Addr]bool{guestAddr: true, guestLL: true}}
	s := New(Env{Emit: l, Drops: new(drop.Counters)}, n, Options{
		DNSSearch: []string{"corp.example.", "lan"},
		Lease: func(m l2.MAC) (netip.Addr, string, bool) {
			return guestAddr, "box", m == guestMAC
		},
	})
	t.Cleanup(func() { s.Close() })
	return s, l
}

// datagram is a UDP packet from mac.
func datagram(t testing.TB, mac l2.MAC, src, dst netip.AddrPort, msg []byte) *ip.Packet {
	b := make([]byte, 48, 48+len(msg))
	n := ip.PutUDPHeaders(b, src, dst, len(msg), ip.UDPOpts{Payload: msg})
	if n == 0 {
		t.Fatalf("datagram of %d bytes from %v to %v cannot be", len(msg), src, dst)
	}
	return packet(t, mac, append(b[:n], msg...))
}

func packet(t testing.TB, mac l2.MAC, b []byte) *ip.Packet {
	p := new(ip.Packet)
	if r := ip.ParsePacket(p, b); r != drop.None {
		t.Fatalf("packet %x: %v", b, r)
	}
	p.MAC = mac
	return p
}
