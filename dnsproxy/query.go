package dnsproxy

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// A query is parsed by hand and not with dns.Msg for two reasons. What is forwarded must be the client's
// question byte by byte, which unpacking and packing does not promise; and the memory that a
// hostile message costs must not depend on what it claims about itself: this parser allocates nothing.
// dns.Msg is its twin in the tests.

const (
	headerLen = 12
	optLen    = 11 // an OPT record without options
	maxName   = 255

	rcodeSuccess  = dns.RcodeSuccess
	rcodeFormErr  = dns.RcodeFormatError
	rcodeServFail = dns.RcodeServerFailure
	rcodeNXDomain = dns.RcodeNameError
	rcodeNotImp   = dns.RcodeNotImplemented
	rcodeRefused  = dns.RcodeRefused
	rcodeBadVers  = dns.RcodeBadVers

	// Bits of the header's second word (RFC 1035 §4.1.1, RFC 4035 §3.2).
	flagQR = 1 << 15
	flagAA = 1 << 10
	flagTC = 1 << 9
	flagRD = 1 << 8
	flagRA = 1 << 7
	flagAD = 1 << 5
	flagCD = 1 << 4

	forwardedFlags = flagRD | flagAD | flagCD

	flagDO = 1 << 15 // in an OPT record's TTL

	// upstreamSize is the UDP size we announce: what fits one packet everywhere, so that no
	// answer is fragmented on its way and half of it forged (DNS flag day 2020).
	upstreamSize = 1232
	// minSize is what a client without EDNS takes (RFC 1035 §2.3.4); maxSize bounds what one
	// that announces more is sent.
	minSize = 512
	maxSize = 4096
)

// query is a parsed query. question aliases the message until own is called.
type query struct {
	id       uint16
	flags    uint16 // of forwardedFlags
	opcode   uint16
	question []byte // name, type, class, as the client wrote them; nil when it could not be read
	qtype    uint16
	qclass   uint16
	edns     bool
	do       bool
	size     uint16 // announced by EDNS
}

// name is the question's name in wire form.
func (q *query) name() []byte { return q.question[:len(q.question)-4] }

// own makes q independent of the message it was parsed from.
func (q *query) own() { q.question = append([]byte(nil), q.question...) }

// parseQuery reads msg. ok is false when msg is no query and must not be answered: too short to have an id,
// or itself a response. Otherwise rcode says whether the query is served or how it is refused.
func parseQuery(msg []byte) (q query, rcode int, ok bool) {
	if len(msg) < headerLen {
		return q, 0, false
	}
	flags := binary.BigEndian.Uint16(msg[2:])
	if flags&flagQR != 0 {
		return q, 0, false
	}
	q.id = binary.BigEndian.Uint16(msg)
	q.flags = flags & forwardedFlags
	q.opcode = flags >> 11 & 0xf
	if q.opcode != dns.OpcodeQuery {
		return q, rcodeNotImp, true
	}
	if binary.BigEndian.Uint16(msg[4:]) != 1 {
		return q, rcodeFormErr, true
	}
	end, good := skipName(msg, headerLen, false)
	if !good || end+4 > len(msg) {
		return q, rcodeFormErr, true
	}
	question := msg[headerLen : end+4]
	q.qtype = binary.BigEndian.Uint16(msg[end:])
	q.qclass = binary.BigEndian.Uint16(msg[end+2:])
	opt, good := q.records(msg, end+4)
	if !good {
		return q, rcodeFormErr, true
	}
	q.question = question
	switch {
	case opt != nil && opt[5] != 0: // an EDNS version that is not out yet
		return q, rcodeBadVers, true
	case q.qtype == dns.TypeAXFR, q.qtype == dns.TypeIXFR:
		// A transfer is a stream of messages, which a forwarder of single ones cannot carry.
		return q, rcodeNotImp, true
	}
	return q, rcodeSuccess, true
}

// records walks the records behind the question, to find the OPT record and to refuse a message whose counts or lengths
// lie, and returns the OPT record from its type onwards.
func (q *query) records(msg []byte, off int) (opt []byte, ok bool) {
	answers := int(binary.BigEndian.Uint16(msg[6:])) + int(binary.BigEndian.Uint16(msg[8:]))
	all := answers + int(binary.BigEndian.Uint16(msg[10:]))
	for i := range all {
		rr, next, good := nextRecord(msg, off)
		if !good {
			return nil, false
		}
		if i >= answers && binary.BigEndian.Uint16(rr) == dns.TypeOPT {
			// RFC 6891 §6.1.1: one OPT record, owned by the root.
			if opt != nil || msg[off] != 0 {
				return nil, false
			}
			opt = rr
			q.edns = true
			q.size = binary.BigEndian.Uint16(rr[2:])
			q.do = binary.BigEndian.Uint16(rr[6:])&flagDO != 0
		}
		off = next
	}
	return opt, off == len(msg)
}

// appendUpstream appends the message that asks an upstream what q asks.
func (q *query) appendUpstream(b []byte, id uint16) []byte {
	b = appendHeader(b, id, q.flags, 1, q.edns)
	b = append(b, q.question...)
	if q.edns {
		b = appendOPT(b, 0, q.do)
	}
	return b
}

// refusal is the whole answer to q when there is nothing to say but rcode.
func (q *query) refusal(rcode int) []byte {
	flags := flagQR | q.opcode<<11 | q.flags&(flagRD|flagCD) | flagRA | uint16(rcode&0xf)
	if q.question == nil {
		return appendHeader(make([]byte, 0, headerLen), q.id, flags, 0, false)
	}
	b := make([]byte, 0, headerLen+len(q.question)+optLen)
	b = appendHeader(b, q.id, flags, 1, q.edns)
	b = append(b, q.question...)
	if q.edns {
		b = appendOPT(b, uint8(rcode>>4), q.do)
	}
	return b
}

// adopt makes an upstream's answer q's own: its id, and its letters in the question. The answer has been
// checked to repeat the question of a query that differs from q in case only.
func (q *query) adopt(answer []byte) []byte {
	binary.BigEndian.PutUint16(answer, q.id)
	copy(answer[headerLen:], q.question)
	return answer
}

// limit is the longest answer the client takes.
func (q *query) limit(via transport) int {
	switch {
	case via == tcpTransport:
		return 0xffff
	case !q.edns:
		return minSize
	}
	return min(max(int(q.size), minSize), maxSize)
}

// appendKey appends what two queries must have in common to share a flight.
func (q *query) appendKey(b []byte) []byte {
	b = appendLower(b, q.name())
	bits := byte(q.flags >> 4) // RD, AD and CD are bits 8, 5 and 4
	if q.edns {
		bits |= 1 << 2
	}
	if q.do {
		bits |= 1 << 3
	}
	b = binary.BigEndian.AppendUint16(b, q.qtype)
	b = binary.BigEndian.AppendUint16(b, q.qclass)
	return append(b, bits)
}
