package ip

import (
	"encoding/binary"
	"net/netip"

	"github.com/usernet/usernet/stack/drop"
)

// Theory of operation: IPv6 (RFC 8200).
//
// Behind the fixed header stands a chain of extension headers, each naming the next. walk goes
// along it until it meets something that is not an extension header, which is the transport.
// A chain is a hostile sender's lever (long to read, cheap to send), so it is bounded in three
// ways, each far above what is seen in practice and all together worth less than a microsecond:
// maxExtHeaders headers, maxExtBytes bytes, maxExtOptions options. Hop-by-hop options are only
// legal in the first place (§4.1), so a chain of a hundred of them ends at the second.
//
//	hop-by-hop, destination  options are obeyed by their action bits (§4.2); we know Pad1, PadN,
//	                         Router Alert and Tunnel Encapsulation Limit. The Jumbo Payload option
//	                         is not known here, and its action bits refuse the packet.
//	routing                  type 0 is refused (RFC 5095); another type is passed over when it has
//	                         no segments left and refused when it has (§4.4).
//	fragment                 offset 0 and no more: atomic, the walk goes on (RFC 6946). A first
//	                         fragment must have the chain whole (RFC 7112). A second fragment
//	                         header is refused: no sender fragments a fragment.
//	ESP, AH, no next header  end the walk; the NAT does not carry them and says so.
//
// Reasons are those of IPv4. Where the RFC wants the sender told, p.Problem says at which byte.

// Next header values (IANA).
const (
	nextHopByHop = 0
	nextRouting  = 43
	nextFragment = 44
	nextNone     = 59
	nextDestOpts = 60
)

// Options whose action bits are 00 are skipped whether known or not; only the padding is read.
const opt6Pad1 = 0

// Bounds of a chain. Linux accepts 8 options per header by default (net.ipv6.max_hbh_opts_number);
// RFC 8504 §5.3 allows a host such limits.
const (
	maxExtHeaders = 8
	maxExtBytes   = 1024
	maxExtOptions = 64
)

// Codes of ICMPv6 Parameter Problem.
const (
	problemField      = 0
	problemNextHeader = 1
	problemOption     = 2
	problemIncomplete = 3 // RFC 7112
)

// totalLen6 is what the header claims, 0 when there is no whole header.
func totalLen6(b []byte) int {
	if len(b) < HeaderLen6 {
		return 0
	}
	return HeaderLen6 + int(binary.BigEndian.Uint16(b[4:]))
}

func (p *Packet) parse6(b []byte) drop.Reason {
	if len(b) < HeaderLen6 || b[0]>>4 != 6 {
		return drop.IPMalformed
	}
	total := totalLen6(b)
	if total > len(b) {
		return drop.IPMalformed
	}
	p.Data, p.HdrLen, p.DF = b[:total:total], HeaderLen6, true
	p.TOS, p.TTL, p.Proto = b[0]<<4|b[1]>>4, b[7], b[6]
	p.Src, p.Dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	if p.Src.IsMulticast() || p.Src.Is4In6() || p.Src.IsLoopback() {
		return drop.SrcIPSpoofed
	}
	// Payload length 0 is a jumbogram or a BIG TCP packet, unless there really is nothing.
	if total == HeaderLen6 && p.Proto != nextNone {
		return drop.IPMalformed
	}
	return p.walk()
}

// chain is the state of a walk along the extension headers.
type chain struct {
	next    uint8 // kind of the header at `at`
	nextAt  int   // offset of the byte that says so
	at      int
	headers int
	options int
}

