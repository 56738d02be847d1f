package nat

import "net/netip"

// maxPeers bounds the addresses a flow remembers. A peer-to-peer client that talks to more addresses
// than this from one port loses the replies of those it has not sent to for longest; it pays for its
// own habits, and a hostile one cannot make a flow hold more than about 20 KiB.
const maxPeers = 256

// indexPeers is from how many peers on a map is worth its memory. Nearly all flows have one or two.
const indexPeers = 8

// peers is a flow's filter: the addresses its container has sent to. A datagram comes in from any
// port of such an address and from no other, the address-dependent filtering of RFC 4787 REQ-8. With
// more than maxPeers addresses the one not sent to for longest is forgotten; the mapping stays.
//
// The zero value is empty and ready. It is not safe for concurrent use.
type peers struct {
	list  []peer
	index map[netip.Addr]int // into list; nil while the list is short
	last  int                // where the latest lookup was found: nearly always right the next time
	clock uint64
}

type peer struct {
	addr netip.Addr
	used uint64 // clock at the last send
}

// add remembers that the container sent to a.
func (p *peers) add(a netip.Addr) {
	p.clock++
	i, ok := p.find(a)
	switch {
	case ok:
	case len(p.list) < maxPeers:
		i = len(p.list)
		p.list = append(p.list, peer{addr: a})
		if p.index != nil {
			p.index[a] = i
		} else if len(p.list) > indexPeers {
			p.index = make(map[netip.Addr]int, 2*indexPeers)
			for j := range p.list {
				p.index[p.list[j].addr] = j
			}
		}
	default:
		i = p.oldest()
		delete(p.index, p.list[i].addr)
		p.list[i].addr, p.index[a] = a, i
	}
	p.list[i].used, p.last = p.clock, i
}

// has reports whether the container has sent to a.
func (p *peers) has(a netip.Addr) bool {
	i, ok := p.find(a)
	if ok {
		p.last = i
	}
	return ok
}

func (p *peers) find(a netip.Addr) (int, bool) {
	if p.last < len(p.list) && p.list[p.last].addr == a {
		return p.last, true
	}
	if p.index != nil {
		i, ok := p.index[a]
		return i, ok
	}
	for i := range p.list {
		if p.list[i].addr == a {
			return i, true
		}
	}
	return 0, false
}

// oldest is a scan, which happens only for a new peer of a flow that is at its bound.
func (p *peers) oldest() int {
	o := 0
	for i := range p.list {
		if p.list[i].used < p.list[o].used {
			o = i
		}
	}
	return o
}
