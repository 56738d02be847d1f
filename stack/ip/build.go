package ip

import (
	"encoding/binary"
	"net/netip"

	"github.com/usernet/usernet/stack/l2"
)

// Theory of operation: packets that start here.
//
// Headers are written into memory of the caller, in front of a payload that is already somewhere,
// so that a datagram received from a host socket is not copied. A checksum is either complete or
// left partial: then the field holds the pseudo header's sum, and the VNet from UDPVNet tells the
// receiver's kernel to do the rest, which for a packet that never leaves the machine is nothing.
//
// A packet with DF has identification 0: it is never fragmented, so nobody needs it (RFC 6864 §4.1).
// One without has a random one.

// UDPOpts are the fields of PutUDPHeaders that have a usual value, which is their zero value.
type UDPOpts struct {
	TTL uint8 // 0 means DefaultTTL
	TOS uint8
	DF  bool // IPv4 only
	// Partial leaves the checksum to the receiver; the frame needs UDPVNet then.
	Partial bool
	// Payload is summed when Partial is false, and not otherwise looked at.
	Payload []byte
}

// UDPHeadersLen is the length of the headers PutUDPHeaders writes for a source of this family.
func UDPHeadersLen(src netip.Addr) int {
	if src.Unmap().Is4() {
		return HeaderLen4 + UDPHeaderLen
	}
	return HeaderLen6 + UDPHeaderLen
}

// PutUDPHeaders writes IP and UDP headers for a payload of the given length into b, which has at
// least UDPHeadersLen(src.Addr()) bytes, and returns how many it wrote. v4-mapped addresses count
// as IPv4. It returns 0 and writes nothing when the addresses are of two families or the datagram
// would not fit into one packet.
func PutUDPHeaders(b []byte, src, dst netip.AddrPort, payload int, opt UDPOpts) int {
	s, d := src.Addr().Unmap(), dst.Addr().Unmap()
	length := UDPHeaderLen + payload
	n := putHeader(b, s, d, UDP, length, opt.TTL, opt.TOS, opt.DF)
	if n == 0 {
		return 0
	}
	u := b[n : n+UDPHeaderLen]
	binary.BigEndian.PutUint16(u, src.Port())
	binary.BigEndian.PutUint16(u[2:], dst.Port())
	binary.BigEndian.PutUint16(u[4:], uint16(length))
	u[6], u[7] = 0, 0
	sum := PseudoSum(s, d, UDP, length)
	if !opt.Partial {
		sum = nonzero(^AddSum(AddSum(sum, Sum(u)), Sum(opt.Payload)))
	}
	binary.BigEndian.PutUint16(u[6:], sum)
	return n + UDPHeaderLen
}

// UDPVNet returns the VNet of a datagram from src whose checksum PutUDPHeaders left partial. With
// segment above 0 the payload is cut by the receiver into datagrams of that many bytes (USO).
func UDPVNet(src netip.Addr, segment int) l2.VNet {
	n := UDPHeadersLen(src)
	v := l2.VNet{
		Flags: l2.VNetNeedsCsum, CsumOffset: sumAtUDP,
		CsumStart: uint16(l2.HeaderLen + n - UDPHeaderLen),
	}
	if segment > 0 {
		v.GSOType, v.GSOSize, v.HdrLen = l2.GSOUDPL4, uint16(segment), uint16(l2.HeaderLen+n)
	}
	return v
}

// putHeader writes an IP header for `length` bytes of payload and returns its length, 0 when the
// families differ or the length does not fit.
func putHeader(b []byte, src, dst netip.Addr, proto uint8, length int, ttl, tos uint8, df bool) int {
	if ttl == 0 {
		ttl = DefaultTTL
	}
	switch {
	case src.Is4() && dst.Is4() && HeaderLen4+length <= maxPacket:
		h := b[:HeaderLen4]
		h[0], h[1] = 4<<4|HeaderLen4/4, tos
		binary.BigEndian.PutUint16(h[2:], uint16(HeaderLen4+length))
		id, word := randomID(), uint16(0)
		if df {
			id, word = 0, flag4DF
		}
		binary.BigEndian.PutUint16(h[4:], id)
		binary.BigEndian.PutUint16(h[6:], word)
		h[8], h[9] = ttl, proto
		s, d := src.As4(), dst.As4()
		copy(h[12:], s[:])
		copy(h[16:], d[:])
		putHeaderSum(h)
		return HeaderLen4
	case src.Is6() && dst.Is6() && length <= maxPacket:
		h := b[:HeaderLen6]
		h[0], h[1], h[2], h[3] = 6<<4|tos>>4, tos<<4, 0, 0
		binary.BigEndian.PutUint16(h[4:], uint16(length))
		h[6], h[7] = proto, ttl
		s, d := src.As16(), dst.As16()
		copy(h[8:], s[:])
		copy(h[24:], d[:])
		return HeaderLen6
	}
	return 0
}

// putHeaderSum writes the checksum of an IPv4 header.
func putHeaderSum(h []byte) {
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], ^Sum(h))
}
