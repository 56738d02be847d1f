package gateway

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
)

// Who asks for the link address of one of our addresses is told it here, for ARP (RFC 826) and neighbour discovery (RFC 4861). It is the
// first thing every container asks, and often the only one: netstack, which could answer too, need not be made for it. What
// netstack asks itself (find) it is told the answers to.
//
// That a question is well-formed, and its sender who it says, the switch has seen to (bridge's guard).

// ARP for IPv4 over Ethernet: fixed header, then MAC and address of the sender and of the target.
const (
	arpLen     = 28
	arpRequest = 1
	arpReply   = 2
)

// inputARP answers what concerns our own addresses and no other: not a container's probe for its own, for one (RFC 5227).
func (g *Gateway) inputARP(f *l2.Frame) {
	b := f.L3[0]
	if len(b) < arpLen {
		g.drops.Add(drop.IPMalformed)
		return
	}
	sender := l2.MAC(b[8:14])
	from := netip.AddrFrom4([4]byte(b[14:18]))
	target := netip.AddrFrom4([4]byte(b[24:28]))
	if g.cfg.Spec.Subnet4.Contains(from) || g.cfg.Spec.AnyNeighbour {
		g.learn(from, sender)
	}
	switch op := binary.BigEndian.Uint16(b[6:]); {
	case op != arpRequest:
		g.inputAnswer(f, header.ARPProtocolNumber, b)
	case g.answersFor(from, target):
		var reply [arpLen]byte
		copy(reply[:8], b)
		reply[7] = arpReply
		copy(reply[8:], g.cfg.Spec.GatewayMAC[:])
		copy(reply[14:], b[24:28])
		copy(reply[18:], b[8:18])
		g.emit(sender, l2.TypeARP, l2.VNet{}, [][]byte{reply[:]})
	default:
		g.drops.Add(drop.NotForUs)
	}
}

// inputAnswer is told where an address lives. Only netstack may have asked.
func (g *Gateway) inputAnswer(f *l2.Frame, proto tcpip.NetworkProtocolNumber, b []byte) {
	if g.stack.known.Load() != nil {
		g.link.inject(f, proto, b, 0, len(b))
	}
}

// answersFor reports whether the gateway's link address is to be told to who asks from one address for another: for our
// own, and with AnyNeighbour for all that are no container's. Not for the one it asks from, nor to who asks
// without an address: it is about to take the one it asks for.
func (g *Gateway) answersFor(from, target netip.Addr) bool {
	if g.own[target] {
		return true
	}
	if !g.cfg.Spec.AnyNeighbour || from.IsUnspecified() || from == target {
		return false
	}
	if !target.IsGlobalUnicast() && !target.IsLinkLocalUnicast() {
		return false
	}
	_, taken := g.neighbours.lookup(target)
	return !taken
}

// ndpHopLimit shows that a message of neighbour discovery comes from this link.
const ndpHopLimit = 255

// inputSolicitation answers a neighbour solicitation, or drops it.
func (g *Gateway) inputSolicitation(p *ip.Packet, b []byte) {
	const length = 24 // header and target
	if len(b) < length || g.cfg.Spec.Autoconf.NoNDP {
		g.drops.Add(drop.NotForUs)
		return
	}
	target := netip.AddrFrom16([16]byte(b[8:length]))
	from, known := sourceLinkAddr(b[length:])
	switch {
	case p.TTL != ndpHopLimit || b[1] != 0, !known, p.Src.IsUnspecified() && (from || !p.Dst.IsMulticast()):
		// RFC 4861 §7.1.1: not from this link, or by nobody to one station or with a link address.
		g.drops.Add(drop.IPMalformed)
	case g.answersFor(p.Src, target):
		g.advertise(p, target)
	default:
		g.drops.Add(drop.NotForUs)
	}
}

// sourceLinkAddr reports whether the options of a solicitation have a link address among them; ok is false when they are not well-formed.
func sourceLinkAddr(options []byte) (has, ok bool) {
	const unit, sourceLinkAddr = 8, 1
	for len(options) > 0 {
		if len(options) < unit {
			return has, false
		}
		n := int(options[1]) * unit
		if n == 0 || n > len(options) {
			return has, false
		}
		has = has || options[0] == sourceLinkAddr
		options = options[n:]
	}
	return has, true
}

// advertise tells the sender of p that target lives at the gateway's link address (RFC 4861 §4.4); a sender that is about to take the
// address itself has none yet, so all are told (§7.2.4).
func (g *Gateway) advertise(p *ip.Packet, target netip.Addr) {
	const router, solicited, override, targetLinkAddr = 0x80, 0x40, 0x20, 2
	to, mac, flags := p.Src, p.MAC, byte(solicited|override)
	if to.IsUnspecified() {
		to, flags = netip.IPv6LinkLocalAllNodes(), override
		mac, _ = g.resolve(to)
	}
	if g.own[target] {
		// A station that hears from its router without this takes it for one no longer, and its default route away (§7.2.5).
		flags |= router
	}
	var b [ip.HeaderLen6 + 32]byte
	b[0], b[5], b[6], b[7] = 6<<4, 32, ip.ICMPv6, ndpHopLimit
	from, dst := target.As16(), to.As16()
	copy(b[8:], from[:])
	copy(b[24:], dst[:])
	m := b[ip.HeaderLen6:]
	m[0], m[4] = icmp6NeighborAdv, flags
	copy(m[8:], from[:])
	m[24], m[25] = targetLinkAddr, 1
	copy(m[26:], g.cfg.Spec.GatewayMAC[:])
	binary.BigEndian.PutUint16(m[2:], ip.Checksum(m, ip.PseudoSum(target, to, ip.ICMPv6, len(m))))
	g.emit(mac, l2.TypeIPv6, l2.VNet{}, [][]byte{b[:]})
}
