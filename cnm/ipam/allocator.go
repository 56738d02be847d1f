package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/usernet/usernet/cnm/fault"
)

// DefaultSpace is the address space of Networks of one host.
const DefaultSpace = "LocalDefault"

// Config is what an Allocator chooses from.
type Config struct {
	// Space begins the ids of its Pools; empty means DefaultSpace.
	Space string
	// Blocks are where Pools come from; none means LocalBlocks. Where none of them is IPv6, ULA(HostID) joins.
	Blocks []Block
	// HostID tells this host from others; /etc/machine-id has one.
	HostID string
	// Reserved returns the prefixes not to choose; nil means none. It is called at each choice.
	Reserved func() []netip.Prefix
}

// Allocator is Docker's default IPAM driver.
type Allocator struct {
	space    string
	blocks   []Block
	reserved func() []netip.Prefix

	mu sync.Mutex
	// +checklocks:mu
	pools map[string]*pool
	// taken are the prefixes of pools in order; they do not overlap.
	// +checklocks:mu
	taken []netip.Prefix
}

// pool is a Pool and which of its addresses are in use.
type pool struct {
	Pool
	used  spans
	inUse uint64
}

var _ Driver = (*Allocator)(nil)

// New makes an Allocator that has given out nothing.
func New(c Config) (*Allocator, error) {
	if c.Space == "" {
		c.Space = DefaultSpace
	}
	blocks := slices.Clone(c.Blocks)
	if len(blocks) == 0 {
		blocks = LocalBlocks()
	}
	if !slices.ContainsFunc(blocks, func(b Block) bool { return b.Base.Addr().Is6() }) {
		blocks = append(blocks, ULA(c.HostID))
	}
	for _, b := range blocks {
		if err := b.Validate(); err != nil {
			return nil, &fault.Error{Kind: fault.Invalid, Err: err}
		}
	}
	if c.Reserved == nil {
		c.Reserved = func() []netip.Prefix { return nil }
	}
	return &Allocator{space: c.Space, blocks: arrange(blocks), reserved: c.Reserved, pools: make(map[string]*pool)}, nil
}

