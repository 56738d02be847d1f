package portfwd

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/stack/drop"
)

// Theory of operation: the UDP flows of published ports.
//
// A flow is found from two sides. From the host it is {socket, client, local address the client
// spoke to}, since the answer must leave from that address. From the container it is {container
// address and port, peer as the container sees it}. The first is unique by itself. The second is
// not: two host ports may lead to one container port, a client may speak to two addresses of
// the host, and several loopback clients share the gateway's address. So a new flow whose second
// key is taken gets another source port, as netfilter does it, and keeps the address.
//
//	                 first datagram
//	(none) ────────────────────────► fresh ──first reply──► answered
//	                                   │                        │
//	                                   └── idle, removed ───────┴── idle, removed ──► (none)
//	                                   └── at the limit: the oldest of the listener
//
// Each listener's flows stand in two lists by state, each in the order of last use, so expiry looks
// only at flows that are due, and the flow to give way at a limit is found at once. An answered
// flow never gives way: whoever floods a port with made-up sources cannot push out clients that
// are being served (RFC 6888 has the same thought for subscribers).
//
// The table knows no sockets and no clock; time is passed in.

// flowState says whether the container has answered.
type flowState uint8

const (
	flowFresh    flowState = iota // may give way at a limit
	flowAnswered                  // stays until idle
	flowGone                      // no longer in the table
	flowStates   = flowGone
)

// clientKey finds a flow from the host's side.
type clientKey struct {
	group  *flowGroup
	client netip.AddrPort
	scope  uint32 // interface, when client is link-local
	local  netip.Addr
}

// replyKey finds a flow from the container's side.
type replyKey struct{ container, peer netip.AddrPort }

// flow is one client's exchange with one container port.
type flow struct {
	// These never change.
	key     clientKey
	reply   replyKey // packets to the container go from reply.peer to reply.container
	ifIndex int      // interface to answer by, for link-local clients

	// Guarded by flowTable.mu.
	state      flowState
	used       time.Time
	prev, next *flow
}

// flowList is a doubly linked list in order of last use; root.next is the oldest.
type flowList struct{ root flow }

func (l *flowList) init() { l.root.prev, l.root.next = &l.root, &l.root }

func (l *flowList) push(f *flow) {
	f.prev, f.next = l.root.prev, &l.root
	f.prev.next, f.next.prev = f, f
}

func (f *flow) unlink() { f.prev.next, f.next.prev = f.next, f.prev }

// oldest is nil when the list is empty.
func (l *flowList) oldest() *flow {
	if l.root.next == &l.root {
		return nil
	}
	return l.root.next
}

// flowGroup is the flows of one listener.
type flowGroup struct {
	server *udpServer
	lists  [flowStates]flowList
	n      int
}

// portTries bounds the search for a free source port. At half of all ports taken for one container
// port, which the limits do not allow, 32 tries fail once in four thousand million.
const portTries = 32

type flowTable struct {
	idle     time.Duration
	perGroup int
	total    int
	port     func() uint16 // a random port to try

	live atomic.Int32 // len(byReply), for whoever has a datagram that is probably not of a published port

	mu       sync.Mutex // a leaf
	groups   map[*flowGroup]bool
	byClient map[clientKey]*flow
	byReply  map[replyKey]*flow
}

func newFlowTable(idle time.Duration, perGroup, total int, port func() uint16) *flowTable {
	return &flowTable{
		idle: idle, perGroup: perGroup, total: total, port: port,
		groups: make(map[*flowGroup]bool), byClient: make(map[clientKey]*flow), byReply: make(map[replyKey]*flow),
	}
}

func (t *flowTable) addGroup(s *udpServer) *flowGroup {
	g := &flowGroup{server: s}
	for i := range g.lists {
		g.lists[i].init()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.groups[g] = true
	return g
}

// removeGroup forgets the group's flows; no flow can be made in it afterwards.
func (t *flowTable) removeGroup(g *flowGroup) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.groups, g)
	for i := range g.lists {
		for f := g.lists[i].oldest(); f != nil; f = g.lists[i].oldest() {
			t.removeLocked(f)
		}
	}
}

// fromClient returns the flow of a datagram from a client, nil when there is none yet.
func (t *flowTable) fromClient(now time.Time, k clientKey) *flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.useLocked(now, t.byClient[k], flowFresh)
}

// empty reports whether there is no flow. It takes no lock.
func (t *flowTable) empty() bool { return t.live.Load() == 0 }

// fromContainer returns the flow a container's datagram answers, nil when it answers none.
func (t *flowTable) fromContainer(now time.Time, k replyKey) *flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.useLocked(now, t.byReply[k], flowAnswered)
}

// useLocked renews f and moves it to a later state. A flow that is due is gone, whether or not expire came by.
func (t *flowTable) useLocked(now time.Time, f *flow, s flowState) *flow {
	if f == nil {
		return nil
	}
	if now.Sub(f.used) >= t.idle {
		t.removeLocked(f)
		return nil
	}
	f.unlink()
	f.used, f.state = now, max(f.state, s)
	f.key.group.lists[f.state].push(f)
	return f
}

// add makes the flow of k, which has none, and may give it another source port than asked for.
func (t *flowTable) add(now time.Time, k clientKey, r replyKey, ifIndex int) (*flow, drop.Reason) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := k.group
	if !t.groups[g] {
		return nil, drop.SocketError
	}
	if g.n >= t.perGroup || len(t.byClient) >= t.total {
		victim := g.lists[flowFresh].oldest()
		if victim == nil {
			return nil, drop.PublishLimit
		}
		t.removeLocked(victim)
	}
	for range portTries {
		if t.byReply[r] == nil {
			f := &flow{key: k, reply: r, ifIndex: ifIndex, used: now}
			t.byClient[k], t.byReply[r] = f, f
			t.live.Add(1)
			g.lists[flowFresh].push(f)
			g.n++
			return f, drop.None
		}
		r.peer = netip.AddrPortFrom(r.peer.Addr(), t.port())
	}
	return nil, drop.PublishLimit
}

// expire removes what has been idle and returns how many flows are left.
func (t *flowTable) expire(now time.Time) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	for g := range t.groups {
		for i := range g.lists {
			for f := g.lists[i].oldest(); f != nil && now.Sub(f.used) >= t.idle; f = g.lists[i].oldest() {
				t.removeLocked(f)
			}
		}
	}
	return len(t.byClient)
}

func (t *flowTable) removeLocked(f *flow) {
	f.unlink()
	f.state = flowGone
	f.key.group.n--
	delete(t.byClient, f.key)
	delete(t.byReply, f.reply)
	t.live.Add(-1)
}

func (t *flowTable) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byClient)
}
