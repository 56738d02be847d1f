package gateway

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// flow joins a netstack endpoint (the container's side) and a host socket. It has no goroutine of its own; those
// of the carrier work on it.
//
// # Theory of operation
//
// up carries container to host. Read with Peek lists the queued segments' memory; the socket is given
// it with no lock of netstack held; a second Read consumes exactly what was written, which is what
// opens the container's window. The memory stays valid between the two because netstack frees
// queued segments only when they are read or when the endpoint is closed, and the endpoint is
// closed only by finish and kill, under mu. That must not change: it is what keeps one
// container's bytes out of another's connection.
//
// down carries host to container. It asks the socket how much there is and gives that to the endpoint; see burst_linux.go.
//
// Both go on until there is nothing to move, no room for it, or the turn is over. What makes it possible to go on is news: of
// the socket by epoll, of the endpoint by its waiter queue. News may be told at any time and more
// often than it is true.
//
// # States
//
//	         EOF from container                 EOF from host
//	open ──────────────────────► up ended ──────────────────────► over: Close, FINs went out
//	  │                          down ended ◄── the other order
//	  └── reset or error on either side ──► over, killed: RST to both
//
// Each direction ends on its own (half-close). After the container's FIN up still looks at the endpoint, because a reset
// would otherwise go unnoticed until the host sends something.
type flow struct {
	wq    waiter.Queue
	entry waiter.Entry // of the flow in wq
	ep    tcpip.Endpoint
	fd    int // the host socket, non-blocking; closed under mu
	c     *carrier
	g     *Gateway
	owner l2.MAC        // who is charged
	done  chan struct{} // nil, or closed when the flow is over
	elder elder         // in g.young
	// lateElder is of the flow in g.late.
	lateElder elder

	// Guarded by c.mu.
	next    *flow
	queued  bool
	pending news
	credit  int // bytes it may have moved before it waits for its next turn

	news   atomic.Uint32 // not yet acted on
	stream atomic.Bool   // it moved more than a segment last time

	mu       sync.Mutex
	up, down direction // guarded by mu
	hostEnd  bool      // guarded by mu; the host sent FIN or RST, perhaps behind data
	urgent   bool      // guarded by mu; the host sent urgent data, at which a read stops
	large    bool      // guarded by mu; the host sent much last time
	rest     []byte    // guarded by mu; read from the host socket and not yet in the endpoint
	added    bool      // guarded by mu; the carrier watches the socket
	asksRoom bool      // guarded by mu; for room too
	over     bool      // guarded by mu; the socket is closed and the endpoint too
	source   source    // guarded by mu
	burst    *burst    // guarded by mu; nil, or what was read from the socket and has found no room
	tuning   tuning    // guarded by mu
	server   uint64    // guarded by mu; whom the flow is with, a serverID, until it is known who speaks first
	late     bool      // guarded by mu; the server waits for our ACK
	// spares is where the socket goes when the flow has ended in order; nil: it is closed. Guarded by mu.
	spares *spareSockets
	moved  int // guarded by mu; bytes, both ways
}

// direction is the state of one direction of a flow.
type direction uint8

const (
	flowing   direction = iota // goes on when there is something to move
	throttled                  // what there is found no room
	ended
)

// news is what a flow is told, as a set.
type news uint32

const (
	newsContainerData news = 1 << iota // or its end, or an error
	newsContainerRoom
	newsHostData // or its end
	newsHostRoom
	newsHostUrgent
	newsHostEnd // FIN or an error
	newsStart   // begin to watch the host socket
	newsLasts   // it is old enough to have keepalive
	newsLate    // the server waits for our ACK long enough
	newsKill    // reset both sides
)

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// gatherBytes bounds one write to a socket. More would only delay the window update to the container.
const gatherBytes = turnBytes

// start begins to relay between ep and the host socket, of which it takes hold. When the flow is over it is
// counted so at the gateway and done, if any, is closed.
func (f *flow) start(ep tcpip.Endpoint) {
	f.ep = ep
	f.g.young.add(&f.elder, f) // before there is news, which may end the flow and take it out again
	f.entry.Init(f, waiter.ReadableEvents|waiter.WritableEvents|waiter.EventHUp|waiter.EventErr)
	f.wq.EventRegister(&f.entry)
	// What came before goes out first: the server works on it meanwhile.
	f.work(newsContainerData | newsStart)
}

// aged implements ager: the flow has lasted for keepaliveFrom.
func (f *flow) aged() { f.work(newsLasts) }

// NotifyEvent implements waiter.EventListener. netstack may hold the endpoint's lock.
func (f *flow) NotifyEvent(m waiter.EventMask) {
	var n news
	if m&(waiter.ReadableEvents|waiter.EventHUp|waiter.EventErr) != 0 {
		n |= newsContainerData
	}
	if m&(waiter.WritableEvents|waiter.EventHUp|waiter.EventErr) != 0 {
		n |= newsContainerRoom
	}
	f.c.ready(f, n)
}

// work acts on news and returns how many bytes it moved. When another goroutine is at it, that one
// acts on it.
func (f *flow) work(n news) (moved int) {
	f.news.Or(uint32(n))
	for f.news.Load() != 0 && f.mu.TryLock() {
		up, down := f.step(news(f.news.Swap(0)))
		f.spoke(up, down)
		f.grow(up, down)
		f.stream.Store(up+down > chunkBytes)
		moved += up + down
		f.mu.Unlock()
	}
	return moved
}