// walk reads the extension headers and leaves Proto and HdrLen at the transport.
func (p *Packet) walk() drop.Reason {
	c := chain{next: p.Proto, nextAt: 6, at: HeaderLen6}
	for {
		var r drop.Reason
		switch c.next {
		case nextHopByHop:
			if c.at != HeaderLen6 {
				return p.object(problemNextHeader, c.nextAt, drop.IPMalformed)
			}
			r = p.walkOptions(&c)
		case nextDestOpts:
			r = p.walkOptions(&c)
		case nextRouting:
			r = p.walkRouting(&c)
		case nextFragment:
			r = p.walkFragment(&c)
		default:
			if !p.IsFragment() {
				p.Proto, p.HdrLen = c.next, c.at
			}
			return drop.None
		}
		if r != drop.None {
			return r
		}
		if p.FragOff != 0 {
			return drop.None // what follows is the middle of the datagram
		}
		c.headers++
		if c.headers > maxExtHeaders || c.at-HeaderLen6 > maxExtBytes {
			return drop.IPMalformed
		}
	}
}

// object notes a problem the sender is to be told of, and returns r.
func (p *Packet) object(code uint8, at int, r drop.Reason) drop.Reason {
	p.Problem = Problem{Set: true, Code: code, Pointer: uint32(at)}
	return r
}

// short refuses a chain that ends behind the packet.
func (p *Packet) short() drop.Reason {
	if p.IsFragment() {
		return p.object(problemIncomplete, 0, drop.IPFragment)
	}
	return drop.IPMalformed
}

// extension returns the header at c, whole, and moves c behind it; nil when it is cut.
func (p *Packet) extension(c *chain) []byte {
	rest := p.Data[c.at:]
	if len(rest) < 8 {
		return nil
	}
	n := 8 + int(rest[1])*8
	if n > len(rest) {
		return nil
	}
	c.next, c.nextAt, c.at = rest[0], c.at, c.at+n
	return rest[:n]
}

func (p *Packet) walkOptions(c *chain) drop.Reason {
	start := c.at
	h := p.extension(c)
	if h == nil {
		return p.short()
	}
	for i := 2; i < len(h); {
		if c.options++; c.options > maxExtOptions {
			return drop.IPOptions
		}
		if h[i] == opt6Pad1 {
			i++
			continue
		}
		if i+1 >= len(h) || i+2+int(h[i+1]) > len(h) {
			return drop.IPMalformed
		}
		if r := p.obey(h[i], start+i); r != drop.None {
			return r
		}
		i += 2 + int(h[i+1])
	}
	return drop.None
}

// obey does what the two highest bits of an option's kind say (RFC 8200 §4.2). All options we know
// have 00 there.
func (p *Packet) obey(kind uint8, at int) drop.Reason {
	switch kind >> 6 {
	case 0:
		return drop.None
	case 1:
		return drop.IPOptions
	case 3:
		if p.Dst.IsMulticast() {
			return drop.IPOptions
		}
	}
	return p.object(problemOption, at, drop.IPOptions)
}

func (p *Packet) walkRouting(c *chain) drop.Reason {
	start := c.at
	h := p.extension(c)
	if h == nil {
		return p.short()
	}
	const type0 = 0
	kind, left := h[2], h[3]
	if left != 0 {
		return p.object(problemField, start+2, drop.IPOptions)
	}
	if kind == type0 {
		return drop.IPOptions
	}
	return drop.None
}

func (p *Packet) walkFragment(c *chain) drop.Reason {
	if p.fragAt != 0 {
		return drop.IPFragment
	}
	h := p.Data[c.at:]
	if len(h) < fragHdrLen {
		return p.short()
	}
	word := binary.BigEndian.Uint16(h[2:])
	p.fragAt, p.nextAt = c.at, c.nextAt
	p.ID, p.FragOff, p.More = binary.BigEndian.Uint32(h[4:]), int(word&^7), word&1 != 0
	c.next, c.nextAt, c.at = h[0], c.at, c.at+fragHdrLen
	if !p.IsFragment() {
		return drop.None
	}
	p.Proto, p.HdrLen, p.DF = h[0], c.at, false
	r := p.checkFragment(p.fragAt - HeaderLen6 + p.FragOff + len(p.Payload()))
	if r == drop.IPFragment {
		switch n := len(p.Payload()); {
		case p.More && n%8 != 0:
			return p.object(problemField, 4, r)
		case n != 0:
			return p.object(problemField, p.fragAt+2, r)
		}
	}
	return r
}
