package ip

import (
	"encoding/binary"
	"net/netip"

	"github.com/usernet/usernet/stack/drop"
)

// Theory of operation: ICMP errors that were received (RFC 5508 §4, RFC 1812 §5.2.7).
//
// An error is about a packet somebody else sent, quoted in the error and usually cut. The NAT needs
// that packet's flow, and needs to know that the quote is not made up carelessly. So the inner
// header is checked as Parse would, with three differences: the inner packet may be longer than the
// quote (but the quote must reach 8 bytes into the transport, where the ports are); inner options
// are walked over, not judged; the inner transport checksum is not looked at, since it cannot be
// (REQ-3c). An inner header checksum that is wrong refuses the error (REQ-3a), a quote of a later
// fragment has no ports and matches nothing, and a quote of an ICMP error is never legitimate.

// quotedTransport is how much of the transport header a quote has at least (RFC 792).
const quotedTransport = 8

// Quoted is what an ICMP error says.
type Quoted struct {
	Kind ErrorKind
	// MTU is the next hop's, of FragNeeded; 0 when the router did not tell (before RFC 1191).
	MTU int
	// Proto, Src and Dst are the quoted packet's, that is, of the direction opposite to the error's.
	// The ports are those of TCP, UDP, SCTP, DCCP and UDP-Lite. An echo message has ID and Seq instead; other
	// protocols have neither, and match no flow.
	Proto    uint8
	Src, Dst netip.AddrPort
	ID, Seq  uint16
	// Request reports that a quoted echo message is a request.
	Request bool
}

// ParseQuoted reads the packet quoted in the ICMP error p, whose own checksum the caller has
// verified. It returns ICMPUnmatched for a message that is no error, or quotes what no flow can
// have sent, IPMalformed and ChecksumBad for a quote that lies.
func ParseQuoted(q *Quoted, p *Packet) drop.Reason {
	*q = Quoted{}
	t := p.Payload()
	v6 := p.Is6()
	if p.IsFragment() || v6 && p.Proto != ICMPv6 || !v6 && p.Proto != ICMP {
		return drop.ICMPUnmatched
	}
	if len(t) < icmpHdrLen {
		return drop.IPMalformed
	}
	kind, ok := KindOf(v6, t[0], t[1])
	if !ok {
		return drop.ICMPUnmatched
	}
	q.Kind = kind
	if kind == FragNeeded {
		q.MTU = int(binary.BigEndian.Uint16(t[6:]))
		if word := binary.BigEndian.Uint32(t[4:]); v6 {
			q.MTU = int(min(word, maxPacket))
		}
	}
	if v6 {
		return q.read6(t[icmpHdrLen:])
	}
	return q.read4(t[icmpHdrLen:])
}

func (q *Quoted) read4(b []byte) drop.Reason {
	if len(b) < HeaderLen4 || b[0]>>4 != 4 {
		return drop.IPMalformed
	}
	hl := int(b[0]&15) * 4
	if hl < HeaderLen4 || hl+quotedTransport > len(b) || totalLen4(b) < hl+quotedTransport {
		return drop.IPMalformed
	}
	if Sum(b[:hl]) != 0xffff {
		return drop.ChecksumBad
	}
	if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		return drop.ICMPUnmatched
	}
	src, dst := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	return q.readTransport(src, dst, b[9], b[hl:])
}

func (q *Quoted) read6(b []byte) drop.Reason {
	if len(b) < HeaderLen6 || b[0]>>4 != 6 {
		return drop.IPMalformed
	}
	src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	if n := totalLen6(b); n < len(b) {
		b = b[:n] // RFC 4884 extensions, or padding
	}
	next, at := b[6], HeaderLen6
	for headers := 0; ; headers++ {
		if headers > maxExtHeaders || at+quotedTransport > len(b) {
			return drop.IPMalformed
		}
		switch next {
		case nextHopByHop, nextRouting, nextDestOpts:
			next, at = b[at], at+8+int(b[at+1])*8
		case nextFragment:
			if binary.BigEndian.Uint16(b[at+2:])&^7 != 0 {
				return drop.ICMPUnmatched
			}
			next, at = b[at], at+fragHdrLen
		default:
			return q.readTransport(src, dst, next, b[at:])
		}
	}
}

// readTransport reads the first 8 bytes of the quoted transport header. src and dst are of one family.
func (q *Quoted) readTransport(src, dst netip.Addr, proto uint8, t []byte) drop.Reason {
	const (
		dccp    = 33
		sctp    = 132
		udplite = 136
	)
	var sport, dport uint16
	switch {
	case proto == TCP || proto == UDP || proto == dccp || proto == sctp || proto == udplite:
		sport, dport = binary.BigEndian.Uint16(t), binary.BigEndian.Uint16(t[2:])
	case proto == ICMP && src.Is4():
		if t[0] != icmp4EchoRequest && t[0] != icmp4EchoReply {
			return drop.ICMPUnmatched
		}
		q.Request = t[0] == icmp4EchoRequest
		q.ID, q.Seq = binary.BigEndian.Uint16(t[4:]), binary.BigEndian.Uint16(t[6:])
	case proto == ICMPv6 && src.Is6():
		if t[0] != icmp6EchoRequest && t[0] != icmp6EchoReply {
			return drop.ICMPUnmatched
		}
		q.Request = t[0] == icmp6EchoRequest
		q.ID, q.Seq = binary.BigEndian.Uint16(t[4:]), binary.BigEndian.Uint16(t[6:])
	}
	q.Proto = proto
	q.Src, q.Dst = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	return drop.None
}
