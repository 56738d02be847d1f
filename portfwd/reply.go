package portfwd

import (
	"errors"
	"net"
	"sync"
	"syscall"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/stack/drop"
)

// Theory of operation: the way back of UDP.
//
// Replies of a container are read from the TAP in batches and leave in batches: each is copied into
// the queue of its flow's socket (the frame is only borrowed), and at the end of the TAP's batch
// Flush sends each queue with few system calls. A full queue is sent at once. The lock of a
// queue is not held while sending: the sender takes what is pending with it, and the mark that it
// is sending keeps a second sender out, so datagrams of one flow do not overtake each other. Who
// finds the queue full and a sender busy drops: nothing waits for a socket.
//
// Datagrams of one size to one client lie behind each other in the queue's memory. They are joined to a train, for which
// the kernel walks its output path once (UDP_SEGMENT). A train that is refused, mostly because the path is narrower
// than its datagrams, goes again as single datagrams, and the socket remembers the size.

const (
	// maxReplies and replyBytes are what a queue holds: four of the largest datagrams, or one batch
	// of the system call.
	maxReplies = 64
	replyBytes = 256 << 10
	// maxSegments is how many datagrams one USO packet may become, the most Linux makes
	// (UDP_MAX_SEGMENTS, 128 since 6.9). A container that asks for more is lying.
	maxSegments = 128
	// kernelSegments is the most a send with UDP_SEGMENT takes in every kernel that has it.
	kernelSegments = 64
	// trainBytes is the most payload of a train: it is one IP packet until the kernel cuts it.
	trainBytes = 65000
	// noTrainMax is the trainMax of a socket that has met no refusal.
	noTrainMax = 1 << 16
)

// reply is one queued answer: arena[at:end], to be cut by segment into at most kernelSegments.
type reply struct {
	flow             *flow
	at, end, segment int
}

// replies are answers with their memory; they come from a pool, so an idle port holds none.
type replies struct {
	list  []reply
	arena []byte
}

var repliesPool = sync.Pool{New: func() any {
	return &replies{list: make([]reply, 0, maxReplies), arena: make([]byte, 0, replyBytes)}
}}

// join makes a datagram of n bytes, which comes to lie behind r, the last one of the train r, if it can be. longest is the
// largest datagram that may be in a train.
func (r *reply) join(f *flow, n, longest int) bool {
	have, unit := r.end-r.at, r.segment
	if unit == 0 { // a single datagram so far
		unit = have
	}
	switch {
	case r.flow != f || n == 0 || n > unit || unit > longest:
		return false
	case have%unit != 0: // it ends with a shorter one, which is the last
		return false
	case have/unit >= kernelSegments || have+n > trainBytes:
		return false
	}
	r.end, r.segment = r.end+n, unit
	return true
}

// datagrams is how many r is.
func (r *reply) datagrams() int {
	if r.segment == 0 {
		return 1
	}
	return (r.end - r.at + r.segment - 1) / r.segment
}

func (r *replies) add(f *flow, payload []byte, segment int) bool {
	if n := len(r.list); n > 0 && segment == 0 && len(r.arena)+len(payload) <= cap(r.arena) &&
		r.list[n-1].join(f, len(payload), int(f.key.group.server.trainMax.Load())) {
		r.arena = append(r.arena, payload...)
		return true
	}
	if len(r.list) == cap(r.list) || len(r.arena)+len(payload) > cap(r.arena) {
		return false
	}
	at := len(r.arena)
	r.arena = append(r.arena, payload...)
	r.list = append(r.list, reply{flow: f, at: at, end: len(r.arena), segment: segment})
	return true
}

func (r *replies) free() {
	clear(r.list)
	r.list, r.arena = r.list[:0], r.arena[:0]
	repliesPool.Put(r)
}

// replyQueue is the answers that wait for one socket.
type replyQueue struct {
	mu      sync.Mutex // a leaf
	pending *replies   // nil when nothing waits
	sending bool
}

// push reports whether the payload was taken and whether it is the first that waits.
func (q *replyQueue) push(f *flow, payload []byte, segment int) (taken, first bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	first = q.pending == nil
	if first {
		q.pending = repliesPool.Get().(*replies)
	}
	return q.pending.add(f, payload, segment), first
}

// take moves what waits to a sender that is not sending already; nil ends a sender's turn.
func (q *replyQueue) take(mine bool) *replies {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.sending && !mine {
		return nil
	}
	r := q.pending
	q.pending = nil
	q.sending = r != nil
	return r
}

// dirtyList is the servers with answers waiting.
type dirtyList struct {
	mu   sync.Mutex // a leaf
	list []*udpServer
}

func (d *dirtyList) push(u *udpServer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list = append(d.list, u)
}

