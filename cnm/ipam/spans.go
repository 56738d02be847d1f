package ipam

import (
	"encoding/binary"
	"math"
	"math/bits"
	"net/netip"
	"slices"
)

// span is a run of addresses, both ends included.
type span struct{ lo, hi netip.Addr }

// spans is a set of addresses: sorted, and no two of them touch.
type spans []span

// find returns the index of the first span that does not end below a, and whether a is in it.
func (s spans) find(a netip.Addr) (int, bool) {
	return slices.BinarySearchFunc(s, a, func(e span, a netip.Addr) int {
		switch {
		case e.hi.Less(a):
			return -1
		case a.Less(e.lo):
			return 1
		}
		return 0
	})
}

// add puts a into the set and reports whether it was not there.
func (s *spans) add(a netip.Addr) bool {
	i, in := s.find(a)
	if in {
		return false
	}
	left := i > 0 && (*s)[i-1].hi.Next() == a
	right := i < len(*s) && (*s)[i].lo.Prev() == a
	switch {
	case left && right:
		(*s)[i-1].hi = (*s)[i].hi
		*s = slices.Delete(*s, i, i+1)
	case left:
		(*s)[i-1].hi = a
	case right:
		(*s)[i].lo = a
	default:
		*s = slices.Insert(*s, i, span{a, a})
	}
	return true
}

// remove takes a out of the set and reports whether it was there.
func (s *spans) remove(a netip.Addr) bool {
	i, in := s.find(a)
	if !in {
		return false
	}
	e := &(*s)[i]
	switch {
	case e.lo == e.hi:
		*s = slices.Delete(*s, i, i+1)
	case e.lo == a:
		e.lo = a.Next()
	case e.hi == a:
		e.hi = a.Prev()
	default:
		upper := span{a.Next(), e.hi}
		e.hi = a.Prev()
		*s = slices.Insert(*s, i+1, upper)
	}
	return true
}

// free returns the lowest address of p that is not in the set.
func (s spans) free(p netip.Prefix) (netip.Addr, bool) {
	a := p.Addr()
	if i, in := s.find(a); in {
		a = s[i].hi.Next() // which no other span has, because they do not touch
	}
	return a, a.IsValid() && p.Contains(a)
}

// count returns how many addresses of p are in the set.
func (s spans) count(p netip.Prefix) (n uint64) {
	end := last(p)
	i, _ := s.find(p.Addr())
	for ; i < len(s) && !end.Less(s[i].lo); i++ {
		e := s[i]
		if e.lo.Less(p.Addr()) {
			e.lo = p.Addr()
		}
		if end.Less(e.hi) {
			e.hi = end
		}
		n = addSaturated(n, e.size())
	}
	return n
}

// size returns how many addresses a span has.
func (e span) size() uint64 {
	lo, hi := e.lo.As16(), e.hi.As16()
	low, borrow := bits.Sub64(binary.BigEndian.Uint64(hi[8:]), binary.BigEndian.Uint64(lo[8:]), 0)
	high, _ := bits.Sub64(binary.BigEndian.Uint64(hi[:8]), binary.BigEndian.Uint64(lo[:8]), borrow)
	if high > 0 {
		return math.MaxUint64
	}
	return addSaturated(low, 1)
}

func addSaturated(a, b uint64) uint64 {
	sum, carry := bits.Add64(a, b, 0)
	if carry > 0 {
		return math.MaxUint64
	}
	return sum
}

// last returns the highest address of a masked prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
