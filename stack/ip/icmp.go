package ip

import (
	"encoding/binary"
	"net/netip"
)

// Theory of operation: ICMP errors to a container (RFC 792, 1122 §3.2.2, 1812 §4.3; RFC 4443).
//
// An error quotes as much of the packet as fits: IPv4 up to 576 bytes in all, IPv6 up to 1280, so
// that the sender finds its socket even behind extension headers. What must not be answered is
// decided here and nowhere else:
//
//   - an ICMP error or redirect, and an ICMP message whose kind is cut off: errors about errors loop;
//   - a fragment other than the first: the sender's ports are not in it;
//   - a packet sent to a group of stations, by IP or by link address, or from an address that is not
//     one station's: one packet would bring many answers. IPv6 excepts Packet Too Big and the
//     Parameter Problem of an unknown option (RFC 4443 §2.4 e.3).
//
// How many are sent is for Limiter to say.

const icmpHdrLen = 8

// Lengths an error must not exceed (RFC 1812 §4.3.2.3, RFC 4443 §2.4 c).
const (
	maxError4 = 576
	maxError6 = 1280
)

// Kinds of ICMP messages, RFC 792 and RFC 4443.
const (
	icmp4EchoReply      = 0
	icmp4Unreachable    = 3
	icmp4SourceQuench   = 4
	icmp4Redirect       = 5
	icmp4EchoRequest    = 8
	icmp4TimeExceeded   = 11
	icmp4ParamProblem   = 12
	icmp6Unreachable    = 1
	icmp6TooBig         = 2
	icmp6TimeExceeded   = 3
	icmp6ParamProblem   = 4
	icmp6FirstQuery     = 128 // below are errors, known or not (RFC 4443 §2.1)
	icmp6EchoRequest    = 128
	icmp6EchoReply      = 129
	icmp6Redirect       = 137
	icmp4FragNeededCode = 4
)

// ErrorKind says what an ICMP error reports, in terms of both families.
type ErrorKind uint8

// The errors the datapath sends and understands.
const (
	NetUnreachable ErrorKind = iota + 1
	HostUnreachable
	ProtoUnreachable
	PortUnreachable
	AdminProhibited
	FragNeeded // Packet Too Big
	TTLExceeded
	ReassemblyExceeded
	ParamProblem

	errorKinds
)

// codes of each kind. ICMPv6 has no protocol unreachable: it objects to the next header.
var codes = [errorKinds]struct {
	name         string
	type4, code4 uint8
	type6, code6 uint8
}{
	NetUnreachable:     {"net unreachable", icmp4Unreachable, 0, icmp6Unreachable, 0},
	HostUnreachable:    {"host unreachable", icmp4Unreachable, 1, icmp6Unreachable, 3},
	ProtoUnreachable:   {"protocol unreachable", icmp4Unreachable, 2, icmp6ParamProblem, problemNextHeader},
	PortUnreachable:    {"port unreachable", icmp4Unreachable, 3, icmp6Unreachable, 4},
	AdminProhibited:    {"administratively prohibited", icmp4Unreachable, 13, icmp6Unreachable, 1},
	FragNeeded:         {"fragmentation needed", icmp4Unreachable, icmp4FragNeededCode, icmp6TooBig, 0},
	TTLExceeded:        {"TTL exceeded", icmp4TimeExceeded, 0, icmp6TimeExceeded, 0},
	ReassemblyExceeded: {"reassembly time exceeded", icmp4TimeExceeded, 1, icmp6TimeExceeded, 1},
	ParamProblem:       {"parameter problem", icmp4ParamProblem, 0, icmp6ParamProblem, problemField},
}

func (k ErrorKind) String() string {
	if k == 0 || k >= errorKinds {
		return "unknown"
	}
	return codes[k].name
}

// KindOf returns what a received error reports. The finer codes of IPv4 count as the nearest kind,
// as RFC 1122 §3.2.2.1 has hosts treat them. ok is false for what is no error, and for source quench
// (deprecated, RFC 6633) and redirects, which nobody may act upon.
func KindOf(v6 bool, typ, code uint8) (kind ErrorKind, ok bool) {
	if v6 {
		return kindOf6(typ, code)
	}
	switch {
	case typ == icmp4TimeExceeded && code == 0:
		return TTLExceeded, true
	case typ == icmp4TimeExceeded && code == 1:
		return ReassemblyExceeded, true
	case typ == icmp4ParamProblem:
		return ParamProblem, true
	case typ != icmp4Unreachable:
		return 0, false
	}
	switch code {
	case 0, 6, 11:
		return NetUnreachable, true
	case 1, 5, 7, 8, 12:
		return HostUnreachable, true
	case 2:
		return ProtoUnreachable, true
	case 3:
		return PortUnreachable, true
	case icmp4FragNeededCode:
		return FragNeeded, true
	case 9, 10, 13, 14, 15:
		return AdminProhibited, true
	}
	return 0, false
}