func (d *dirtyList) pop() *udpServer {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.list) == 0 {
		return nil
	}
	last := len(d.list) - 1
	u := d.list[last]
	d.list[last] = nil
	d.list = d.list[:last]
	return u
}

// queue copies a payload into the queue of f's socket, in units that one send can carry.
func (fw *Forwarder) queue(f *flow, payload []byte, segment int) {
	for unit := segment * kernelSegments; segment > 0 && len(payload) > unit; payload = payload[unit:] {
		fw.queueUnit(f, payload[:unit], segment)
	}
	fw.queueUnit(f, payload, segment)
}

func (fw *Forwarder) queueUnit(f *flow, payload []byte, segment int) {
	u := f.key.group.server
	taken, first := u.queue.push(f, payload, segment)
	if !taken {
		u.flush()
		taken, first = u.queue.push(f, payload, segment)
	}
	if !taken {
		fw.cfg.Drops.Add(drop.QueueFull)
	}
	if first {
		fw.dirty.push(u)
	}
}

// flush sends what waits, unless another goroutine is doing so; then that one sends this too.
func (u *udpServer) flush() {
	for r := u.queue.take(false); r != nil; r = u.queue.take(true) {
		s := u.fw.senders.Get().(*sender)
		s.send(u, r)
		u.fw.senders.Put(s)
		r.free()
	}
}

// sender is the memory of one batch on its way out.
type sender struct {
	batch *sys.SendBatch
	one   [1][]byte
	d     sys.Datagram
}

func newSender() *sender { return &sender{batch: sys.NewSendBatch(maxReplies, 1)} }

// send sends r to the clients it is for.
func (s *sender) send(u *udpServer, r *replies) {
	for list := r.list; len(list) > 0; {
		n := 0
		for n < len(list) && s.add(&list[n], r.arena[list[n].at:list[n].end], list[n].segment) {
			n++
		}
		_, err := s.batch.Send(u.rc)
		for i := range list[:n] {
			switch errno := s.outcome(i, err); {
			case errno == 0:
			case list[i].segment > 0 && segmentRefused(errno):
				u.trainRefused(errno, list[i].segment)
				s.sendParts(u, &list[i], r.arena[list[i].at:list[i].end])
			default:
				u.fw.cfg.Drops.AddN(reasonOf(errno), list[i].datagrams())
			}
		}
		list = list[n:]
	}
}

// add puts one answer into the batch. It must leave from the address the client spoke to (UDP-02).
func (s *sender) add(r *reply, payload []byte, segment int) bool {
	k := &r.flow.key
	if segment >= len(payload) {
		segment = 0
	}
	s.one[0] = payload
	s.d = sys.Datagram{
		To: k.client, Scope: k.scope, Local: k.local, IfIndex: r.flow.ifIndex,
		Data: s.one[:], Segment: segment,
	}
	if len(payload) == 0 {
		s.d.Data = nil
	}
	return s.batch.Add(&s.d)
}

// sendParts sends a USO packet as single datagrams: the kernel refuses UDP_SEGMENT when a segment is
// longer than the path's MTU, where a datagram alone would be fragmented.
func (s *sender) sendParts(u *udpServer, r *reply, payload []byte) {
	for len(payload) > 0 {
		n := 0
		for len(payload) > 0 {
			part := payload[:min(r.segment, len(payload))]
			if !s.add(r, part, 0) {
				break
			}
			payload = payload[len(part):]
			n++
		}
		_, err := s.batch.Send(u.rc)
		for i := range n {
			if errno := s.outcome(i, err); errno != 0 {
				u.fw.cfg.Drops.Add(reasonOf(errno))
			}
		}
	}
}

// outcome is what became of datagram i. Once the socket is closed the batch does not know.
func (s *sender) outcome(i int, err error) syscall.Errno {
	if errors.Is(err, net.ErrClosed) {
		return syscall.EBADF
	}
	return s.batch.Err(i)
}

// trainRefused remembers what the kernel refused: datagrams of that size, or trains altogether where the way out has no
// checksum offload (EIO).
func (u *udpServer) trainRefused(errno syscall.Errno, size int) {
	longest := int32(0)
	if errno != syscall.EIO {
		longest = min(u.trainMax.Load(), int32(size-1))
	}
	u.trainMax.Store(longest)
}

func segmentRefused(e syscall.Errno) bool {
	return e == syscall.EINVAL || e == syscall.EMSGSIZE || e == syscall.EIO
}

func reasonOf(e syscall.Errno) drop.Reason {
	if e == syscall.EAGAIN || e == syscall.ENOBUFS {
		return drop.QueueFull
	}
	return drop.SocketError
}
