package packettest

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/usernet/usernet/stack/l2"
)

// IP protocol numbers.
const (
	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58
)

// TCP flags.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

// TTL is the TTL or hop limit of packets that IP builds. ND messages have 255.
const TTL = 64

// Station is somebody on the link.
type Station struct {
	MAC l2.MAC
	IP4 netip.Addr
	IP6 netip.Addr
}

// NewStation makes the n-th station of 10.0.2.0/24 and fd00::/64: MAC 02:42:00:00:00:n, 10.0.2.n, fd00::n.
func NewStation(n byte) Station {
	return Station{
		MAC: l2.MAC{0x02, 0x42, 0, 0, 0, n},
		IP4: netip.AddrFrom4([4]byte{10, 0, 2, n}),
		IP6: netip.AddrFrom16([16]byte{0xfd, 15: n}),
	}
}

// Frame puts an IP packet into a frame; the version nibble gives the EtherType.
func Frame(src, dst l2.MAC, packet []byte) l2.Frame {
	t := l2.TypeIPv4
	if len(packet) > 0 && packet[0]>>4 == 6 {
		t = l2.TypeIPv6
	}
	return Ether(src, dst, t, packet)
}

// Ether makes a frame of any EtherType.
func Ether(src, dst l2.MAC, t l2.EtherType, l3 []byte) l2.Frame {
	return l2.Frame{Header: l2.MakeHeader(dst, src, t), L3: [][]byte{l3}}
}

// Raw makes a frame from its bytes as they are on the wire. b has at least l2.HeaderLen bytes.
func Raw(b []byte) l2.Frame {
	return l2.Frame{Header: l2.Header(b[:l2.HeaderLen]), L3: [][]byte{b[l2.HeaderLen:]}}
}

// Bytes returns a frame as it is on the wire, in memory of its own.
func Bytes(f l2.Frame) []byte {
	b := append([]byte(nil), f.Header[:]...)
	for _, p := range f.L3 {
		b = append(b, p...)
	}
	return b
}

// IP makes an IPv4 or IPv6 packet around a transport header with payload. The checksum of TCP, UDP and
// ICMP in it is filled in.
func IP(src, dst netip.Addr, proto uint8, l4 []byte) []byte {
	return ipPacket(src, dst, proto, TTL, l4)
}

func ipPacket(src, dst netip.Addr, proto, ttl uint8, l4 []byte) []byte {
	if src.Is4() != dst.Is4() || !src.IsValid() || !dst.IsValid() {
		panic(fmt.Sprintf("packettest: source %v and destination %v are of different families", src, dst))
	}
	var h []byte
	if src.Is4() {
		h = make([]byte, 20)
		h[0] = 0x45
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(l4)))
		h[6] = 0x40 // DF
		h[8], h[9] = ttl, proto
		copy(h[12:], src.AsSlice())
		copy(h[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(h[10:], ^sum(0, h))
	} else {
		h = make([]byte, 40)
		h[0] = 0x60
		binary.BigEndian.PutUint16(h[4:], uint16(len(l4)))
		h[6], h[7] = proto, ttl
		copy(h[8:], src.AsSlice())
		copy(h[24:], dst.AsSlice())
	}
	p := append(h, l4...)
	if at := checksumAt(proto); at >= 0 && len(l4) >= at+2 {
		t := p[len(h):]
		t[at], t[at+1] = 0, 0
		c := ^sum(pseudo(src, dst, proto, len(l4)), t)
		if c == 0 && proto == ProtoUDP {
			c = 0xffff
		}
		binary.BigEndian.PutUint16(t[at:], c)
	}
	return p
}

// FixIPv4 fills in the header checksum of an IPv4 packet after a test changed its header.
func FixIPv4(p []byte) []byte {
	n := int(p[0]&15) * 4
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], ^sum(0, p[:n]))
	return p
}

// UDP makes a datagram.
func UDP(src, dst netip.AddrPort, payload []byte) []byte {
	h := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(h, src.Port())
	binary.BigEndian.PutUint16(h[2:], dst.Port())
	binary.BigEndian.PutUint16(h[4:], uint16(8+len(payload)))
	return IP(src.Addr(), dst.Addr(), ProtoUDP, append(h, payload...))
}

// TCP makes a segment without options and with a window of 64 KiB.
func TCP(src, dst netip.AddrPort, flags uint8, seq, ack uint32, payload []byte) []byte {
	h := make([]byte, 20, 20+len(payload))
	binary.BigEndian.PutUint16(h, src.Port())
	binary.BigEndian.PutUint16(h[2:], dst.Port())
	binary.BigEndian.PutUint32(h[4:], seq)
	binary.BigEndian.PutUint32(h[8:], ack)
	h[12], h[13] = 5<<4, flags
	binary.BigEndian.PutUint16(h[14:], 0xffff)
	return IP(src.Addr(), dst.Addr(), ProtoTCP, append(h, payload...))
}

// Echo makes an ICMP or ICMPv6 echo request.
func Echo(src, dst netip.Addr, id, seq uint16, payload []byte) []byte {
	kind := uint8(8)
	if !src.Is4() {
		kind = 128
	}
	return ICMP(src, dst, kind, 0, uint32(id)<<16|uint32(seq), payload)
}

// ICMP makes an ICMP or ICMPv6 message; rest is the second word of its header.
func ICMP(src, dst netip.Addr, kind, code uint8, rest uint32, body []byte) []byte {
	proto := uint8(ProtoICMP)
	if !src.Is4() {
		proto = ProtoICMPv6
	}
	return ipPacket(src, dst, proto, TTL, icmp(kind, code, rest, body))
}

func icmp(kind, code uint8, rest uint32, body []byte) []byte {
	h := make([]byte, 8, 8+len(body))
	h[0], h[1] = kind, code
	binary.BigEndian.PutUint32(h[4:], rest)
	return append(h, body...)
}

// checksumAt is where a transport header has its checksum, or -1.
func checksumAt(proto uint8) int {
	switch proto {
	case ProtoTCP:
		return 16
	case ProtoUDP:
		return 6
	case ProtoICMP, ProtoICMPv6:
		return 2
	}
	return -1
}

// pseudo is the sum of the pseudo-header (RFC 768, 8200 §8.1); ICMPv4 has none.
func pseudo(src, dst netip.Addr, proto uint8, n int) uint16 {
	if proto == ProtoICMP {
		return 0
	}
	b := append(src.AsSlice(), dst.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	return sum(0, append(b, 0, 0, 0, proto))
}

// sum is the ones' complement sum of RFC 1071, the obvious way.
func sum(start uint16, b []byte) uint16 {
	s := uint32(start)
	for i := 0; i < len(b); i++ {
		if i%2 == 0 {
			s += uint32(b[i]) << 8
		} else {
			s += uint32(b[i])
		}
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
