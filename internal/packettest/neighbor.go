package packettest

import (
	"encoding/binary"
	"net/netip"

	"github.com/usernet/usernet/stack/l2"
)

// ARP operations.
const (
	ARPRequest = 1
	ARPReply   = 2
)

// ARP makes an ARP message as the sender itself would send it: to everybody when target is zero.
func ARP(op uint16, sender l2.MAC, from netip.Addr, target l2.MAC, to netip.Addr) l2.Frame {
	b := []byte{0, 1, 0x08, 0, 6, 4}
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(append(b, sender[:]...), from.AsSlice()...)
	b = append(append(b, target[:]...), to.AsSlice()...)
	dst := target
	if dst.IsZero() {
		dst = l2.Broadcast
	}
	return Ether(sender, dst, l2.TypeARP, b)
}

// All nodes and all routers on the link (RFC 4291 §2.7.1).
var (
	AllNodes   = netip.MustParseAddr("ff02::1")
	AllRouters = netip.MustParseAddr("ff02::2")
)

// GroupMAC is the link address of a multicast group (RFC 1112 §6.4, RFC 2464 §7).
func GroupMAC(group netip.Addr) l2.MAC {
	if group.Is4() {
		a := group.As4()
		return l2.MAC{0x01, 0x00, 0x5e, a[1] & 0x7f, a[2], a[3]}
	}
	a := group.As16()
	return l2.MAC{0x33, 0x33, a[12], a[13], a[14], a[15]}
}

// SolicitedNode is the group a station with addr listens to (RFC 4291 §2.7.1).
func SolicitedNode(addr netip.Addr) netip.Addr {
	a := addr.As16()
	return netip.AddrFrom16([16]byte{0xff, 0x02, 11: 1, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]})
}

// LinkLocal is the link-local address derived from a MAC (RFC 4291 appendix A).
func LinkLocal(m l2.MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{
		0xfe, 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5],
	})
}

// linkAddr is the source (1) or target (2) link-layer address option of ND.
func linkAddr(kind byte, m l2.MAC) []byte { return append([]byte{kind, 1}, m[:]...) }

// ND makes any ICMPv6 message of Neighbor Discovery with hop limit 255, to the group's or dstMAC's link address.
func ND(srcMAC, dstMAC l2.MAC, src, dst netip.Addr, kind uint8, rest uint32, body []byte) l2.Frame {
	if dst.IsMulticast() {
		dstMAC = GroupMAC(dst)
	}
	return Frame(srcMAC, dstMAC, ipPacket(src, dst, ProtoICMPv6, 255, icmp(kind, 0, rest, body)))
}

// NS makes a neighbour solicitation for target; src is unspecified for duplicate address detection.
func NS(mac l2.MAC, src, target netip.Addr) l2.Frame {
	body := target.AsSlice()
	if !src.IsUnspecified() {
		body = append(body, linkAddr(1, mac)...)
	}
	return ND(mac, l2.MAC{}, src, SolicitedNode(target), 135, 0, body)
}

// NA makes an unsolicited neighbour advertisement to all nodes that overrides what they know.
func NA(mac l2.MAC, target netip.Addr) l2.Frame {
	return ND(mac, l2.MAC{}, target, AllNodes, 136, 1<<29, append(target.AsSlice(), linkAddr(2, mac)...))
}

// RS makes a router solicitation.
func RS(mac l2.MAC, src netip.Addr) l2.Frame {
	return ND(mac, l2.MAC{}, src, AllRouters, 133, 0, linkAddr(1, mac))
}

// RA makes a router advertisement: a default router for 1800 s and an autonomous prefix.
func RA(mac l2.MAC, src netip.Addr, prefix netip.Prefix) l2.Frame {
	body := make([]byte, 8) // reachable and retransmission time
	body = append(body, 3, 4, byte(prefix.Bits()), 0xc0)
	body = binary.BigEndian.AppendUint32(body, 1800)
	body = binary.BigEndian.AppendUint32(body, 1800)
	body = append(append(body, 0, 0, 0, 0), prefix.Addr().AsSlice()...)
	body = append(body, linkAddr(1, mac)...)
	return ND(mac, l2.MAC{}, src, AllNodes, 134, 64<<24|1800, body)
}

// Redirect6 makes an ICMPv6 redirect: dst is better reached through target.
func Redirect6(mac, dstMAC l2.MAC, src, victim, target, dst netip.Addr) l2.Frame {
	return ND(mac, dstMAC, src, victim, 137, 0, append(target.AsSlice(), dst.AsSlice()...))
}

// DHCPDiscover makes the broadcast a client without an address starts with (RFC 2131 §4.4.1). Message
// type and end are its only options.
func DHCPDiscover(mac l2.MAC, xid uint32) l2.Frame {
	p := make([]byte, 240, 300)
	p[0], p[1], p[2] = 1, 1, 6
	binary.BigEndian.PutUint32(p[4:], xid)
	p[10] = 0x80 // answer by broadcast
	copy(p[28:], mac[:])
	copy(p[236:], []byte{99, 130, 83, 99})
	p = append(p, 53, 1, 1, 255)
	p = append(p, make([]byte, 300-len(p))...) // BOOTP's minimum
	any4, all := netip.IPv4Unspecified(), netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return Frame(mac, l2.Broadcast, UDP(netip.AddrPortFrom(any4, 68), netip.AddrPortFrom(all, 67), p))
}
