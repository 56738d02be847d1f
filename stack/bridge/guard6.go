package bridge

import (
	"encoding/binary"
	"net/netip"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// ICMPv6 types of RFC 4861, RFC 2710 and RFC 3810 that the guard tells apart.
const (
	icmp6MLDReport    = 131
	icmp6MLDDone      = 132
	icmp6RouterSol    = 133
	icmp6RouterAdv    = 134
	icmp6NeighborSol  = 135
	icmp6NeighborAdv  = 136
	icmp6Redirect     = 137
	icmp6MLDv2Report  = 143
	icmp6Header       = 8
	ndTargetEnd       = 24 // NS and NA: header and target address
	optSourceLinkAddr = 1
	optTargetLinkAddr = 2
)

// IPv6 extension headers.
const (
	extHopByHop    = 0
	extRouting     = 43
	extFragment    = 44
	extAuth        = 51
	extDestination = 60
	// maxExtHeaders is how many headers are walked before a packet counts as malformed. RFC 8200 §4.1
	// recommends each kind once, destination options twice: five; this leaves room.
	maxExtHeaders = 8
)

// upper is the upper-layer header of an IPv6 packet.
type upper struct {
	off      int   // from the start of the IPv6 header
	proto    uint8 // extFragment for a fragment that is not the first: the header is elsewhere
	fragment bool  // there is a fragment header, be it of an atomic fragment
}

// upperLayer walks the extension headers in b. A chain that is cut short is refused, in a first fragment
// too (RFC 7112): what cannot be seen cannot be guarded.
func upperLayer(b []byte) (u upper, r drop.Reason) {
	if len(b) < ipv6Header || b[0]>>4 != 6 {
		return u, drop.IPMalformed
	}
	u.proto, u.off = b[6], ipv6Header
	for range maxExtHeaders {
		n := 0
		switch u.proto {
		case extHopByHop, extRouting, extDestination:
			if len(b) >= u.off+2 {
				n = 8 + int(b[u.off+1])*8
			}
		case extAuth:
			if len(b) >= u.off+2 {
				n = 8 + int(b[u.off+1])*4
			}
		case extFragment:
			n = 8
		default:
			return u, drop.None
		}
		if n == 0 || len(b) < u.off+n {
			return u, drop.IPMalformed
		}
		if u.proto == extFragment {
			u.fragment = true
			if binary.BigEndian.Uint16(b[u.off+2:])&^7 != 0 {
				return u, drop.None
			}
		}
		u.proto, u.off = b[u.off], u.off+n
	}
	return u, drop.IPMalformed
}

// guardIPv6 checks the source of an IPv6 packet and what it says about neighbours.
func (p *Port) guardIPv6(ports *snapshot, f *l2.Frame) drop.Reason {
	b := f.L3[0]
	if len(b) >= ipv6Header {
		// What follows the packet is padding, which no receiver reads.
		b = b[:min(len(b), ipv6Header+int(binary.BigEndian.Uint16(b[4:])))]
	}
	u, r := upperLayer(b)
	if r != drop.None {
		return r
	}
	src := netip.AddrFrom16([16]byte(b[8:24]))
	msg := b[u.off:]
	if src == unspecified6 {
		// A station without an address yet speaks to groups only: DAD, RS and MLD (RFC 4862 §5.4.2,
		// 4861 §4.1, 3590).
		if u.proto != protoICMPv6 || b[24] != 0xff || len(msg) == 0 || !unspecifiedMaySend(msg[0]) {
			return drop.SrcIPSpoofed
		}
	} else if !p.mine(ports, src) {
		return drop.SrcIPSpoofed
	}
	switch u.proto {
	case protoICMPv6:
		return p.guardND(ports, f.Header.Src(), src, msg, u.fragment)
	case protoUDP:
		if len(msg) >= 4 && binary.BigEndian.Uint16(msg[2:]) == portDHCPv6Client {
			return drop.SrcIPSpoofed
		}
	}
	return drop.None
}

func unspecifiedMaySend(icmpType uint8) bool {
	switch icmpType {
	case icmp6NeighborSol, icmp6RouterSol, icmp6MLDReport, icmp6MLDDone, icmp6MLDv2Report:
		return true
	}
	return false
}

// guardND checks a Neighbor Discovery message; other ICMPv6 passes. mac is the frame's source.
func (p *Port) guardND(ports *snapshot, mac l2.MAC, src netip.Addr, msg []byte, fragment bool) drop.Reason {
	if len(msg) == 0 {
		return drop.IPMalformed
	}
	kind := msg[0]
	if kind < icmp6RouterSol || kind > icmp6Redirect {
		return drop.None
	}
	if fragment {
		return drop.IPMalformed // RFC 6980: ND is never fragmented
	}
	option, options := byte(optSourceLinkAddr), ndTargetEnd
	switch kind {
	case icmp6RouterAdv, icmp6Redirect:
		return drop.SrcIPSpoofed
	case icmp6RouterSol:
		options = icmp6Header
	case icmp6NeighborAdv:
		option = optTargetLinkAddr
	}
	if len(msg) < options {
		return drop.IPMalformed
	}
	// The target of an advertisement is a claim. That of a DAD probe is too: it would make a neighbour
	// that is just probing for the address give it up (RFC 4862 §5.4.3).
	var may func(*snapshot, netip.Addr) bool
	switch {
	case kind == icmp6NeighborAdv:
		may = p.mine
	case kind == icmp6NeighborSol && src == unspecified6:
		may = p.mayProbe
	}
	if may != nil && !may(ports, netip.AddrFrom16([16]byte(msg[8:ndTargetEnd]))) {
		return drop.SrcIPSpoofed
	}
	return guardNDOptions(mac, msg[options:], option)
}

// guardNDOptions checks that the link-layer address option of kind want, if there, is the sender's own.
func guardNDOptions(mac l2.MAC, opts []byte, want byte) drop.Reason {
	for len(opts) >= 8 {
		n := int(opts[1]) * 8
		if n == 0 || n > len(opts) {
			return drop.IPMalformed // RFC 4861 §4.6
		}
		if opts[0] == want && (n != 8 || l2.MAC(opts[2:8]) != mac) {
			return drop.SrcMACSpoofed
		}
		opts = opts[n:]
	}
	return drop.None
}