// step acts on news. f.mu is held.
func (f *flow) step(n news) (up, down int) {
	if f.over {
		return 0, 0
	}
	if n&newsKill != 0 {
		f.kill()
		return 0, 0
	}
	if n&newsLate != 0 && f.late {
		f.prompt()
	}
	if n&newsLasts != 0 {
		f.keepAlive()
	}
	if n&newsHostEnd != 0 {
		f.hostEnd = true
	}
	if n&newsHostUrgent != 0 {
		f.urgent = true
	}
	if n&newsContainerData != 0 || n&newsHostRoom != 0 && f.up == throttled {
		up = f.relayUp()
	}
	if !f.over && (n&newsHostData != 0 || n&newsContainerRoom != 0 && f.down == throttled) {
		down = f.relayDown()
	}
	if n&newsStart != 0 && !f.over {
		if f.added = f.c.add(f); !f.added {
			f.g.drops.Add(drop.SocketError)
			f.kill()
		}
	}
	if f.moved += up + down; f.moved > chunkBytes {
		f.spares = nil // the socket's buffers may have grown
	}
	if !f.over && f.up == ended && f.down == ended {
		f.finish()
	}
	return up, down
}

// keepAlive has both sides look for peers that vanished. f.mu is held.
func (f *flow) keepAlive() {
	f.spares = nil // the next connection is not to begin with keepalive
	keepAlive(f.ep)
	_ = keepSocketAlive(f.fd) // without it the flow is as good, only slower to be missed
}

// relayUp moves container to host. f.mu is held.
func (f *flow) relayUp() (moved int) {
	if f.up == ended {
		_, err := f.ep.Read(io.Discard, tcpip.ReadOptions{Peek: true})
		if _, eof := err.(*tcpip.ErrClosedForReceive); err != nil && !eof {
			f.kill()
		}
		return 0
	}
	for moved < turnBytes {
		n, err := f.upOnce()
		moved += n
		switch err.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			return moved
		case *tcpip.ErrClosedForReceive:
			f.up = ended
			if shutdownWrite(f.fd) != nil {
				f.kill()
			}
			return moved
		default:
			f.kill()
			return moved
		}
	}
	f.c.spent(f, (upCharge-1)*moved)
	f.c.ready(f, newsContainerData)
	return moved
}

// upOnce relays what the container has sent by now. Its memory is borrowed, so that a flow that waits has none.
func (f *flow) upOnce() (int, tcpip.Error) {
	g := gathers.Get().(*gather)
	defer g.release()
	if _, err := f.ep.Read(g, tcpip.ReadOptions{Peek: true}); err != nil {
		return 0, err
	}
	f.up = flowing
	n, err := g.send(f.fd)
	switch {
	case err == errNoRoom:
		f.up = throttled
		if !f.askRoom() {
			return 0, &tcpip.ErrConnectionReset{}
		}
		return 0, &tcpip.ErrWouldBlock{}
	case err != nil:
		return 0, &tcpip.ErrConnectionReset{}
	}
	consume := discard(n)
	_, terr := f.ep.Read(&consume, tcpip.ReadOptions{})
	return n, terr
}

// relayDown moves host to container. f.mu is held.
func (f *flow) relayDown() (moved int) {
	if f.down == ended {
		return 0
	}
	moved, state := f.pump()
	f.down = flowing
	switch state {
	case pumpMore:
		f.c.ready(f, newsHostData)
	case pumpFull:
		f.down = throttled
	case pumpEOF:
		f.down = ended
		if f.ep.Shutdown(tcpip.ShutdownWrite) != nil {
			f.kill()
		}
	case pumpFailed:
		f.kill()
	}
	return moved
}

// kill resets both sides. f.mu is held.
func (f *flow) kill() {
	f.close(resetSocket)
	f.ep.Abort()
	f.left()
}

// finish ends a flow both of whose directions have ended. f.mu is held.
func (f *flow) finish() {
	f.close(f.retire)
	f.ep.Close()
	f.left()
}

// abandon resets the host's side of a flow that does not begin.
func (f *flow) abandon() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	f.g.late.remove(&f.lateElder)
	resetSocket(f.fd)
}

func (f *flow) close(socket func(fd int)) {
	f.over, f.late = true, false // the socket's number may be another's when spoke looks
	f.wq.EventUnregister(&f.entry)
	f.c.forget(f)
	f.g.young.remove(&f.elder)
	f.g.late.remove(&f.lateElder)
	f.dropBurst()
	socket(f.fd)
}

// left tells who waits that the flow is over.
func (f *flow) left() {
	f.ungrow()
	f.g.endFlow(f.owner)
	if f.done != nil {
		close(f.done)
	}
	f.g.wg.Done()
}

// gather collects the memory of queued segments up to a bound, as an io.Writer that copies nothing.
type gather struct {
	parts [][]byte
	n     int
	mem   [64][]byte
	vectors
}

var (
	gathers       = sync.Pool{New: newGather}
	errGatherFull = errors.New("gather is full")
)

func (g *gather) release() {
	clear(g.mem[:len(g.parts)])
	g.parts, g.n = g.mem[:0], 0
	gathers.Put(g)
}

func newGather() any {
	g := new(gather)
	g.parts = g.mem[:0]
	return g
}

// Write notes b. It is valid until the segments are consumed.
func (g *gather) Write(b []byte) (int, error) {
	if len(g.parts) == len(g.mem) || g.n >= gatherBytes {
		return 0, errGatherFull
	}
	g.parts = append(g.parts, b)
	g.n += len(b)
	return len(b), nil
}

// discard is an io.Writer that takes that many bytes and no more.
type discard int

func (d *discard) Write(b []byte) (int, error) {
	if len(b) > int(*d) {
		n := int(*d)
		*d = 0
		return n, io.ErrShortWrite
	}
	*d -= discard(len(b))
	return len(b), nil
}

// reset closes a host connection with RST.
func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}
