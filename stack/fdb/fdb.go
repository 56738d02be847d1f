// Package fdb is the forwarding database of a switch: which port a MAC address is behind.
//
// # Theory of operation
//
// Each frame asks twice: Map says that its source is behind the ingress port, Resolve says which
// port its destination is behind. Both happen on every ingress goroutine at once, and practically
// always find what is already there. So the table is an immutable map behind an atomic pointer:
// Resolve and the common case of Map take no lock and allocate nothing. What changes the set of
// addresses (a new station, a static entry, a detached port, age) copies the map under a mutex.
//
// Copying is cheap because it is rare, and it is rare because of the limits: a port learns at most
// its limit of addresses, and an address leaves only by age. A container that sends from 100 000
// addresses (macof) causes as many copies as its limit, once; all further frames are refused
// without a copy and without a walk through the table.
//
// # Invariants
//
//   - A group address or the zero address is never in the table.
//   - A static entry is never displaced, moved or aged by learning; only DeleteStatic and DetachPort end it.
//   - A dynamic entry stays with its port until it is idle for the timeout or the port is detached.
//     A station does not move by sending from elsewhere: between ports that do not trust each other
//     that is how a neighbour's traffic is stolen.
//   - A full table or port refuses to learn; it never evicts, so an attacker cannot push others out.
//
// # Concurrency
//
// All methods may be called by any goroutine. The only lock is Table.mu, taken by writers; nothing
// is called while it is held, so it is the innermost lock of the datapath.
//
// # Standards
//
// IEEE 802.1D-2004 §7.8 (learning), §7.9 (filtering database). It deviates in the two points above:
// no move between ports, and refusal when full.
package fdb

import (
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/stack/l2"
)

// Defaults of Options.
const (
	// DefaultMax holds 2048 containers with their limit of MACs used up; each entry costs about
	// 100 bytes, so a full table stays under 1 MiB.
	DefaultMax = 8192
	// DefaultTimeout is the ageing time recommended in IEEE 802.1D-2004 table 7-5.
	DefaultTimeout = 300 * time.Second

	// refreshEvery is how stale an entry's time of use may get before Map writes it. Without it two
	// ports on two cores would write to shared cache lines at each frame.
	refreshEvery = time.Second
)

// Outcome is what Map did with a source address.
type Outcome uint8

// The outcomes of Map. Known and Learned mean that the address is the port's.
const (
	Known     Outcome = iota // it was there already
	Learned                  // a new entry was made
	Conflict                 // it belongs to another port
	PortFull                 // the port is at its limit
	TableFull                // the table is at its limit
	Invalid                  // a group address or zero
)

func (o Outcome) String() string {
	switch o {
	case Known:
		return "known"
	case Learned:
		return "learned"
	case Conflict:
		return "conflict"
	case PortFull:
		return "port-full"
	case TableFull:
		return "table-full"
	case Invalid:
		return "invalid"
	}
	return fmt.Sprintf("outcome(%d)", uint8(o))
}

// OK reports whether the address is the port's.
func (o Outcome) OK() bool { return o <= Learned }

// Options are the limits of a Table; zero fields mean the defaults.
type Options struct {
	Max     int           // entries, static ones included
	Timeout time.Duration // idle time after which a dynamic entry may go
}

// entry is one address. port and static never change; a change is a new entry.
type entry[P comparable] struct {
	port   P
	static bool
	seen   atomic.Int64 // nanoseconds since Table.epoch of the last Map; idle for static entries
}

// A Table maps MAC addresses to ports of type P. Use New.
type Table[P comparable] struct {
	max     int
	timeout time.Duration
	epoch   time.Time

	entries atomic.Pointer[map[l2.MAC]*entry[P]] // the map is immutable; writers hold mu and replace it

	mu sync.Mutex // innermost; serialises writers of entries and guards what follows
	// perPort counts the entries of each port, static and dynamic.
	// +checklocks:mu
	perPort map[P]int
	// oldest is a time before which no dynamic entry expires. Without it each frame refused for want of
	// room would walk the table in search of expired entries.
	// +checklocks:mu
	oldest time.Duration
}