// RequestPool gives out a prefix.
func (a *Allocator) RequestPool(r PoolRequest) (Pool, error) {
	if !r.Prefix.IsValid() || r.Prefix.Addr().IsUnspecified() {
		if r.Range.IsValid() {
			return Pool{}, ErrInvalidRange
		}
		return a.choosePool(r)
	}
	switch {
	case r.Prefix != r.Prefix.Masked() || r.Prefix.Addr().Is4In6():
		return Pool{}, ErrInvalidPool
	case r.Range.IsValid() && !within(r.Range, r.Prefix):
		return Pool{}, ErrInvalidRange
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.overlapLocked(r.Prefix); ok {
		return Pool{}, ErrPoolOverlap
	}
	return a.takeLocked(r.Prefix, r.Range), nil
}

// choosePool gives out a prefix of its own choice.
func (a *Allocator) choosePool(r PoolRequest) (Pool, error) {
	v6, bits := r.V6, 0
	if r.Prefix.IsValid() {
		v6, bits = r.Prefix.Addr().Is6(), r.Prefix.Bits()
	}
	reserved := a.reserved()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range a.blocks {
		if b.Base.Addr().Is6() != v6 {
			continue
		}
		size := b.Size
		if bits > 0 {
			size = bits
		}
		if p, ok := a.walkLocked(b.Base, size, reserved); ok {
			return a.takeLocked(p, netip.Prefix{}), nil
		}
	}
	return Pool{}, ErrNoMorePools
}

// walkLocked finds the first free prefix of a length in a Block.
func (a *Allocator) walkLocked(base netip.Prefix, bits int, reserved []netip.Prefix) (netip.Prefix, bool) {
	if bits < base.Bits() {
		return netip.Prefix{}, false
	}
	p := netip.PrefixFrom(base.Addr(), bits)
	for {
		obstacle, ok := a.overlapLocked(p)
		if !ok {
			i := slices.IndexFunc(reserved, p.Overlaps)
			if i < 0 {
				return p, true
			}
			obstacle = reserved[i].Masked()
		}
		// Behind the larger of the two; both are aligned there, since one contains the other.
		behind := last(p)
		if end := last(obstacle); behind.Less(end) {
			behind = end
		}
		next := behind.Next()
		if !next.IsValid() || !base.Contains(next) {
			return netip.Prefix{}, false
		}
		p = netip.PrefixFrom(next, bits)
	}
}

// overlapLocked returns the Pool that p overlaps. As Pools do not overlap each other it is the last that begins at
// or below p, or the first above.
func (a *Allocator) overlapLocked(p netip.Prefix) (netip.Prefix, bool) {
	i, found := a.searchLocked(p)
	if found {
		return a.taken[i], true
	}
	if i > 0 && a.taken[i-1].Overlaps(p) {
		return a.taken[i-1], true
	}
	if i < len(a.taken) && a.taken[i].Overlaps(p) {
		return a.taken[i], true
	}
	return netip.Prefix{}, false
}

func (a *Allocator) searchLocked(p netip.Prefix) (int, bool) {
	return slices.BinarySearchFunc(a.taken, p, func(q, p netip.Prefix) int { return q.Addr().Compare(p.Addr()) })
}

// takeLocked makes a Pool of a free prefix.
func (a *Allocator) takeLocked(p, r netip.Prefix) Pool {
	n := &pool{Pool: Pool{ID: a.space + "/" + p.String(), Prefix: p, Range: r}}
	if r.IsValid() {
		n.ID += "/" + r.String()
	}
	for _, never := range unusable(p) {
		n.used.add(never)
		n.inUse++
	}
	i, _ := a.searchLocked(p)
	a.taken = slices.Insert(a.taken, i, p)
	a.pools[n.ID] = n
	return n.Pool
}

// ReleasePool takes a prefix back with all its addresses.
func (a *Allocator) ReleasePool(id string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	p, err := a.poolLocked(id)
	if err != nil {
		return err
	}
	i, _ := a.searchLocked(p.Prefix)
	a.taken = slices.Delete(a.taken, i, i+1)
	delete(a.pools, id)
	return nil
}

// RequestAddress gives out want, or the lowest free address of the Pool (of its Range where it has one).
func (a *Allocator) RequestAddress(id string, want netip.Addr) (netip.Prefix, error) {
	want = want.Unmap()
	a.mu.Lock()
	defer a.mu.Unlock()
	p, err := a.poolLocked(id)
	if err != nil {
		return netip.Prefix{}, err
	}
	if want.IsValid() {
		if !p.Prefix.Contains(want) {
			return netip.Prefix{}, ErrOutOfRange
		}
		if !p.used.add(want) {
			return netip.Prefix{}, ErrAddressInUse
		}
	} else {
		var ok bool
		if want, ok = p.used.free(p.choice()); !ok {
			return netip.Prefix{}, ErrNoAddresses
		}
		p.used.add(want)
	}
	p.inUse++
	return netip.PrefixFrom(want, p.Prefix.Bits()), nil
}

// ReleaseAddress makes an address free.
func (a *Allocator) ReleaseAddress(id string, addr netip.Addr) error {
	addr = addr.Unmap()
	a.mu.Lock()
	defer a.mu.Unlock()
	p, err := a.poolLocked(id)
	if err != nil {
		return err
	}
	if !p.Prefix.Contains(addr) {
		return ErrOutOfRange
	}
	if !slices.Contains(unusable(p.Prefix), addr) && p.used.remove(addr) {
		p.inUse--
	}
	return nil
}

// Usage counts the addresses of a Pool.
func (a *Allocator) Usage(id string) (Usage, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p, err := a.poolLocked(id)
	if err != nil {
		return Usage{}, err
	}
	from := p.choice()
	all := span{from.Addr(), last(from)}.size()
	return Usage{InUse: p.inUse, Free: all - p.used.count(from)}, nil
}

func (a *Allocator) poolLocked(id string) (*pool, error) {
	if p, ok := a.pools[id]; ok {
		return p, nil
	}
	space, rest, _ := strings.Cut(id, "/")
	if space != a.space {
		return nil, fmt.Errorf("%w: %q", ErrInvalidSpace, space)
	}
	return nil, fmt.Errorf("%w: %q", ErrInvalidPool, rest)
}

// choice is where addresses are chosen from.
func (p *pool) choice() netip.Prefix {
	if p.Range.IsValid() {
		return p.Range
	}
	return p.Prefix
}

// unusable returns the addresses of a prefix that no host can have.
func unusable(p netip.Prefix) []netip.Addr {
	switch {
	case p.Addr().Is6(): // the subnet-router anycast address, RFC 4291 2.6.1
		return []netip.Addr{p.Addr()}
	case p.Bits() >= 31: // RFC 3021
		return nil
	}
	return []netip.Addr{p.Addr(), last(p)}
}

// within reports whether r is a part of p.
func within(r, p netip.Prefix) bool {
	return r == r.Masked() && r.Bits() >= p.Bits() && p.Contains(r.Addr())
}
