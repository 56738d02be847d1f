package bridge

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// The guard decides whether a frame may leave the port it came from under the addresses it carries. It
// looks at source addresses wherever a receiver would believe them: the IP header, the ARP sender, the
// ND target and link-layer options. It also keeps what only the gateway may say: redirects, router
// advertisements, DHCP answers. Everything it refuses would otherwise put a line into a neighbour's tables.
//
// Refused are, as drop.SrcIPSpoofed, claims of an IP address or of the gateway's role; as
// drop.SrcMACSpoofed, claims of a link address; as drop.IPMalformed, headers too short to tell.

var (
	broadcast4   = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	unspecified4 = netip.IPv4Unspecified()
	unspecified6 = netip.IPv6Unspecified()
)

const (
	icmpRedirect = 5

	portDHCPServer   = 67
	portDHCPClient   = 68
	portDHCPv6Client = 546
)

// mine reports whether a packet from a may leave the port.
func (p *Port) mine(ports *snapshot, a netip.Addr) bool {
	if p.cfg.Strict {
		return slices.Contains(p.cfg.Addrs, a) || a == p.linkLocal && ports.owner[a] == p
	}
	if q := ports.owner[a]; q != nil {
		return q == p
	}
	if a.Is6() && a.IsLinkLocalUnicast() {
		return true
	}
	if !ofStation(a) {
		return false // whatever the subnets are
	}
	for _, s := range p.cfg.Subnets {
		if s.Contains(a) {
			return !edge(s, a)
		}
	}
	return false
}

// mayProbe reports whether the port may ask whether anybody has a, in order to take it. Our own addresses it may ask for: it cannot
// have them, and is told so (RFC 5227 §2.1.1, RFC 4862 §5.4.4).
func (p *Port) mayProbe(ports *snapshot, a netip.Addr) bool {
	q := ports.owner[a]
	return q != nil && q.cfg.Trusted || p.mine(ports, a)
}

// ofStation reports whether a station can have a: no group has it, it is not a loopback address or one of the blocks
// that kernels treat as they please (0/8, 240/4).
func ofStation(a netip.Addr) bool {
	if a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240) {
		return false
	}
	return !a.Is4In6() && (a.IsGlobalUnicast() || a.IsLinkLocalUnicast())
}

// edge reports whether a is the network or the broadcast address of an IPv4 subnet: no station's.
func edge(s netip.Prefix, a netip.Addr) bool {
	if !a.Is4() || s.Bits() >= 31 { // RFC 3021: a /31 has no edges
		return false
	}
	b, host := a.As4(), ^uint32(0)>>s.Bits()
	n := binary.BigEndian.Uint32(b[:]) & host
	return n == 0 || n == host
}

// guardIPv4 checks the source of an IPv4 packet.
func (p *Port) guardIPv4(ports *snapshot, f *l2.Frame) drop.Reason {
	t, ok := findTransport(f)
	if !ok {
		return drop.IPMalformed
	}
	b := f.L3[0]
	src, dst := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	var dstPort uint16
	first := binary.BigEndian.Uint16(b[6:])&0x1fff == 0
	if first && t.proto == protoUDP && len(b) >= t.off+udpHeader {
		dstPort = binary.BigEndian.Uint16(b[t.off+2:])
	}
	switch {
	case src == unspecified4:
		// A DHCP client without an address yet (RFC 2131 §4.1).
		if dstPort != portDHCPServer || dst != broadcast4 {
			return drop.SrcIPSpoofed
		}
	case !p.mine(ports, src):
		return drop.SrcIPSpoofed
	}
	if dstPort == portDHCPClient {
		return drop.SrcIPSpoofed
	}
	if first && t.proto == protoICMP && len(b) > t.off && b[t.off] == icmpRedirect {
		return drop.SrcIPSpoofed
	}
	return drop.None
}

// ARP for IPv4 over Ethernet (RFC 826): fixed header, then sender and target, each MAC and address.
const (
	arpLen     = 28
	arpRequest = 1
	arpReply   = 2
)

// guardARP checks the sender of an ARP message, and the target of a probe (RFC 5227): a probe for the
// address a neighbour is just probing for would make that one give it up.
func (p *Port) guardARP(ports *snapshot, f *l2.Frame) drop.Reason {
	b := f.L3[0]
	if len(b) < arpLen || [6]byte(b[:6]) != [6]byte{0, 1, 0x08, 0, 6, 4} {
		return drop.IPMalformed
	}
	op := binary.BigEndian.Uint16(b[6:])
	if op != arpRequest && op != arpReply {
		return drop.IPMalformed
	}
	if l2.MAC(b[8:14]) != f.Header.Src() {
		return drop.SrcMACSpoofed
	}
	if b[14] == 127 || b[24] == 127 {
		return drop.Loopback // a kernel with route_localnet answers for its loopback addresses
	}
	claimed := netip.AddrFrom4([4]byte(b[14:18]))
	may := p.mine
	if claimed == unspecified4 && op == arpRequest {
		claimed, may = netip.AddrFrom4([4]byte(b[24:28])), p.mayProbe
	}
	if !may(ports, claimed) {
		return drop.SrcIPSpoofed
	}
	return drop.None
}
