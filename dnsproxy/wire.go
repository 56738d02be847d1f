package dnsproxy

import (
	"bytes"
	"encoding/binary"

	"github.com/miekg/dns"
)

// skipName returns the offset behind the name at off. A compression pointer ends a name and is not followed:
// nothing here needs what it points to, and what is not followed cannot loop. In a question
// there is nothing to point to yet, so there pointers is false and one is an error.
func skipName(msg []byte, off int, pointers bool) (end int, ok bool) {
	for start := off; off < len(msg); {
		switch n := int(msg[off]); {
		case n == 0:
			return off + 1, off+1-start <= maxName
		case n < 64:
			off += 1 + n
		case n >= 0xc0 && pointers:
			return off + 2, off+2 <= len(msg)
		default:
			return 0, false
		}
		if off-start > maxName {
			return 0, false
		}
	}
	return 0, false
}

// nextRecord reads the resource record at off. rr is the record from its type onwards: type, class, TTL,
// length, data.
func nextRecord(msg []byte, off int) (rr []byte, next int, ok bool) {
	off, ok = skipName(msg, off, true)
	if !ok || off+10 > len(msg) {
		return nil, 0, false
	}
	next = off + 10 + int(binary.BigEndian.Uint16(msg[off+8:]))
	if next > len(msg) {
		return nil, 0, false
	}
	return msg[off:next], next, true
}

// sectionsEnd reports whether msg has exactly the records it counts, from off on, and returns its OPT record
// with the owner name, if any.
func sectionsEnd(msg []byte, off int) (opt []byte, ok bool) {
	n := 0
	for i := 6; i < headerLen; i += 2 {
		n += int(binary.BigEndian.Uint16(msg[i:]))
	}
	for range n {
		rr, next, good := nextRecord(msg, off)
		if !good {
			return nil, false
		}
		if binary.BigEndian.Uint16(rr) == dns.TypeOPT && msg[off] == 0 {
			opt = msg[off:next]
		}
		off = next
	}
	return opt, off == len(msg)
}

// answers reports whether reply is the answer to the message sent: same id, same question in the same
// letters (RFC 5452 §9.1), and records that are all there. A truncated answer may end anywhere, since
// none of its records are used.
func answers(reply, sent []byte) bool {
	if len(reply) < headerLen || binary.BigEndian.Uint16(reply) != binary.BigEndian.Uint16(sent) {
		return false
	}
	flags := binary.BigEndian.Uint16(reply[2:])
	if flags&flagQR == 0 || flags>>11&0xf != dns.OpcodeQuery || binary.BigEndian.Uint16(reply[4:]) != 1 {
		return false
	}
	end := questionEnd(sent)
	if len(reply) < end || !bytes.Equal(reply[headerLen:end], sent[headerLen:end]) {
		return false
	}
	if flags&flagTC != 0 {
		return true
	}
	_, whole := sectionsEnd(reply, end)
	return whole
}

// questionEnd is the offset behind the single question of a message known to have one.
func questionEnd(msg []byte) int {
	end, _ := skipName(msg, headerLen, false)
	return end + 4
}

func truncated(msg []byte) bool { return binary.BigEndian.Uint16(msg[2:])&flagTC != 0 }

func rcodeOf(msg []byte) int { return int(msg[3] & 0xf) }

// fit returns msg, or when it is longer than limit a truncated message with its question and OPT record only. Half an
// answer section would be of no use: a client must not use it but ask again over TCP (RFC 2181 §9).
func fit(msg []byte, limit int) []byte {
	if len(msg) <= limit {
		return msg
	}
	end := questionEnd(msg)
	opt, _ := sectionsEnd(msg, end)
	if end+len(opt) > limit {
		// Options of the answer, such as an extended error, are what can be spared.
		opt = append([]byte(nil), opt[:optLen]...)
		opt[optLen-2], opt[optLen-1] = 0, 0
	}
	flags := binary.BigEndian.Uint16(msg[2:]) | flagTC
	b := appendHeader(make([]byte, 0, end+len(opt)), binary.BigEndian.Uint16(msg), flags, 1, opt != nil)
	return append(append(b, msg[headerLen:end]...), opt...)
}

// appendHeader appends a header without answers and authority; opt counts one additional record.
func appendHeader(b []byte, id, flags, questions uint16, opt bool) []byte {
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, questions)
	b = append(b, 0, 0, 0, 0, 0, 0)
	if opt {
		b[len(b)-1] = 1
	}
	return b
}

// appendOPT appends an OPT record of ours (RFC 6891 §6.1.2).
func appendOPT(b []byte, extendedRcode uint8, do bool) []byte {
	b = append(b, 0)
	b = binary.BigEndian.AppendUint16(b, dns.TypeOPT)
	b = binary.BigEndian.AppendUint16(b, upstreamSize)
	b = append(b, extendedRcode, 0)
	var z uint16
	if do {
		z = flagDO
	}
	b = binary.BigEndian.AppendUint16(b, z)
	return append(b, 0, 0)
}

// appendLower appends s with ASCII letters in lower case. Applied to a name in wire form it leaves the
// lengths of the labels alone, as they are below 64 and 'A' is 65.
func appendLower(b, s []byte) []byte {
	for _, c := range s {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	return b
}
