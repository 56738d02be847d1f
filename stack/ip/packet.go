package ip

import (
	"encoding/binary"
	"net/netip"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// Protocol numbers the datapath speaks (IANA "Assigned Internet Protocol Numbers").
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
)

// Header lengths in bytes, without options or extension headers.
const (
	HeaderLen4   = 20
	HeaderLen6   = 40
	UDPHeaderLen = 8
	TCPHeaderLen = 20 // the least
	fragHdrLen   = 8  // RFC 8200 §4.5
)

// DefaultTTL is the hop limit of packets that start here.
const DefaultTTL = 64

// maxPacket is the largest length an IPv4 header can name, and the largest payload an IPv6 header can.
const maxPacket = 65535

// Packet is one IP packet and what Parse found in it. The zero value is ready to be parsed into.
type Packet struct {
	Src, Dst netip.Addr // IPv6 addresses as they are on the wire: a v4-mapped one is not unmapped
	// Proto is the transport protocol, behind all IPv6 extension headers. Of an IPv6 fragment it is
	// what the fragment header names.
	Proto    uint8
	TTL, TOS uint8 // hop limit and traffic class in IPv6
	// DF reports that the packet must not be fragmented on its way. An IPv6 packet never may, except
	// that one its sender fragmented already, and we put together, may be fragmented again.
	DF bool
	// HdrLen is the number of bytes before the transport header, extension headers included; of a
	// fragment, before the fragment's part of the datagram.
	HdrLen int
	// Data is the packet from the IP header on, exactly as long as that header says. Borrowed.
	Data []byte

	// VNet is the frame's; CsumStart counts from the Ethernet header.
	VNet l2.VNet
	// MAC is the sender's link address.
	MAC l2.MAC
	// Group reports that the frame was addressed to more than one station.
	Group bool

	ID      uint32 // identification of a datagram sent in fragments
	FragOff int    // offset of this fragment, in bytes
	More    bool   // more fragments follow

	// Problem is what Parse objects to when RFC 8200 wants the sender told; see ErrorKind ParamProblem.
	Problem Problem

	nextAt int // IPv6: offset of the byte that names the fragment header
	fragAt int // IPv6: offset of the fragment header, 0 when there is none
	block  *block
	linear []byte // memory for packets that came in several slices; kept for the next one
}

// Problem points at the byte of an IPv6 packet that made Parse refuse it.
type Problem struct {
	Set     bool
	Code    uint8  // ICMPv6 Parameter Problem code, RFC 4443 §3.4 and RFC 7112
	Pointer uint32 // offset from the start of the packet
}

// Is6 reports whether the packet is IPv6.
func (p *Packet) Is6() bool { return p.Src.Is6() }

// IsFragment reports whether the packet is a part of a datagram. An atomic fragment (RFC 6946) is not.
func (p *Packet) IsFragment() bool { return p.More || p.FragOff != 0 }

// Payload is the packet from its transport header on.
func (p *Packet) Payload() []byte { return p.Data[p.HdrLen:] }

// Parse reads the packet in f into p and checks all it says about itself; see parse4 and parse6.
//
// On drop.None p borrows f's memory. On any other reason p describes the packet as far as it was
// understood, which is enough for ICMPError when p.Problem is set. Data behind the length in the
// IP header (Ethernet padding) is cut off. Parse allocates only for a packet that is spread over
// several slices, and only until p has grown to the largest of them.
func Parse(p *Packet, f *l2.Frame) drop.Reason {
	p.reset()
	p.VNet, p.MAC, p.Group = f.VNet, f.Header.Src(), f.Header.Dst().IsMulticast()
	if len(f.L3) == 0 {
		return drop.IPMalformed
	}
	b := f.L3[0]
	switch f.Header.Type() {
	case l2.TypeIPv4:
		return p.parse4(p.join(b, f.L3[1:], totalLen4(b)))
	case l2.TypeIPv6:
		return p.parse6(p.join(b, f.L3[1:], totalLen6(b)))
	}
	return drop.EtherTypeDenied
}

