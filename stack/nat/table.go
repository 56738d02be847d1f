package nat

import (
	"net/netip"
	"time"

	"github.com/usernet/usernet/stack/l2"
)

// Theory of operation
//
// A table maps a container's address and port to a flow: one mapping whatever the destination, which
// is the endpoint-independent mapping of RFC 4787 REQ-1. It holds no sockets, starts no timers and
// reads no clock: the caller passes the time and closes what expire hands back, so every rule here can
// be tested as a state machine.
//
// Idle time is counted from the last datagram the container sent. Outbound refresh is a MUST (REQ-6);
// inbound refresh is a MAY (REQ-6a) we do not take, since it would let a stranger keep a flow, and
// its socket, alive for as long as they care to send.
//
// Each flow is in one of two lists, by its idle class, ordered by the last outbound datagram: the head of a list
// is the next of its class to expire. A refresh moves a flow to the tail, so refresh, expiry and the next
// deadline are all O(1) and exact.
//
// Invariants: a flow is in exactly one list; a list is sorted by lastOut; an owner's count is the number
// of its flows and an owner without flows has no entry; no flow ends but by expire or remove. In
// particular the limit refuses new flows and never ends an old one (RFC 6888 REQ-4, and RFC 4787 REQ-11:
// what is mapped stays as it is).

// idleClass says how long a flow may be silent. A flow can go from idleShort to idleLong, when it first
// speaks to another port than 53, and never back: its behaviour may not depend on its latest packet.
type idleClass uint8

const (
	idleShort idleClass = iota // has only ever spoken to a well-known port (RFC 4787 REQ-5a)
	idleLong
	idleClasses
)

// entry is one flow's place in a table. The table owns every field but value.
type entry[V any] struct {
	key     netip.AddrPort // the container's
	owner   l2.MAC         // the container that is charged for it
	class   idleClass
	lastOut time.Time
	value   V

	prev, next *entry[V]
}

// table is the pure part of a NAT: no locking, no sockets, no clock.
type table[V any] struct {
	limit  int // flows of one owner
	idle   [idleClasses]time.Duration
	flows  map[netip.AddrPort]*entry[V]
	owners map[l2.MAC]int
	lists  [idleClasses]struct{ head, tail *entry[V] }
}

func newTable[V any](limit int, short, long time.Duration) *table[V] {
	return &table[V]{
		limit:  limit,
		idle:   [idleClasses]time.Duration{idleShort: short, idleLong: long},
		flows:  make(map[netip.AddrPort]*entry[V]),
		owners: make(map[l2.MAC]int),
	}
}

// get returns the flow of a container's address and port, or nil.
func (t *table[V]) get(key netip.AddrPort) *entry[V] { return t.flows[key] }

func (t *table[V]) len() int { return len(t.flows) }

// room reports whether owner may have one more flow.
func (t *table[V]) room(owner l2.MAC) bool {
	return t.owners[owner] < t.limit
}

// add makes the flow of a key that has none. It reports false, and changes nothing, at the limit.
func (t *table[V]) add(now time.Time, key netip.AddrPort, owner l2.MAC, class idleClass, value V) (*entry[V], bool) {
	if !t.room(owner) {
		return nil, false
	}
	e := &entry[V]{key: key, owner: owner, class: class, value: value}
	t.flows[key] = e
	t.owners[owner]++
	t.push(now, e)
	return e, true
}

// touch records that the container sent a datagram which by itself asks for class.
func (t *table[V]) touch(now time.Time, e *entry[V], class idleClass) {
	t.unlink(e)
	e.class = max(e.class, class)
	t.push(now, e)
}

// next returns when the first flow expires; false when there is none.
func (t *table[V]) next() (at time.Time, ok bool) {
	for c := range t.lists {
		head := t.lists[c].head
		if head == nil {
			continue
		}
		if d := head.lastOut.Add(t.idle[c]); !ok || d.Before(at) {
			at, ok = d, true
		}
	}
	return at, ok
}

// expire removes one flow whose time has come and returns it, or nil when there is none.
func (t *table[V]) expire(now time.Time) *entry[V] {
	for c := range t.lists {
		if e := t.lists[c].head; e != nil && now.Sub(e.lastOut) >= t.idle[c] {
			t.remove(e)
			return e
		}
	}
	return nil
}

// remove takes a flow out of the table.
func (t *table[V]) remove(e *entry[V]) {
	t.unlink(e)
	delete(t.flows, e.key)
	if t.owners[e.owner]--; t.owners[e.owner] == 0 {
		delete(t.owners, e.owner)
	}
}

// push puts e at the tail of its list. Callers read the clock before they take the lock, so a
// time may be microseconds behind the tail's; it is then taken for the tail's.
func (t *table[V]) push(now time.Time, e *entry[V]) {
	l := &t.lists[e.class]
	if l.tail == nil {
		l.head = e
	} else {
		if now.Before(l.tail.lastOut) {
			now = l.tail.lastOut
		}
		l.tail.next, e.prev = e, l.tail
	}
	l.tail, e.lastOut = e, now
}

func (t *table[V]) unlink(e *entry[V]) {
	l := &t.lists[e.class]
	if e.prev == nil {
		l.head = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		l.tail = e.prev
	} else {
		e.next.prev = e.prev
	}
	e.prev, e.next = nil, nil
}
