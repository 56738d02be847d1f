package ip

import (
	"encoding/binary"
	"net/netip"
)

// Echo is an ICMP or ICMPv6 echo message (RFC 792, RFC 4443 §4), of the family of its addresses.
type Echo struct {
	Src, Dst netip.Addr
	ID, Seq  uint16
	Reply    bool
	TTL, TOS uint8 // TTL 0 means DefaultTTL
	Data     []byte
}

// AppendEcho appends the whole packet to b and returns it; nil when the addresses are of two
// families or the data does not fit into one packet.
func AppendEcho(b []byte, e Echo) []byte {
	src, dst := e.Src.Unmap(), e.Dst.Unmap()
	hl, proto, kind := HeaderLen4, uint8(ICMP), uint8(icmp4EchoRequest)
	if e.Reply {
		kind = icmp4EchoReply
	}
	if src.Is6() {
		hl, proto, kind = HeaderLen6, ICMPv6, icmp6EchoRequest
		if e.Reply {
			kind = icmp6EchoReply
		}
	}
	start, length := len(b), icmpHdrLen+len(e.Data)
	b = append(b, make([]byte, hl+icmpHdrLen)...)
	if putHeader(b[start:], src, dst, proto, length, e.TTL, e.TOS, false) == 0 {
		return nil
	}
	b = append(b, e.Data...)
	m := b[start+hl:]
	m[0] = kind
	binary.BigEndian.PutUint16(m[4:], e.ID)
	binary.BigEndian.PutUint16(m[6:], e.Seq)
	putICMPSum(m, src, dst, proto)
	return b
}

// EchoReply appends the answer to an echo request to b and returns it: the same identifier,
// sequence number and data, addresses exchanged. It returns nil when request is none.
func EchoReply(b []byte, request *Packet) []byte {
	id, seq, ok := request.ICMPEcho()
	if !ok {
		return nil
	}
	return AppendEcho(b, Echo{
		Src: request.Dst, Dst: request.Src, ID: id, Seq: seq, Reply: true,
		TOS: request.TOS, Data: request.Payload()[icmpHdrLen:],
	})
}

// putICMPSum writes the checksum of an ICMP message; only that of ICMPv6 covers a pseudo header.
func putICMPSum(m []byte, src, dst netip.Addr, proto uint8) {
	m[2], m[3] = 0, 0
	var pseudo uint16
	if proto == ICMPv6 {
		pseudo = PseudoSum(src, dst, proto, len(m))
	}
	binary.BigEndian.PutUint16(m[2:], Checksum(m, pseudo))
}
