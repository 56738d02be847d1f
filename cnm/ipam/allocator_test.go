package ipam

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/usernet/usernet/cnm/fault"
)

func prefixes(s ...string) (all []netip.Prefix) {
	for _, p := range s {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

func newAllocator(t testing.TB, c Config) *Allocator {
	t.Helper()
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func requestPool(t testing.TB, a *Allocator, prefix, ipRange string) Pool {
	t.Helper()
	var r PoolRequest
	if prefix != "" {
		r.Prefix = netip.MustParsePrefix(prefix)
	}
	if ipRange != "" {
		r.Range = netip.MustParsePrefix(ipRange)
	}
	p, err := a.RequestPool(r)
	if err != nil {
		t.Fatalf("pool %q %q: %v", prefix, ipRange, err)
	}
	return p
}

// DB3: Docker's pools in Docker's order, the first for the default bridge; and C-cr9 a ULA of the host.
func TestPoolsInOrder(t *testing.T) {
	a := newAllocator(t, Config{HostID: "host"})
	var got []string
	for {
		p, err := a.RequestPool(PoolRequest{})
		if err != nil {
			if !errors.Is(err, ErrNoMorePools) {
				t.Fatal(err)
			}
			break
		}
		got = append(got, p.Prefix.String())
	}
	var want []string
	for i := 17; i < 32; i++ {
		want = append(want, fmt.Sprintf("172.%d.0.0/16", i))
	}
	for i := 0; i < 256; i += 16 {
		want = append(want, fmt.Sprintf("192.168.%d.0/20", i))
	}
	if !slices.Equal(got, want) {
		t.Errorf("pools %v", got)
	}
	// One that comes back is the next.
	if err := a.ReleasePool("LocalDefault/172.20.0.0/16"); err != nil {
		t.Fatal(err)
	}
	if p := requestPool(t, a, "", ""); p.ID != "LocalDefault/172.20.0.0/16" {
		t.Errorf("pool %v", p)
	}

	sum := sha256.Sum256([]byte("host"))
	id := binary.BigEndian.Uint64(sum[:8]) & (1<<40 - 1)
	for i := range 3 {
		p, err := a.RequestPool(PoolRequest{V6: true})
		want := fmt.Sprintf("fd%02x:%x:%x:%x::/64", id>>32, id>>16&0xffff, id&0xffff, i)
		if err != nil || p.Prefix != netip.MustParsePrefix(want) {
			t.Errorf("v6 pool %v %v, want %s", p, err, want)
		}
	}
}

// C-cr12: what a pool is chosen from, and what it keeps away from.
func TestPoolChoice(t *testing.T) {
	ten := Block{netip.MustParsePrefix("10.10.0.0/16"), 24}
	for _, row := range []struct {
		name     string
		blocks   []Block
		reserved []netip.Prefix
		taken    []string
		request  PoolRequest
		want     string // empty: none left
	}{
		{name: "default-address-pools", blocks: []Block{ten}, want: "10.10.0.0/24"},
		{name: "blocks are sorted", blocks: []Block{{netip.MustParsePrefix("10.20.0.0/16"), 24}, ten}, want: "10.10.0.0/24"},
		{name: "a block in a block", blocks: []Block{{netip.MustParsePrefix("10.10.0.0/20"), 26}, ten}, want: "10.10.0.0/24"},
		{name: "a resolver", blocks: []Block{ten}, reserved: prefixes("10.10.0.77/32"), want: "10.10.1.0/24"},
		{name: "routes", blocks: []Block{ten}, reserved: prefixes("10.10.0.0/30", "10.10.0.0/17", "10.10.128.9/23"), want: "10.10.130.0/24"},
		{name: "a route over a whole block", reserved: prefixes("172.16.0.0/12"), want: "192.168.0.0/20"},
		{name: "everything reserved", reserved: prefixes("0.0.0.0/0")},
		{name: "an explicit pool in the way", blocks: []Block{ten}, taken: []string{"10.10.0.128/25", "10.10.1.0/24"}, want: "10.10.2.0/24"},
		{name: "a larger one", blocks: []Block{ten}, taken: []string{"10.0.0.0/8"}},
		{name: "any /24", request: PoolRequest{Prefix: netip.MustParsePrefix("0.0.0.0/24")}, want: "172.17.0.0/24"},
		{name: "the next /24", taken: []string{"172.17.0.0/24"}, request: PoolRequest{Prefix: netip.MustParsePrefix("0.0.0.0/24")}, want: "172.17.1.0/24"},
		{name: "any /15", request: PoolRequest{Prefix: netip.MustParsePrefix("0.0.0.0/15")}, want: "172.20.0.0/15"},
		{name: "any /8", request: PoolRequest{Prefix: netip.MustParsePrefix("0.0.0.0/8")}},
		{name: "any of any length", request: PoolRequest{Prefix: netip.MustParsePrefix("0.0.0.0/0")}, want: "172.17.0.0/16"},
		{name: "any v6 /56", blocks: []Block{{netip.MustParsePrefix("fd00:1::/48"), 64}}, taken: []string{"fd00:1::/64"},
			request: PoolRequest{Prefix: netip.MustParsePrefix("::/56")}, want: "fd00:1:0:100::/56"},
		{name: "v6 of one's own", blocks: []Block{{netip.MustParsePrefix("fd00:1::/48"), 64}}, request: PoolRequest{V6: true}, want: "fd00:1::/64"},
		{name: "no v4 where only v6 is configured", blocks: []Block{{netip.MustParsePrefix("fd00:1::/48"), 64}}},
		{name: "the end of the space", blocks: []Block{{netip.MustParsePrefix("255.255.255.0/24"), 25}}, taken: []string{"255.255.255.0/25"}, want: "255.255.255.128/25"},
		{name: "past the end", blocks: []Block{{netip.MustParsePrefix("255.255.255.0/24"), 25}}, taken: []string{"255.255.255.0/24"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := newAllocator(t, Config{Blocks: row.blocks, Reserved: func() []netip.Prefix { return row.reserved }})
			for _, p := range row.taken {
				requestPool(t, a, p, "")
			}
			p, err := a.RequestPool(row.request)
			switch {
			case row.want == "" && !errors.Is(err, ErrNoMorePools):
				t.Errorf("%v, %v; want none", p, err)
			case row.want != "" && (err != nil || p.Prefix != netip.MustParsePrefix(row.want)):
				t.Errorf("%v, %v; want %s", p, err, row.want)
			}
		})
	}
}

// C-cr6, C-cr12: every failure has Docker's text and code, and changes nothing.
func TestErrors(t *testing.T) {
	a := newAllocator(t, Config{})
	requestPool(t, a, "172.28.0.0/16", "172.28.5.0/30")
	requestPool(t, a, "10.0.0.0/31", "")
	for range 2 {
		if _, err := a.RequestAddress("LocalDefault/10.0.0.0/31", netip.Addr{}); err != nil {
			t.Fatal(err)
		}
	}
	pool := func(prefix, ipRange string) error {
		var r PoolRequest
		r.Prefix, _ = netip.ParsePrefix(prefix)
		r.Range, _ = netip.ParsePrefix(ipRange)
		_, err := a.RequestPool(r)
		return err
	}
	address := func(id, want string) error {
		addr, _ := netip.ParseAddr(want)
		_, err := a.RequestAddress(id, addr)
		return err
	}
	const id = "LocalDefault/172.28.0.0/16/172.28.5.0/30"
	for _, row := range []struct {
		err  error
		kind fault.Kind
		text string
	}{
		{pool("172.28.0.0/16", ""), fault.Forbidden, "invalid pool request: Pool overlaps with other one on this address space"},
		{pool("172.28.1.0/24", ""), fault.Forbidden, "invalid pool request: Pool overlaps with other one on this address space"},
		{pool("172.0.0.0/8", ""), fault.Forbidden, "invalid pool request: Pool overlaps with other one on this address space"},
		{pool("172.28.0.0/16", "172.28.6.0/24"), fault.Forbidden, "invalid pool request: Pool overlaps with other one on this address space"},
		{pool("172.29.0.1/16", ""), fault.Invalid, "invalid address pool"},
		{pool("::ffff:10.1.0.0/112", ""), fault.Invalid, "invalid address pool"},
		{pool("172.29.0.0/16", "172.30.0.0/24"), fault.Invalid, "invalid address subpool"},
		{pool("172.29.0.0/16", "172.29.0.1/24"), fault.Invalid, "invalid address subpool"},
		{pool("172.29.0.0/16", "172.0.0.0/8"), fault.Invalid, "invalid address subpool"},
		{pool("172.29.0.0/16", "fd00::/64"), fault.Invalid, "invalid address subpool"},
		{pool("", "172.29.0.0/24"), fault.Invalid, "invalid address subpool"},
		{address("LocalDefault/10.0.0.0/31", ""), fault.Unavailable, "no available addresses on this pool"},
		{address("LocalDefault/10.0.0.0/31", "10.0.0.1"), fault.Forbidden, "Address already in use"},
		{address(id, "172.28.0.0"), fault.Forbidden, "Address already in use"},
		{address(id, "172.28.255.255"), fault.Forbidden, "Address already in use"},
		{address(id, "172.29.0.1"), fault.Invalid, "requested address is out of range"},
		{address(id, "fd00::1"), fault.Invalid, "requested address is out of range"},
		{address("LocalDefault/1.0.0.0/8", ""), fault.Invalid, `invalid address pool: "1.0.0.0/8"`},
		{address("GlobalDefault/10.0.0.0/31", ""), fault.Invalid, `invalid address space: "GlobalDefault"`},
		{a.ReleaseAddress(id, netip.MustParseAddr("10.0.0.1")), fault.Invalid, "requested address is out of range"},
		{a.ReleaseAddress("x", netip.MustParseAddr("10.0.0.1")), fault.Invalid, `invalid address space: "x"`},
		{a.ReleasePool(""), fault.Invalid, `invalid address space: ""`},
		{func() error { _, err := a.Usage("x"); return err }(), fault.Invalid, `invalid address space: "x"`},
		{func() error { _, err := Drivers{}.Get("foo"); return err }(), fault.NotFound,
			"could not find plugin foo in v1 plugin registry: plugin not found"}, // C-cr7
	} {
		if row.err == nil || row.err.Error() != row.text || fault.KindOf(row.err) != row.kind {
			t.Errorf("%v (kind %d), want %s (kind %d)", row.err, fault.KindOf(row.err), row.text, row.kind)
		}
	}
	if len(a.pools) != 2 || len(a.taken) != 2 {
		t.Errorf("pools after errors: %v", a.taken)
	}
	if u, _ := a.Usage(id); u.InUse != 2 {
		t.Errorf("in use after errors: %v", u)
	}
}

// What is given out: C-cr4 the gateway is the first, C-cr6 of the range; DB11; lowest first, and what is
// released is the next.
func TestAddressesInOrder(t *testing.T) {
	for _, row := range []struct {
		pool, ipRange string
		want          []string // until none is left, or a few
		all           bool
	}{
		{"172.17.0.0/16", "", []string{"172.17.0.1/16", "172.17.0.2/16", "172.17.0.3/16"}, false},
		{"172.28.0.0/16", "172.28.5.0/24", []string{"172.28.5.0/16", "172.28.5.1/16"}, false},
		{"10.0.0.0/29", "10.0.0.4/30", []string{"10.0.0.4/29", "10.0.0.5/29", "10.0.0.6/29"}, true},
		{"10.0.0.0/29", "10.0.0.0/30", []string{"10.0.0.1/29", "10.0.0.2/29", "10.0.0.3/29"}, true},
		{"10.0.0.0/30", "", []string{"10.0.0.1/30", "10.0.0.2/30"}, true},
		{"10.0.0.0/31", "", []string{"10.0.0.0/31", "10.0.0.1/31"}, true},
		{"10.0.0.7/32", "", []string{"10.0.0.7/32"}, true},
		{"255.255.255.252/30", "", []string{"255.255.255.253/30", "255.255.255.254/30"}, true},
		{"fd00::/64", "", []string{"fd00::1/64", "fd00::2/64"}, false},
		{"fd00::/126", "", []string{"fd00::1/126", "fd00::2/126", "fd00::3/126"}, true},
		{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127", "", []string{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/127"}, true},
	} {
		a := newAllocator(t, Config{})
		p := requestPool(t, a, row.pool, row.ipRange)
		for _, want := range row.want {
			got, err := a.RequestAddress(p.ID, netip.Addr{})
			if err != nil || got != netip.MustParsePrefix(want) {
				t.Errorf("%s %s: %v %v, want %s", row.pool, row.ipRange, got, err, want)
			}
		}
		if got, err := a.RequestAddress(p.ID, netip.Addr{}); row.all && !errors.Is(err, ErrNoAddresses) {
			t.Errorf("%s: one more: %v %v", row.pool, got, err)
		}
		first := netip.MustParsePrefix(row.want[0])
		for range 2 { // the second time it is free already
			if err := a.ReleaseAddress(p.ID, first.Addr()); err != nil {
				t.Error(err)
			}
		}
		if got, err := a.RequestAddress(p.ID, netip.Addr{}); err != nil || got != first {
			t.Errorf("%s: reuse %v %v, want %s", row.pool, got, err, first)
		}
	}
}

// C-co3: --ip may be outside --ip-range; what it takes is not given to others.
func TestAddressOutsideRange(t *testing.T) {
	a := newAllocator(t, Config{})
	p := requestPool(t, a, "10.0.0.0/24", "10.0.0.16/28")
	for _, want := range []string{"10.0.0.200", "10.0.0.16", "::ffff:10.0.0.18"} {
		got, err := a.RequestAddress(p.ID, netip.MustParseAddr(want))
		if err != nil || got.Addr() != netip.MustParseAddr(want).Unmap() || got.Bits() != 24 {
			t.Errorf("%s: %v %v", want, got, err)
		}
	}
	for _, want := range []string{"10.0.0.17/24", "10.0.0.19/24"} {
		if got, err := a.RequestAddress(p.ID, netip.Addr{}); err != nil || got.String() != want {
			t.Errorf("%v %v, want %s", got, err, want)
		}
	}
	// The addresses of nobody stay nobody's.
	for _, addr := range []string{"10.0.0.0", "10.0.0.255"} {
		if err := a.ReleaseAddress(p.ID, netip.MustParseAddr(addr)); err != nil {
			t.Error(err)
		}
		if _, err := a.RequestAddress(p.ID, netip.MustParseAddr(addr)); !errors.Is(err, ErrAddressInUse) {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// Docker's Status counts .0, the broadcast address and the gateway as in use.
func TestUsage(t *testing.T) {
	for _, row := range []struct {
		pool, ipRange string
		take          []string
		want          Usage
	}{
		{"172.18.0.0/16", "", []string{"", ""}, Usage{4, 65532}}, // gateway and one container
		{"172.18.0.0/16", "172.18.5.0/24", []string{"", "", "172.18.9.9"}, Usage{5, 254}},
		{"10.0.0.0/31", "", []string{""}, Usage{1, 1}},
		{"10.0.0.0/32", "", []string{""}, Usage{1, 0}},
		{"10.0.0.0/29", "10.0.0.4/30", nil, Usage{2, 3}}, // the broadcast address is in the range
		{"fd00::/120", "", []string{""}, Usage{2, 254}},
		{"fd00::/64", "", []string{""}, Usage{2, math.MaxUint64 - 2}},
		{"fd00::/8", "", nil, Usage{1, math.MaxUint64 - 1}},
	} {
		a := newAllocator(t, Config{})
		p := requestPool(t, a, row.pool, row.ipRange)
		for _, s := range row.take {
			want, _ := netip.ParseAddr(s)
			if _, err := a.RequestAddress(p.ID, want); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := a.Usage(p.ID); err != nil || got != row.want {
			t.Errorf("%s %s: %v %v, want %v", row.pool, row.ipRange, got, err, row.want)
		}
	}
}

// FT-13: 16 at once, 1 000 times each, on one /24: no address twice, none lost.
func TestFT13Parallel(t *testing.T) {
	a := newAllocator(t, Config{})
	p := requestPool(t, a, "10.0.0.0/24", "")
	const workers, rounds, held = 16, 1000, 15 // 240 of 254 at most
	var mu sync.Mutex
	owner := make(map[netip.Addr]int)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			var mine []netip.Addr
			for i := range rounds {
				if len(mine) == held || i%3 == 2 {
					mu.Lock()
					delete(owner, mine[0])
					mu.Unlock()
					if err := a.ReleaseAddress(p.ID, mine[0]); err != nil {
						t.Error(err)
					}
					mine = mine[1:]
				}
				got, err := a.RequestAddress(p.ID, netip.Addr{})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if other, ok := owner[got.Addr()]; ok {
					t.Errorf("%v has %d and %d", got, other, w)
				}
				owner[got.Addr()] = w
				mu.Unlock()
				mine = append(mine, got.Addr())
			}
		})
	}
	wg.Wait()
	if u, err := a.Usage(p.ID); err != nil || u.InUse != uint64(len(owner)+2) || u.InUse+u.Free != 256 {
		t.Errorf("%d owned, usage %v %v", len(owner), u, err)
	}
}

// smallBlocks has room for many Pools.
func smallBlocks() []Block { return []Block{{netip.MustParsePrefix("10.0.0.0/8"), 24}} }

// Pools are chosen in parallel as well, and no two overlap.
func TestFT13ParallelPools(t *testing.T) {
	a := newAllocator(t, Config{Blocks: smallBlocks(), Space: "GlobalDefault"})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 50 {
				p, err := a.RequestPool(PoolRequest{})
				if err != nil {
					t.Error(err)
				}
				if p.Prefix.Addr().As4()[2]%2 == 0 {
					if err := a.ReleasePool(p.ID); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	for i, p := range a.taken {
		if i > 0 && p.Overlaps(a.taken[i-1]) {
			t.Errorf("%v overlaps %v", p, a.taken[i-1])
		}
	}
	if len(a.taken) != len(a.pools) {
		t.Errorf("%d prefixes of %d pools", len(a.taken), len(a.pools))
	}
}

// RX-12 as far as addresses go: 2 000 of them in a large pool, with every other one gone and come again.
func BenchmarkAddress(b *testing.B) {
	for _, pool := range []string{"10.0.0.0/8", "fd00::/64"} {
		b.Run(pool, func(b *testing.B) {
			a := newAllocator(b, Config{})
			p := requestPool(b, a, pool, "")
			var all []netip.Addr
			for range 2000 {
				got, err := a.RequestAddress(p.ID, netip.Addr{})
				if err != nil {
					b.Fatal(err)
				}
				all = append(all, got.Addr())
			}
			for i := 0; i < len(all); i += 2 {
				a.ReleaseAddress(p.ID, all[i])
			}
			for b.Loop() {
				got, err := a.RequestAddress(p.ID, netip.Addr{})
				if err != nil {
					b.Fatal(err)
				}
				a.ReleaseAddress(p.ID, got.Addr())
			}
		})
	}
}

// RX-11 as far as prefixes go: the thousandth network.
func BenchmarkPool(b *testing.B) {
	a := newAllocator(b, Config{Blocks: smallBlocks()})
	for range 1000 {
		requestPool(b, a, "", "")
	}
	for b.Loop() {
		p := requestPool(b, a, "", "")
		a.ReleasePool(p.ID)
	}
}
