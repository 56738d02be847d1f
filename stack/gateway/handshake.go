package gateway

import (
	"container/list"
	"sync"
	"time"

	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/quota"
)

// A TCP connection of a container that is not established yet occupies a slot: first while the
// outside is dialled, then while our SYN-ACK waits for the container's ACK. Slots are bounded for
// each container and for all Networks of the process together, or a flood of SYNs would occupy every socket.
//
// When a container's slots are all taken, the newcomer wins if the oldest is older than
// evictAfter: a real connection is through by then, while SYNs into a black hole or SYNs that are
// never ACKed stay. So a flood costs the flooder its own pending connections, and a second after
// it stops a new connection gets through (HC-23, HC-24).
//
// When all slots are taken, the oldest of the container that has most gives way at once to one that has fewer: many
// flooders side by side lose their share of it and do not keep the others out. Owners are containers, told by
// their MAC and Network, not addresses, of which a container may have as many as it likes.

// evictAfter is the age from which a pending handshake gives way. Long enough for a handshake over
// two satellite hops, and short enough that a client's first SYN retransmission (1 s) succeeds.
const evictAfter = time.Second

// handshakeTimeout is how long a container has to ACK our SYN-ACK. RFC 5382 REQ-5 asks for four
// minutes in transitory states; RFC 7857 §2 allows less against attacks; passt has 10 s.
const handshakeTimeout = 15 * time.Second

type handshakes struct {
	max int
	now func() time.Time

	mu     sync.Mutex
	owners map[owner]*list.List // of *pending, oldest first; guarded by mu
	n      int                  // guarded by mu
}

// owner is a container: who is charged.
type owner struct {
	network *Gateway
	mac     l2.MAC
}

// pending is one slot.
type pending struct {
	owner   owner
	since   time.Time
	cancel  func() // ends the dial or the handshake; called without the lock
	elem    *list.Element
	evicted bool
}

func newHandshakes(max int) *handshakes {
	return &handshakes{max: max, now: time.Now, owners: make(map[owner]*list.List)}
}

// admit takes a slot for o, which may have limit of them, or reports false. cancel is called if the slot is
// later taken away.
func (h *handshakes) admit(o owner, limit int, cancel func()) (*pending, bool) {
	now := h.now()
	h.mu.Lock()
	victim, ok := h.victimLocked(now, o, limit)
	if !ok {
		h.mu.Unlock()
		return nil, false
	}
	if victim != nil {
		h.removeLocked(victim)
	}
	l := h.owners[o]
	if l == nil {
		l = list.New()
		h.owners[o] = l
	}
	p := &pending{owner: o, since: now, cancel: cancel}
	p.elem = l.PushBack(p)
	h.n++
	h.mu.Unlock()
	if victim != nil {
		victim.cancel()
	}
	return p, true
}

// victimLocked returns the handshake that gives way for another of o's, nil when there is room. ok is false when
// none does.
func (h *handshakes) victimLocked(now time.Time, o owner, limit int) (victim *pending, ok bool) {
	own, mine := h.owners[o], 0
	if own != nil {
		mine = own.Len()
	}
	if mine < limit {
		if h.n < h.max {
			return nil, true
		}
		// A walk over the owners, of which there are no more than slots.
		var most *list.List
		for _, l := range h.owners {
			if most == nil || l.Len() > most.Len() {
				most = l
			}
		}
		if most.Len() > mine+1 {
			return most.Front().Value.(*pending), true
		}
	}
	if mine == 0 {
		return nil, false
	}
	victim = own.Front().Value.(*pending)
	return victim, now.Sub(victim.since) >= evictAfter
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

// inFlight is the number of slots taken.
func (h *handshakes) inFlight() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.n
}

// flowCount counts established flows of each container of a Network.
type flowCount struct {
	share *quota.Share // of what all Networks may have

	mu  sync.Mutex
	n   map[l2.MAC]int // guarded by mu
	all int            // guarded by mu
	// peak is the most that all has been since the last trim; guarded by mu.
	peak int
}

func newFlowCount(s *quota.Share) *flowCount { return &flowCount{share: s, n: make(map[l2.MAC]int)} }

// add counts one more flow unless owner has limit already or the Network has its share; it returns how many there
// are in all Networks.
func (c *flowCount) add(owner l2.MAC, limit int) (all int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n[owner] >= limit {
		return 0, false
	}
	if all, ok = c.share.Take(); !ok {
		return all, false
	}
	c.n[owner]++
	c.all++
	c.peak = max(c.peak, c.all)
	return all, true
}

// done counts one flow less. It reports true when so many have ended since the peak that their memory is
// worth a collection.
func (c *flowCount) done(owner l2.MAC) (trim bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.share.Give()
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
