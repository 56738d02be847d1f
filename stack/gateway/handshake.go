package gateway

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

// A TCP connection of a container that is not established yet occupies a slot: first while the
// outside is dialled, then while our SYN-ACK waits for the container's ACK. Slots are bounded for
// each container address and in total, or a flood of SYNs would occupy every socket.
//
// When a container's slots are all taken, the newcomer wins if the oldest is older than
// evictAfter: a real connection is through by then, while SYNs into a black hole or SYNs that are
// never ACKed stay. So a flood costs the flooder its own pending connections, and a second after
// it stops a new connection gets through (HC-23, HC-24).

// evictAfter is the age from which a pending handshake gives way. Long enough for a handshake over
// two satellite hops, and short enough that a client's first SYN retransmission (1 s) succeeds.
const evictAfter = time.Second

// handshakeTimeout is how long a container has to ACK our SYN-ACK. RFC 5382 REQ-5 asks for four
// minutes in transitory states; RFC 7857 §2 allows less against attacks; passt has 10 s.
const handshakeTimeout = 15 * time.Second

type handshakes struct {
	perOwner, max int

	mu     sync.Mutex
	owners map[netip.Addr]*list.List // of *pending, oldest first; guarded by mu
	n      int                       // guarded by mu
}

// pending is one slot.
type pending struct {
	owner   netip.Addr
	since   time.Time
	cancel  func() // ends the dial or the handshake; called without the lock
	elem    *list.Element
	evicted bool
}

func newHandshakes(perOwner, max int) *handshakes {
	return &handshakes{perOwner: perOwner, max: max, owners: make(map[netip.Addr]*list.List)}
}

// admit takes a slot for owner, or reports false. cancel is called if the slot is later taken away.
func (h *handshakes) admit(now time.Time, owner netip.Addr, cancel func()) (*pending, bool) {
	h.mu.Lock()
	l := h.owners[owner]
	if l == nil {
		l = list.New()
		h.owners[owner] = l
	}
	var victim *pending
	if l.Len() >= h.perOwner || h.n >= h.max {
		// The total is shared, so only a slot of the owner's own may give way for it.
		if front := l.Front(); front != nil {
			victim = front.Value.(*pending)
		}
		if victim == nil || now.Sub(victim.since) < evictAfter {
			if l.Len() == 0 {
				delete(h.owners, owner)
			}
			h.mu.Unlock()
			return nil, false
		}
		h.removeLocked(victim)
	}
	p := &pending{owner: owner, since: now, cancel: cancel}
	p.elem = l.PushBack(p)
	h.owners[owner] = l
	h.n++
	h.mu.Unlock()
	if victim != nil {
		victim.cancel()
	}
	return p, true
}

// done frees the slot. It may be called after the slot was taken away.
func (h *handshakes) done(p *pending) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.removeLocked(p)
}

func (h *handshakes) removeLocked(p *pending) {
	if p.evicted {
		return
	}
	p.evicted = true
	l := h.owners[p.owner]
	l.Remove(p.elem)
	h.n--
	if l.Len() == 0 {
		delete(h.owners, p.owner)
	}
}

// cancelAll ends every pending handshake.
func (h *handshakes) cancelAll() {
	h.mu.Lock()
	var all []*pending
	for _, l := range h.owners {
		for e := l.Front(); e != nil; e = e.Next() {
			all = append(all, e.Value.(*pending))
		}
	}
	h.mu.Unlock()
	for _, p := range all {
		p.cancel()
	}
}

// inFlight is the number of slots taken.
func (h *handshakes) inFlight() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.n
}

// flowCount counts established flows of each container address.
type flowCount struct {
	mu  sync.Mutex
	n   map[netip.Addr]int // guarded by mu
	all int                // guarded by mu
	// peak is the most that all has been since the last trim; guarded by mu.
	peak int

	most int // for all together; fixed
}

// add counts one more flow unless owner has limit already, or all have most; it returns how many there are in all.
func (c *flowCount) add(owner netip.Addr, limit int) (all int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n[owner] >= limit || c.all >= c.most {
		return c.all, false
	}
	c.n[owner]++
	c.all++
	c.peak = max(c.peak, c.all)
	return c.all, true
}

// done counts one flow less. It reports true when so many have ended since the peak that their memory is
// worth a collection.
func (c *flowCount) done(owner netip.Addr) (trim bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.n[owner]--; c.n[owner] == 0 {
		delete(c.n, owner)
	}
	if c.peak < trimFlows || c.all > c.peak/4 {
		return false
	}
	c.peak = c.all
	return true
}

func (c *flowCount) total() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all
}
