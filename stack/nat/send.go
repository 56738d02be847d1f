package nat

import (
	"errors"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
)

// Theory of operation: sending
//
// A packet's memory is borrowed until Input returns, and a sendmmsg of one datagram costs as much as one of
// thirty. So small datagrams are copied into a sendBuf, borrowed from a pool by the flow for as long as it has
// something to send, and leave when it is full or at Flush; a large datagram closes the batch, which leaves
// at once with the large one still in the packet's memory. Either way a flow's datagrams leave in order.
//
// Datagrams of one size to one destination lie behind each other in the arena already. They are handed to
// the kernel as one train (UDP_SEGMENT): it then walks its output path once instead of once per datagram,
// which is most of what a small datagram costs. Where a train is refused, because the path is narrower than
// its datagrams or the way out has no checksum offload, it goes again as single datagrams and the socket
// remembers.
//
// What the kernel refuses is told to the container as an ICMP error, after sendMu is released and before the
// memory of the batch is given back.

const (
	sendMessages = 64
	// sendCopy is the largest datagram that is copied to wait for others.
	sendCopy  = 2048
	sendArena = 96 << 10
	// trainMax bounds a train: 64 datagrams (UDP_MAX_SEGMENTS) that fit into one IP packet.
	trainMax      = 64
	trainMaxBytes = 65000
)

// outMsg is one message to the kernel: a datagram, or a train of them when segment is set.
type outMsg struct {
	to       netip.AddrPort // host side
	dst      netip.AddrPort // the same as the container sees it
	ttl, tos uint8
	segment  int
	data     []byte
	lost     int // datagrams of it the kernel refused
}

// datagrams is how many m carries.
func (m *outMsg) datagrams() int {
	if m.segment == 0 {
		return 1
	}
	return (len(m.data) + m.segment - 1) / m.segment
}

// sendBuf is what one flow has to send.
type sendBuf struct {
	df   bool
	used int // of arena
	n    int // of msgs
	msgs [sendMessages]outMsg
	errs [sendMessages]syscall.Errno
	bad  int // messages with an error
	// stale is the socket that met an earlier datagram's error, whose queue is then to be read.
	stale *socket

	batch *sys.SendBatch
	parts [1][]byte
	arena [sendArena]byte
}

func newSendBuf() *sendBuf { return &sendBuf{batch: sys.NewSendBatch(sendMessages, 1)} }

func (s *flows) putSendBuf(b *sendBuf) {
	clear(b.msgs[:b.n]) // let go of borrowed payloads
	b.used, b.n, b.bad, b.stale = 0, 0, 0, nil
	s.sendBufs.Put(b)
}

// room reports whether one more message of n bytes fits.
func (b *sendBuf) room(n int) bool {
	return b.n < sendMessages && (n > sendCopy || b.used+n <= sendArena)
}

// add puts m at the end; its data is copied if it is small, and otherwise borrowed. gsoMax is the largest
// datagram that may be joined to a train. It reports whether b has to be sent before Input returns.
func (b *sendBuf) add(m outMsg, gsoMax int) (now bool) {
	if len(m.data) > sendCopy || m.segment > 0 {
		b.msgs[b.n] = m
		b.n++
		return true
	}
	at := b.used
	b.used += copy(b.arena[at:], m.data)
	m.data = b.arena[at:b.used]
	if b.n > 0 && b.msgs[b.n-1].join(&m, gsoMax) {
		return !b.room(sendCopy)
	}
	b.msgs[b.n] = m
	b.n++
	return !b.room(sendCopy)
}

// join makes next the last datagram of the train m, if it can be.
func (m *outMsg) join(next *outMsg, gsoMax int) bool {
	segment := m.segment
	if segment == 0 { // a single datagram so far
		segment = len(m.data)
	}
	switch {
	case len(next.data) == 0 || len(next.data) > segment || segment > gsoMax:
		return false
	case m.to != next.to || m.dst != next.dst || m.ttl != next.ttl || m.tos != next.tos:
		return false
	case len(m.data)%segment != 0: // it ends with a shorter one, which is the last
		return false
	case len(m.data)/segment >= trainMax || len(m.data)+len(next.data) > trainMaxBytes:
		return false
	}
	// m is in the arena, for a batch with a borrowed message is sent before the next is added; and the
	// arena is filled in order, so next lies right behind m.
	n := len(m.data) + len(next.data)
	m.data, m.segment = m.data[:n], segment
	return true
}