// New returns an empty table. epoch is any time not later than those passed in afterwards.
func New[P comparable](epoch time.Time, o Options) *Table[P] {
	if o.Max <= 0 {
		o.Max = DefaultMax
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	t := &Table[P]{max: o.Max, timeout: o.Timeout, epoch: epoch, perPort: make(map[P]int)}
	t.entries.Store(&map[l2.MAC]*entry[P]{})
	return t
}

// Resolve returns the port mac is behind. It takes no lock and allocates nothing.
func (t *Table[P]) Resolve(mac l2.MAC) (port P, ok bool) {
	if e := (*t.entries.Load())[mac]; e != nil {
		return e.port, true
	}
	return port, false
}

// Map says that mac was seen at port. limit is how many addresses the port may have in the table.
// A known address, and one that is another port's, takes no lock.
func (t *Table[P]) Map(now time.Time, mac l2.MAC, port P, limit int) Outcome {
	if mac.IsMulticast() || mac.IsZero() {
		return Invalid
	}
	at := now.Sub(t.epoch)
	if e := (*t.entries.Load())[mac]; e != nil {
		if e.port == port {
			if seen := time.Duration(e.seen.Load()); at-seen >= refreshEvery {
				e.seen.Store(int64(at))
			}
			return Known
		}
		if !t.expired(e, at) {
			return Conflict
		}
	}
	return t.learn(at, mac, port, limit)
}

// expired reports whether e may go. Static entries never do.
func (t *Table[P]) expired(e *entry[P], at time.Duration) bool {
	return !e.static && at-time.Duration(e.seen.Load()) >= t.timeout
}

// learn makes an entry, or says why not. Entries that expired but were not aged yet count as gone.
func (t *Table[P]) learn(at time.Duration, mac l2.MAC, port P, limit int) Outcome {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := *t.entries.Load()
	if e := old[mac]; e != nil {
		switch {
		case e.port == port:
			return Known // another goroutine of the same port was faster
		case !t.expired(e, at):
			return Conflict
		}
	}
	if t.perPort[port] >= limit || len(old) >= t.max || old[mac] != nil {
		// Only now is it worth looking for expired entries.
		old = t.ageLocked(at)
		if t.perPort[port] >= limit {
			return PortFull
		}
		if len(old) >= t.max {
			return TableFull
		}
	}
	next := maps.Clone(old)
	t.putLocked(next, mac, port, false, at)
	t.entries.Store(&next)
	return Learned
}

// AddStatic binds mac to port until DeleteStatic or DetachPort. A dynamic entry for mac gives way: what
// control says counts more than what a frame said. Static entries are not bound by the port's limit.
func (t *Table[P]) AddStatic(mac l2.MAC, port P) error {
	if mac.IsMulticast() || mac.IsZero() {
		return fmt.Errorf("add static entry %v: not the address of a single station", mac)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := *t.entries.Load()
	e := old[mac]
	if e != nil && e.static {
		if e.port == port {
			return nil
		}
		return fmt.Errorf("add static entry %v: address in use on another port", mac)
	}
	if e == nil && len(old) >= t.max {
		return fmt.Errorf("add static entry %v: table has its maximum of %d entries", mac, t.max)
	}
	next := maps.Clone(old)
	t.removeLocked(next, mac)
	t.putLocked(next, mac, port, true, 0)
	t.entries.Store(&next)
	return nil
}

// DeleteStatic ends a static entry and reports whether there was one.
func (t *Table[P]) DeleteStatic(mac l2.MAC) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := *t.entries.Load()
	if e := old[mac]; e == nil || !e.static {
		return false
	}
	next := maps.Clone(old)
	t.removeLocked(next, mac)
	t.entries.Store(&next)
	return true
}

// DetachPort forgets every address of port, static ones too, and returns how many there were.
func (t *Table[P]) DetachPort(port P) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.perPort[port]
	if n == 0 {
		return 0
	}
	next := maps.Clone(*t.entries.Load())
	for mac, e := range next {
		if e.port == port {
			t.removeLocked(next, mac)
		}
	}
	t.entries.Store(&next)
	return n
}

// Age forgets the dynamic entries that were idle for the timeout and returns how many.
func (t *Table[P]) Age(now time.Time) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := len(*t.entries.Load())
	return before - len(t.ageLocked(now.Sub(t.epoch)))
}

// Len returns the number of entries.
func (t *Table[P]) Len() int { return len(*t.entries.Load()) }

// ageLocked drops expired entries and returns the map that is then current.
//
// Preconditions: t.mu is held.
func (t *Table[P]) ageLocked(at time.Duration) map[l2.MAC]*entry[P] {
	cur := *t.entries.Load()
	if at < t.oldest {
		return cur
	}
	var next map[l2.MAC]*entry[P]
	t.oldest = at + t.timeout // later entries expire later
	for mac, e := range cur {
		switch {
		case e.static:
		case !t.expired(e, at):
			t.oldest = min(t.oldest, time.Duration(e.seen.Load())+t.timeout)
		default:
			if next == nil {
				next = maps.Clone(cur)
			}
			t.removeLocked(next, mac)
		}
	}
	if next == nil {
		return cur
	}
	t.entries.Store(&next)
	return next
}

// putLocked adds an entry to next, which is not published yet.
//
// Preconditions: t.mu is held; next has no entry for mac.
func (t *Table[P]) putLocked(next map[l2.MAC]*entry[P], mac l2.MAC, port P, static bool, at time.Duration) {
	e := &entry[P]{port: port, static: static}
	e.seen.Store(int64(at))
	next[mac] = e
	t.oldest = min(t.oldest, at+t.timeout)
	t.perPort[port]++
}

// removeLocked takes the entry of mac, if any, out of next, which is not published yet.
//
// Preconditions: t.mu is held.
func (t *Table[P]) removeLocked(next map[l2.MAC]*entry[P], mac l2.MAC) {
	e := next[mac]
	if e == nil {
		return
	}
	delete(next, mac)
	if t.perPort[e.port]--; t.perPort[e.port] == 0 {
		delete(t.perPort, e.port)
	}
}