func kindOf6(typ, code uint8) (ErrorKind, bool) {
	switch {
	case typ == icmp6TooBig:
		return FragNeeded, true
	case typ == icmp6TimeExceeded && code == 0:
		return TTLExceeded, true
	case typ == icmp6TimeExceeded && code == 1:
		return ReassemblyExceeded, true
	case typ == icmp6ParamProblem && code == problemNextHeader:
		return ProtoUnreachable, true
	case typ == icmp6ParamProblem:
		return ParamProblem, true
	case typ != icmp6Unreachable:
		return 0, false
	}
	switch code {
	case 0:
		return NetUnreachable, true
	case 1, 5, 6:
		return AdminProhibited, true
	case 2, 3:
		return HostUnreachable, true
	case 4:
		return PortUnreachable, true
	}
	return 0, false
}

// ICMPError returns a complete ICMP error packet about orig, to orig's sender, in b when it has the
// capacity (1280 bytes always do) and in new memory otherwise. mtu is told with FragNeeded. orig may be a packet Parse refused,
// if orig.Problem is set; ParamProblem is about that problem. It returns nil when the rules above
// forbid an error, and when from is not of orig's family.
func ICMPError(b []byte, orig *Packet, from netip.Addr, kind ErrorKind, mtu int) []byte {
	if kind == 0 || kind >= errorKinds || from.Is6() != orig.Is6() || !mayAnswer(orig, kind) {
		return nil
	}
	hl, most, proto := HeaderLen4, maxError4, uint8(ICMP)
	c := codes[kind]
	typ, code := c.type4, c.code4
	if orig.Is6() {
		hl, most, proto = HeaderLen6, maxError6, ICMPv6
		typ, code = c.type6, c.code6
	}
	quote := orig.Data[:min(len(orig.Data), most-hl-icmpHdrLen)]
	n := hl + icmpHdrLen + len(quote)
	if cap(b) < n {
		b = make([]byte, n)
	}
	b = b[:n]
	m := b[hl:]
	m[0], m[1] = typ, code
	binary.BigEndian.PutUint32(m[4:], errorWord(orig, kind, mtu))
	if kind == ParamProblem && orig.Is6() && orig.Problem.Set {
		m[1] = orig.Problem.Code
	}
	copy(m[icmpHdrLen:], quote)
	putHeader(b, from, orig.Src, proto, len(m), DefaultTTL, 0, true)
	putICMPSum(m, from, orig.Src, proto)
	return b
}

// errorWord is the second word of an error: the MTU, or the offending byte.
func errorWord(orig *Packet, kind ErrorKind, mtu int) uint32 {
	switch {
	case kind == FragNeeded && orig.Is6():
		return uint32(mtu)
	case kind == FragNeeded:
		return uint32(min(mtu, 0xffff)) // RFC 1191: 16 bits unused, 16 bits MTU
	case kind == ParamProblem && orig.Is6():
		return orig.Problem.Pointer
	case kind == ParamProblem:
		return orig.Problem.Pointer << 24
	case kind == ProtoUnreachable && orig.Is6():
		return orig.nextHeaderAt()
	}
	return 0
}

// nextHeaderAt is the offset of the byte that names the transport. The chain was walked before.
func (p *Packet) nextHeaderAt() uint32 {
	from, at := 6, HeaderLen6
	for at+8 <= p.HdrLen {
		n := fragHdrLen
		if p.Data[from] != nextFragment {
			n = 8 + int(p.Data[at+1])*8
		}
		from, at = at, at+n
	}
	return uint32(from)
}

// mayAnswer applies the rules about what no error is sent for.
func mayAnswer(p *Packet, kind ErrorKind) bool {
	if len(p.Data) < HeaderLen4 || p.FragOff != 0 {
		return false
	}
	if !p.Src.IsValid() || p.Src.IsUnspecified() || p.Src.IsMulticast() || p.Src.IsLoopback() || p.Src == broadcast4 {
		return false
	}
	excepted := p.Is6() && (kind == FragNeeded || kind == ParamProblem && p.Problem.Code == problemOption)
	if !excepted && (p.Group || p.Dst.IsMulticast() || p.Dst == broadcast4) {
		return false
	}
	t := p.Payload()
	if p.Proto == ICMP && !p.Is6() || p.Proto == ICMPv6 && p.Is6() {
		return len(t) > 0 && !isError(p.Is6(), t[0])
	}
	return true
}

// isError reports whether an ICMP message of this kind is an error or a redirect.
func isError(v6 bool, typ uint8) bool {
	if v6 {
		return typ < icmp6FirstQuery || typ == icmp6Redirect
	}
	switch typ {
	case icmp4Unreachable, icmp4SourceQuench, icmp4Redirect, icmp4TimeExceeded, icmp4ParamProblem:
		return true
	}
	return false
}