// send queues m on f and sends what cannot wait. It reports whether something is left for Flush.
func (s *flows) send(f *flow, m outMsg, df bool) (waiting bool) {
	var first, second *sendBuf
	f.sendMu.Lock()
	if f.closed {
		f.sendMu.Unlock()
		s.Drops.Add(drop.SocketError)
		return false
	}
	if f.out != nil && (f.out.df != df || !f.out.room(len(m.data))) {
		first = f.sendLocked(s)
	}
	if f.out == nil {
		f.out = s.sendBufs.Get().(*sendBuf)
		f.out.df = df
	}
	if f.out.add(m, f.sock.gsoMax) || f.proto != ip.UDP {
		second = f.sendLocked(s)
	}
	waiting = f.out != nil
	f.sendMu.Unlock()
	s.finish(f, first)
	s.finish(f, second)
	return waiting
}

// flush sends what f has waiting.
func (s *flows) flush(f *flow) {
	f.sendMu.Lock()
	var b *sendBuf
	if f.out != nil {
		b = f.sendLocked(s)
	}
	f.sendMu.Unlock()
	s.finish(f, b)
}

// sendLocked takes f.out and sends it. The caller finishes it after unlocking.
func (f *flow) sendLocked(s *flows) *sendBuf {
	b := f.out
	f.out = nil
	if err := f.sock.setDF(b.df); err != nil {
		b.fail(errnoOf(err))
		return b
	}
	if gen := s.hostGen.Load(); f.gen != gen {
		f.gen, f.sock.gsoMax = gen, noGSOMax // another way out may take what the last did not
	}
	b.transmit(f.sock)
	return b
}

// transmit sends all messages and notes what became of each.
func (b *sendBuf) transmit(sock *socket) {
	for i := range b.n {
		m := &b.msgs[i]
		b.parts[0] = m.data
		b.batch.Add(&sys.Datagram{To: m.to, Data: b.parts[:], Segment: m.segment, TTL: m.ttl, TOS: m.tos})
	}
	b.bad = 0
	_, err := b.batch.Send(sock.rc)
	if err != nil || b.batch.Retried() {
		b.stale = sock
	}
	if err == nil {
		clear(b.errs[:b.n])
		return
	}
	if errno := errnoOf(err); errno == unix.EBADF {
		b.fail(errno)
		return
	}
	for i := range b.n {
		b.errs[i] = b.batch.Err(i)
	}
	for i := range b.n {
		m := &b.msgs[i]
		switch {
		case b.errs[i] == 0:
			continue
		case m.segment > 0 && refusesTrain(b.errs[i]):
			b.errs[i] = b.split(sock, m, b.errs[i])
		default:
			m.lost = m.datagrams()
		}
		if b.errs[i] != 0 {
			b.bad++
		}
	}
}

// refusesTrain reports whether errno can be about segmentation rather than about the datagrams:
// larger than the path (EINVAL or EMSGSIZE, by kernel version), or no checksum offload or IPsec (EIO).
func refusesTrain(errno syscall.Errno) bool {
	return errno == unix.EINVAL || errno == unix.EMSGSIZE || errno == unix.EIO || errno == unix.EOPNOTSUPP
}

// split sends the datagrams of a train one by one. It returns the first error.
func (b *sendBuf) split(sock *socket, m *outMsg, why syscall.Errno) (first syscall.Errno) {
	switch {
	case why == unix.EIO || why == unix.EOPNOTSUPP:
		sock.gsoMax = 0
	case len(m.data) <= trainMax*m.segment: // not for being too many
		sock.gsoMax = min(sock.gsoMax, m.segment-1)
	}
	m.lost = m.datagrams()
	for rest := m.data; len(rest) > 0; {
		for len(rest) > 0 {
			b.parts[0] = rest[:min(m.segment, len(rest))]
			if !b.batch.Add(&sys.Datagram{To: m.to, Data: b.parts[:], TTL: m.ttl, TOS: m.tos}) {
				break
			}
			rest = rest[len(b.parts[0]):]
		}
		sent, err := b.batch.Send(sock.rc)
		m.lost -= sent
		if err != nil && first == 0 {
			first = errnoOf(err)
		}
	}
	return first
}

// fail marks every message as refused.
func (b *sendBuf) fail(errno syscall.Errno) {
	for i := range b.n {
		b.errs[i], b.msgs[i].lost = errno, b.msgs[i].datagrams()
	}
	b.bad = b.n
}

// finish counts what b could not send, tells the container, and gives b back. b may be nil.
func (s *flows) finish(f *flow, b *sendBuf) {
	if b == nil {
		return
	}
	if b.stale != nil {
		s.readErrors(f, b.stale)
	}
	if b.bad > 0 {
		for i := range b.n {
			if b.errs[i] != 0 {
				s.sendFailed(f, &b.msgs[i], b.errs[i])
			}
		}
	}
	s.putSendBuf(b)
}

func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return unix.EBADF // the poller's "closed"
}
