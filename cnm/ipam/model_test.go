package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// twin is what an Allocator does, written the slow way: sets, and walks over every address and every prefix.
type twin struct {
	base  netip.Prefix
	size  int
	pools map[string]*twinPool
}

type twinPool struct {
	prefix, choice netip.Prefix
	used           map[netip.Addr]bool
}

func (w *twin) overlaps(p netip.Prefix) bool {
	for _, q := range w.pools {
		if q.prefix.Overlaps(p) {
			return true
		}
	}
	return false
}

func (w *twin) choose(reserved []netip.Prefix) (netip.Prefix, bool) {
	for a := w.base.Addr(); w.base.Contains(a); a = a.Next() {
		p := netip.PrefixFrom(a, w.size)
		free := p == p.Masked() && !w.overlaps(p)
		for _, r := range reserved {
			free = free && !r.Overlaps(p)
		}
		if free {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

func (w *twin) take(id string, p, choice netip.Prefix) {
	n := &twinPool{prefix: p, choice: choice, used: map[netip.Addr]bool{}}
	if !choice.IsValid() {
		n.choice = p
	}
	if p.Bits() < 31 {
		n.used[p.Addr()] = true
		end := p.Addr()
		for p.Contains(end.Next()) {
			end = end.Next()
		}
		n.used[end] = true
	}
	w.pools[id] = n
}

// model is an Allocator beside its twin. Its methods that take but a *rapid.T are what may happen.
type model struct {
	*twin
	a        *Allocator
	config   Config
	reserved []netip.Prefix
}

func newModel(t *rapid.T) *model {
	m := &model{twin: &twin{base: netip.MustParsePrefix("10.0.0.0/24"), size: 28, pools: map[string]*twinPool{}}}
	m.config = Config{Blocks: []Block{{m.base, m.size}}, Reserved: func() []netip.Prefix { return m.reserved }}
	m.open(t)
	return m
}

func (m *model) open(t *rapid.T) {
	var err error
	if m.a, err = New(m.config); err != nil {
		t.Fatal(err)
	}
}

var (
	anyAddress = rapid.Custom(func(t *rapid.T) netip.Addr {
		return netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 255).Draw(t, "last"))})
	})
	anyPrefix = rapid.Custom(func(t *rapid.T) netip.Prefix {
		return netip.PrefixFrom(anyAddress.Draw(t, "address"), rapid.IntRange(26, 32).Draw(t, "bits")).Masked()
	})
)

// pool draws one, nil when there is none.
func (m *model) pool(t *rapid.T) (string, *twinPool) {
	if len(m.pools) == 0 {
		return "", nil
	}
	var ids []string
	for _, p := range m.a.taken {
		for id, q := range m.pools {
			if q.prefix == p {
				ids = append(ids, id)
			}
		}
	}
	id := rapid.SampledFrom(ids).Draw(t, "pool")
	return id, m.pools[id]
}

func (m *model) Reserve(t *rapid.T) {
	m.reserved = rapid.SliceOfN(anyPrefix, 0, 3).Draw(t, "reserved")
}

func (m *model) ChoosePool(t *rapid.T) {
	want, ok := m.choose(m.reserved)
	got, err := m.a.RequestPool(PoolRequest{})
	if ok != (err == nil) || got.Prefix != want {
		t.Fatalf("pool %v %v, want %v", got, err, want)
	}
	if ok {
		m.take(got.ID, want, netip.Prefix{})
	}
}

func (m *model) NamePool(t *rapid.T) {
	r := PoolRequest{Prefix: anyPrefix.Draw(t, "prefix")}
	if rapid.Bool().Draw(t, "with range") {
		bits := rapid.IntRange(r.Prefix.Bits(), 32).Draw(t, "range bits")
		r.Range = netip.PrefixFrom(r.Prefix.Addr(), bits)
	}
	got, err := m.a.RequestPool(r)
	if m.overlaps(r.Prefix) != errors.Is(err, ErrPoolOverlap) {
		t.Fatalf("%v: %v", r, err)
	}
	if err == nil {
		m.take(got.ID, r.Prefix, r.Range)
	}
}

