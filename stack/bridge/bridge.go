package bridge

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/fdb"
	"github.com/usernet/usernet/stack/l2"
)

// Limits of a port; the package comment says what happens at each.
const (
	// MaxMACs is for a guest with a bridge or macvlan of its own inside; an ordinary one has one.
	MaxMACs = 4
	// BroadcastRate and BroadcastBurst bound what a storm costs: copies go to every port. The burst
	// is about one batch of a TAP reader.
	BroadcastRate  = 1000
	BroadcastBurst = 100

	// ageEvery is how often some Input call looks for expired addresses.
	ageEvery = 30 * time.Second
)

// Options configure a Bridge. The zero value is ready.
type Options struct {
	Drops *drop.Counters   // or nil: count nowhere
	Log   *slog.Logger     // or nil: discard
	Now   func() time.Time // or nil: time.Now
	FDB   fdb.Options      // zero fields mean the defaults
}

// A Bridge switches frames between its ports. Use New. It owns no goroutine and needs no Close.
type Bridge struct {
	drops *drop.Counters
	log   *slog.Logger
	now   func() time.Time
	table *fdb.Table[*Port]
	epoch time.Time

	ports   atomic.Pointer[snapshot] // immutable; replaced under mu
	nextAge atomic.Int64             // nanoseconds since epoch; when Input is to call table.Age

	// mu serialises Attach and Detach. It is above the lock of table; nothing else is called under it.
	mu sync.Mutex
}

// snapshot is the set of attached ports at one moment.
type snapshot struct {
	list  []*Port              // in the order of attachment
	owner map[netip.Addr]*Port // every port's Addrs and the link-local address of its MAC
}

// New returns a Bridge without ports.
func New(o Options) *Bridge {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	now := o.Now()
	b := &Bridge{drops: o.Drops, log: o.Log, now: o.Now, epoch: now, table: fdb.New[*Port](now, o.FDB)}
	b.ports.Store(&snapshot{owner: map[netip.Addr]*Port{}})
	b.nextAge.Store(int64(ageEvery))
	return b
}

// Attach makes p a port of the switch. Its reader then calls Input of the handle. The error names what is
// in use or missing; nothing has changed then.
func (b *Bridge) Attach(p l2.Port, c PortConfig) (*Port, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("attach %v: %w", p, err)
	}
	h := &Port{b: b, out: p, cfg: c}
	h.cfg.Addrs, h.cfg.Subnets = slices.Clone(c.Addrs), slices.Clone(c.Subnets)
	h.flood.reset(b.now())

	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.ports.Load()
	next := &snapshot{list: append(slices.Clone(old.list), h), owner: maps.Clone(old.owner)}
	for _, q := range old.list {
		if q.cfg.ID == c.ID {
			return nil, fmt.Errorf("attach %v: a port with ID %q exists", p, c.ID)
		}
	}
	for _, a := range c.Addrs {
		if q := next.owner[a]; q != nil {
			return nil, fmt.Errorf("attach %v: address %v in use by %v", p, a, q)
		}
		next.owner[a] = h
	}
	if !c.MAC.IsZero() {
		if err := b.table.AddStatic(c.MAC, h); err != nil {
			return nil, fmt.Errorf("attach %v: %w", p, err)
		}
		h.linkLocal = linkLocalOf(c.MAC)
		if next.owner[h.linkLocal] == nil { // control may have given it to another port on purpose
			next.owner[h.linkLocal] = h
		}
	}
	b.ports.Store(next)
	b.log.Info("port attached", "id", c.ID, "port", p.String(), "mac", c.MAC.String(), "strict", c.Strict)
	return h, nil
}

// Detach takes the port out of the switch and forgets its addresses. It may be called more than once.
func (b *Bridge) Detach(h *Port) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if h.detached.Swap(true) {
		return
	}
	old := b.ports.Load()
	next := &snapshot{owner: maps.Clone(old.owner)}
	for _, q := range old.list {
		if q != h {
			next.list = append(next.list, q)
		}
	}
	maps.DeleteFunc(next.owner, func(_ netip.Addr, q *Port) bool { return q == h })
	b.ports.Store(next)
	b.table.DetachPort(h)
	b.log.Info("port detached", "id", h.cfg.ID, "port", h.out.String())
}

// Ports returns the attached ports in the order of attachment.
func (b *Bridge) Ports() []*Port { return slices.Clone(b.ports.Load().list) }

// Owner returns the MAC of the port that control gave addr to, so that the gateway need not ask the
// link for it. It is false for addresses of guests that configure themselves.
func (b *Bridge) Owner(addr netip.Addr) (l2.MAC, bool) {
	h := b.ports.Load().owner[addr]
	if h == nil || h.cfg.MAC.IsZero() {
		return l2.MAC{}, false
	}
	return h.cfg.MAC, true
}
