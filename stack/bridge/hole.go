package bridge

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// Theory of operation
//
// Ports of one Group do not talk to each other. A Hole is an exception: the port From may reach one TCP or UDP
// port of the station that has the hole, as Docker's legacy links allow it where icc is off. Through a hole pass
//
//   - segments and datagrams of From's to that port, and back from that port. A SYN passes in the first direction
//     only, so who may connect to whom is not turned round by choosing a source port. UDP has no such mark; there a
//     hole is open in both directions, as Docker's is;
//   - ICMP errors about those, told by the packet they quote;
//   - what it takes to find each other's link address: ARP and ND about addresses of the two.
//
// Nothing is remembered of a flow: a frame passes or does not by what it says itself. Fragments of UDP pass without
// their ports, for without the first one, which has been looked at, they are nothing. TCP is not fragmented by
// anybody honest, and its flags could hide in a second fragment, so those do not pass.

// Hole lets the port with the ID From reach a port of the station that has it.
type Hole struct {
	From  string
	Proto uint8 // 6 or 17
	Port  uint16
}

// SetHoles puts holes in the place of those the port had.
func (p *Port) SetHoles(holes []Hole) {
	m := make(map[string][]Hole)
	for _, h := range holes {
		m[h.From] = append(m[h.From], h)
	}
	p.holes.Store(&m)
}

func (p *Port) holesFor(from string) []Hole {
	if m := p.holes.Load(); m != nil {
		return (*m)[from]
	}
	return nil
}

// hole reports whether f may pass from p to q, which are apart.
func (p *Port) hole(q *Port, f *l2.Frame) bool {
	if p == q || p.cfg.Group != GroupContainers {
		return false
	}
	there, back := q.holesFor(p.cfg.ID), p.holesFor(q.cfg.ID)
	if len(there) == 0 && len(back) == 0 {
		return false
	}
	if f.Header.Type() == l2.TypeARP { // the guard has seen to its length
		return q.has(netip.AddrFrom4([4]byte(f.L3[0][24:28])))
	}
	k, ok := readFlow(f.L3[0], true)
	if !ok {
		return false
	}
	switch k.kind {
	case flowND:
		return k.target.IsValid() && (q.has(k.target) || p.has(k.target) && !f.Header.Dst().IsMulticast())
	case flowError:
		// It quotes a packet that went the other way, between these two and nobody else.
		return q.has(k.src) && p.has(k.dst) && passes(k.ports, back, there)
	}
	return !f.Header.Dst().IsMulticast() && passes(k.ports, there, back)
}

// has reports whether control gave the port that address, or it follows from its MAC.
func (p *Port) has(a netip.Addr) bool { return slices.Contains(p.cfg.Addrs, a) || a == p.linkLocal }

// ports is what of a packet decides whether it passes.
type ports struct {
	proto    uint8
	src, dst uint16
	syn      bool // opens a connection
	tail     bool // a fragment but not the first: src and dst are not known
}

// passes reports whether a packet passes the holes of its receiver (there) or, as an answer, those of its sender (back).
func passes(k ports, there, back []Hole) bool {
	for _, h := range there {
		if h.Proto == k.proto && (k.tail || h.Port == k.dst) {
			return true
		}
	}
	for _, h := range back {
		if h.Proto == k.proto && !k.syn && (k.tail || h.Port == k.src) {
			return true
		}
	}
	return false
}

type flowKind uint8

const (
	flowPorts flowKind = iota
	flowError          // an ICMP error
	flowND             // neighbour discovery
)

// flowKey is what a packet says of the flow it belongs to.
type flowKey struct {
	kind     flowKind
	ports    ports      // of an ICMP error: those of the packet it quotes
	src, dst netip.Addr // of an ICMP error: of the packet it quotes
	target   netip.Addr // of neighbour discovery
}

// readFlow reads b, a packet or the beginning of one. whole says that it is a packet and not a quote.
func readFlow(b []byte, whole bool) (k flowKey, ok bool) {
	proto, off, fragment, tail, ok := findUpper(b)
	if !ok {
		return k, false
	}
	k.ports = ports{proto: proto, tail: tail}
	msg := b[min(off, len(b)):]
	switch proto {
	case protoTCP:
		if fragment || len(msg) < 4 || whole && len(msg) < minTCPHeader {
			return k, false
		}
		const syn, ack = 0x02, 0x10
		k.ports.syn = whole && msg[13]&(syn|ack) == syn
	case protoUDP:
		if tail {
			return k, true
		}
		if len(msg) < udpHeader {
			return k, false
		}
	case protoICMP, protoICMPv6:
		if !whole || fragment || (proto == protoICMPv6) != (b[0]>>4 == 6) {
			return k, false // an error about an error, or ICMP of the other family
		}
		return readICMP(proto, msg)
	default:
		return k, false
	}
	k.ports.src, k.ports.dst = binary.BigEndian.Uint16(msg), binary.BigEndian.Uint16(msg[2:])
	return k, true
}

// readICMP reads an ICMP message: an error, or neighbour discovery.
func readICMP(proto uint8, msg []byte) (k flowKey, ok bool) {
	if len(msg) < icmp6Header {
		return k, false
	}
	kind := msg[0]
	switch {
	case proto == protoICMPv6 && (kind == icmp6NeighborSol || kind == icmp6NeighborAdv):
		if len(msg) < ndTargetEnd {
			return k, false
		}
		return flowKey{kind: flowND, target: netip.AddrFrom16([16]byte(msg[8:ndTargetEnd]))}, true
	case proto == protoICMPv6 && kind >= 1 && kind <= 4: // RFC 4443 §3
	case proto == protoICMP && (kind == 3 || kind == 11 || kind == 12): // RFC 792
	default:
		return k, false
	}
	quoted := msg[icmp6Header:] // 8 in both families
	k, ok = readFlow(quoted, false)
	if !ok || k.ports.tail || (quoted[0]>>4 == 6) != (proto == protoICMPv6) {
		return k, false
	}
	k.kind = flowError
	if proto == protoICMP {
		k.src, k.dst = netip.AddrFrom4([4]byte(quoted[12:16])), netip.AddrFrom4([4]byte(quoted[16:20]))
	} else {
		k.src, k.dst = netip.AddrFrom16([16]byte(quoted[8:24])), netip.AddrFrom16([16]byte(quoted[24:40]))
	}
	return k, true
}

// findUpper finds the upper-layer header of an IPv4 or IPv6 packet.
func findUpper(b []byte) (proto uint8, off int, fragment, tail, ok bool) {
	switch {
	case len(b) >= minIPv4Header && b[0]>>4 == 4:
		word := binary.BigEndian.Uint16(b[6:])
		off = int(b[0]&15) * 4
		return b[9], off, word&0x3fff != 0, word&0x1fff != 0, off >= minIPv4Header && off <= len(b)
	case len(b) >= ipv6Header && b[0]>>4 == 6:
		u, r := upperLayer(b)
		if u.proto == extFragment && r == drop.None {
			// Not the first: the header before it has its protocol, which is what decides.
			return b[u.off], u.off + 8, true, true, true
		}
		return u.proto, u.off, u.fragment, false, r == drop.None
	}
	return 0, 0, false, false, false
}