func (m *model) ReleasePool(t *rapid.T) {
	id, p := m.pool(t)
	if p == nil {
		return
	}
	if err := m.a.ReleasePool(id); err != nil {
		t.Fatal(err)
	}
	delete(m.pools, id)
}

func (m *model) ChooseAddress(t *rapid.T) {
	id, p := m.pool(t)
	if p == nil {
		return
	}
	want := netip.Addr{}
	for x := p.choice.Addr(); p.choice.Contains(x) && !want.IsValid(); x = x.Next() {
		if !p.used[x] {
			want = x
		}
	}
	got, err := m.a.RequestAddress(id, netip.Addr{})
	if want.IsValid() != (err == nil) || got.Addr() != want {
		t.Fatalf("%s: %v %v, want %v", id, got, err, want)
	}
	if want.IsValid() {
		p.used[want] = true
	}
}

func (m *model) NameAddress(t *rapid.T) {
	id, p := m.pool(t)
	if p == nil {
		return
	}
	x := anyAddress.Draw(t, "address")
	_, err := m.a.RequestAddress(id, x)
	switch {
	case !p.prefix.Contains(x):
		if !errors.Is(err, ErrOutOfRange) {
			t.Fatal(err)
		}
	case p.used[x] != errors.Is(err, ErrAddressInUse):
		t.Fatal(err)
	default:
		p.used[x] = true
	}
}

func (m *model) ReleaseAddress(t *rapid.T) {
	id, p := m.pool(t)
	if p == nil {
		return
	}
	x := anyAddress.Draw(t, "address")
	if err := m.a.ReleaseAddress(id, x); (err == nil) != p.prefix.Contains(x) {
		t.Fatal(err)
	}
	if never := unusable(p.prefix); len(never) == 0 || x != never[0] && x != never[1] {
		delete(p.used, x)
	}
}

// Restart is what the Controller does from its store.
func (m *model) Restart(t *rapid.T) {
	m.open(t)
	for id, p := range m.pools {
		r := PoolRequest{Prefix: p.prefix}
		if p.choice != p.prefix || id != "LocalDefault/"+p.prefix.String() {
			r.Range = p.choice
		}
		if got, err := m.a.RequestPool(r); err != nil || got.ID != id {
			t.Fatalf("%s: %v %v", id, got, err)
		}
		for x := range p.used {
			if _, err := m.a.RequestAddress(id, x); err != nil && !errors.Is(err, ErrAddressInUse) {
				t.Fatal(err)
			}
		}
	}
}

// Check compares the two after each step.
func (m *model) Check(t *rapid.T) { compare(t, m.a, m.twin) }

// FZ-15: pools and addresses are requested, released and restored after a restart; the twin says the same of each.
func TestFZ15Model(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { t.Repeat(rapid.StateMachineActions(newModel(t))) })
}

func compare(t *rapid.T, a *Allocator, w *twin) {
	if len(a.pools) != len(w.pools) || len(a.taken) != len(w.pools) {
		t.Fatalf("%d pools, %d prefixes, want %d", len(a.pools), len(a.taken), len(w.pools))
	}
	for id, p := range w.pools {
		u, err := a.Usage(id)
		free := 0
		for x := p.choice.Addr(); p.choice.Contains(x); x = x.Next() {
			if !p.used[x] {
				free++
			}
		}
		if err != nil || u != (Usage{uint64(len(p.used)), uint64(free)}) {
			t.Fatalf("%s: usage %v %v, want %d and %d", id, u, err, len(p.used), free)
		}
		if bad := untidy(a.pools[id].used); bad != "" {
			t.Fatal(bad)
		}
	}
}

// untidy says what is wrong with spans: they are sorted and do not touch.
func untidy(s spans) string {
	for i, e := range s {
		if e.hi.Less(e.lo) || i > 0 && !s[i-1].hi.Next().Less(e.lo) {
			return fmt.Sprint("spans ", s)
		}
	}
	return ""
}