// ParsePacket reads a packet that came without a frame, for instance one just built.
func ParsePacket(p *Packet, b []byte) drop.Reason {
	p.reset()
	if len(b) == 0 {
		return drop.IPMalformed
	}
	if b[0]>>4 == 6 {
		return p.parse6(b)
	}
	return p.parse4(b)
}

func (p *Packet) reset() { *p = Packet{linear: p.linear} }

// join returns the packet in one slice. Only the bytes the packet itself claims are gathered, and
// nothing is copied when the first slice has them all.
func (p *Packet) join(first []byte, rest [][]byte, total int) []byte {
	if len(rest) == 0 || len(first) >= total {
		return first
	}
	p.linear = append(p.linear[:0], first...)
	for _, s := range rest {
		p.linear = append(p.linear, s...)
		if len(p.linear) >= total {
			break
		}
	}
	return p.linear
}

// Ports returns the ports of a TCP segment or UDP datagram whose header is whole and whose length
// fields hold. ok is false for everything else, fragments included.
func (p *Packet) Ports() (src, dst uint16, ok bool) {
	t := p.Payload()
	switch {
	case p.IsFragment():
		return 0, 0, false
	case p.Proto == UDP:
		if _, ok := udpLen(t); !ok {
			return 0, 0, false
		}
	case p.Proto == TCP:
		if len(t) < TCPHeaderLen {
			return 0, 0, false
		}
		if hl := int(t[12]>>4) * 4; hl < TCPHeaderLen || hl > len(t) {
			return 0, 0, false
		}
	default:
		return 0, 0, false
	}
	return binary.BigEndian.Uint16(t), binary.BigEndian.Uint16(t[2:]), true
}

// UDPPayload returns what a UDP datagram carries. ok is false when the packet is none or its
// length field is wrong. Of a USO packet (VNet GSO kind GSOUDPL4) it is all the payloads together,
// VNet.GSOSize bytes each but the last; the kernel writes the length of the whole into the header.
func (p *Packet) UDPPayload() (payload []byte, ok bool) {
	if p.Proto != UDP || p.IsFragment() {
		return nil, false
	}
	t := p.Payload()
	n, ok := udpLen(t)
	if !ok {
		return nil, false
	}
	return t[UDPHeaderLen:n:n], true
}

// udpLen checks the length field of a UDP header. A length below the packet's is legal (RFC 768
// does not forbid a trailer); 0 means a jumbogram (RFC 2675), which we refuse.
func udpLen(t []byte) (n int, ok bool) {
	if len(t) < UDPHeaderLen {
		return 0, false
	}
	n = int(binary.BigEndian.Uint16(t[4:]))
	return n, n >= UDPHeaderLen && n <= len(t)
}

// ICMPEcho returns identifier and sequence number of an echo request of either family; its data is
// Payload()[8:]. ok is false for every other packet.
func (p *Packet) ICMPEcho() (id, seq uint16, ok bool) {
	t := p.Payload()
	if p.IsFragment() || len(t) < icmpHdrLen || t[1] != 0 {
		return 0, 0, false
	}
	request := p.Proto == ICMP && !p.Is6() && t[0] == icmp4EchoRequest ||
		p.Proto == ICMPv6 && p.Is6() && t[0] == icmp6EchoRequest
	if !request {
		return 0, 0, false
	}
	return binary.BigEndian.Uint16(t[4:]), binary.BigEndian.Uint16(t[6:]), true
}

// Emitter sends packets into the link. The gateway is one; tests have another.
type Emitter interface {
	// EmitIP sends one complete IP packet to a container, or to a multicast or broadcast address of
	// the link, and reports whether it was accepted. The bytes are borrowed until it returns. l3[0]
	// holds all headers. v.CsumStart counts from the Ethernet header, as in virtio. A packet larger
	// than the MTU that v does not say how to segment is fragmented by the Emitter.
	EmitIP(dst netip.Addr, v l2.VNet, l3 [][]byte) bool
}
