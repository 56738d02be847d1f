package nat

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
)

// Theory of operation
//
// The containers of one Network must not reach those of another (HC-12). They cannot by frames, for each
// Network is a switch of its own; and the host has no route to any of them. But a packet to a foreign
// container's address would leave by the host's default route, with whatever it carries, and where a daemon
// runs inside another's network it would even arrive. So the prefixes of all Networks of a process are known to
// all their Policies, and no destination in one of them is allowed.
//
// A Policy looks for every datagram, control changes the set when a Network is made or removed. So readers
// have a snapshot: the prefixes as sorted ranges that do not touch each other, one list for each family. To find an
// address is a binary search for the last range that begins at or below it, eleven comparisons for 2000 prefixes.

// Reserved is the set of prefixes that belong to Networks. The zero value is empty and ready. It is safe for
// concurrent use; a nil *Reserved contains nothing.
type Reserved struct {
	ranges atomic.Pointer[[2][]addrRange] // v4, v6; immutable

	mu sync.Mutex // serialises writers
	// count is how often a prefix was added: two Networks may have the same one for a moment, while one replaces the other.
	count map[netip.Prefix]int // guarded by mu
}

// addrRange is the addresses from first to last.
type addrRange struct{ first, last netip.Addr }

// Contains reports whether a lies in a reserved prefix.
func (r *Reserved) Contains(a netip.Addr) bool {
	if r == nil {
		return false
	}
	families := r.ranges.Load()
	if families == nil {
		return false
	}
	list := families[0]
	if a.Is6() {
		list = families[1]
	}
	i := sort.Search(len(list), func(i int) bool { return a.Less(list[i].first) })
	return i > 0 && !list[i-1].last.Less(a)
}

// Add reserves prefixes. On an error none is.
func (r *Reserved) Add(prefixes ...netip.Prefix) error {
	for _, p := range prefixes {
		if !p.IsValid() || p.Addr().Is4In6() {
			return fmt.Errorf("reserve prefix %s: not a prefix of IPv4 or IPv6", p)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.count == nil {
		r.count = make(map[netip.Prefix]int)
	}
	for _, p := range prefixes {
		r.count[p.Masked()]++
	}
	r.publishLocked()
	return nil
}

// Remove takes back what Add reserved. On an error nothing has changed.
func (r *Reserved) Remove(prefixes ...netip.Prefix) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := maps.Clone(r.count)
	for _, p := range prefixes {
		m := p.Masked()
		if next[m] == 0 {
			return fmt.Errorf("release prefix %s: not reserved", p)
		}
		if next[m]--; next[m] == 0 {
			delete(next, m)
		}
	}
	r.count = next
	r.publishLocked()
	return nil
}

// publishLocked makes the snapshot of what is counted.
func (r *Reserved) publishLocked() {
	var families [2][]addrRange
	sorted := slices.SortedFunc(maps.Keys(r.count), netip.Prefix.Compare)
	for _, p := range sorted {
		f := 0
		if p.Addr().Is6() {
			f = 1
		}
		list := families[f]
		// Prefixes nest or are apart, and the wider of two that begin together is sorted first.
		if n := len(list); n > 0 && !list[n-1].last.Less(p.Addr()) {
			continue
		}
		families[f] = append(list, addrRange{p.Addr(), lastAddr(p)})
	}
	r.ranges.Store(&families)
}

// lastAddr is the highest address of a masked prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
