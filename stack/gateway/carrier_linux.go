package gateway

import (
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
)

// # Theory of operation
//
// A carrier moves the bytes of all flows of a gateway with two goroutines, or as many more as the process has P, so that a
// flow that is idle costs its two endpoints and nothing else: no stack, no timer, no wake-up.
//
// watch waits for the host sockets in an epoll instance of its own, which as a descriptor is in the runtime's
// poller: a wait costs no thread. What a socket has to say is acted on at once, on watch's own goroutine,
// down to the write to the TAP, unless it is a stream's while others wait for their turn.
//
// serve waits for flows that netstack has news of. netstack tells while it holds the endpoint's lock, so
// nothing can be done there but to put the flow into a list. Flows in the list take turns (turns.go).
//
// While the process has several P several goroutines serve the one list, each as long as there is something in
// it, and watch puts into it all it finds but one. So whoever is free takes what is next, wherever it came from.
//
// Both only call flow.work, which sees to it that a flow is worked on by one goroutine at a time.
//
// Sockets are edge-triggered: an event comes when something changed, and stays away until a call has said EAGAIN or
// something changes again. Each is registered once, and again if it was ever full (askRoom); closing it ends that.
type carrier struct {
	poll *os.File        // the epoll instance
	rc   syscall.RawConn // of poll
	fd   int             // of poll; valid until poll is closed, which stop does last
	wg   sync.WaitGroup

	// watch's own.
	events [64]unix.EpollEvent
	look   func(fd uintptr) bool
	moved  int   // since watch let others run
	err    error // of the last look

	bell chan struct{} // each token wakes one that serves and waits

	processors func() int // how many goroutines may serve now; never more than the bell has room for

	mu      sync.Mutex      // a leaf: netstack calls ready with its locks held
	flows   map[int32]*flow // guarded by mu; by host socket
	turns   turns           // guarded by mu; of the flows with news
	serving int             // guarded by mu; goroutines in serve
	waiting int             // guarded by mu; those of them that wait and have no token yet
	stopped bool            // guarded by mu; no flow is accepted any more
}

// carriers makes a gateway's carrier with the first flow: a Network that nobody uses has none.
type carriers struct {
	processors func() int // sys.Processors
	most       int        // what that may ever be

	mu      sync.Mutex
	one     *carrier // guarded by mu
	stopped bool     // guarded by mu
}

func (cs *carriers) get() (*carrier, error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.stopped {
		return nil, net.ErrClosed
	}
	if cs.one == nil {
		c, err := newCarrier(cs.processors, cs.most)
		if err != nil {
			return nil, err
		}
		cs.one = c
	}
	return cs.one, nil
}

// stop resets all flows and lets no more begin.
func (cs *carriers) stop() {
	cs.mu.Lock()
	c := cs.one
	cs.stopped = true
	cs.mu.Unlock()
	if c != nil {
		c.stop()
	}
}

// turnBytes is after how much work on a flow lets serve look what is next: one gather, or four of netstack's largest segments.
const turnBytes = 256 << 10

// lookAfter is how much serve moves before it lets others run and look at the network: as much as a TAP's reader
// takes, half a millisecond's copying.
const lookAfter = 1 << 20

// hostEvents are what a flow wants to know of its socket. That there is room it asks only once it has found none: each new
// socket has room, which would be an event of its own.
const hostEvents = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff

func newCarrier(processors func() int, most int) (*carrier, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll instance: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // says to os that the runtime may poll it
		unix.Close(fd)
		return nil, fmt.Errorf("create epoll instance: %w", err)
	}
	c := &carrier{
		poll: os.NewFile(uintptr(fd), "flows"), fd: fd, flows: make(map[int32]*flow),
		processors: processors, bell: make(chan struct{}, most), serving: 1,
	}
	if c.rc, err = c.poll.SyscallConn(); err != nil {
		c.poll.Close()
		return nil, fmt.Errorf("create epoll instance: %w", err)
	}
	c.look = c.act
	c.wg.Go(c.watch)
	c.wg.Go(c.serve)
	return c, nil
}

// epollWait takes the events there are, without waiting.
func epollWait(fd uintptr, events []unix.EpollEvent) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, fd, uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// watch acts on what the host sockets say, until stop.
func (c *carrier) watch() {
	for c.rc.Read(c.look) == nil && c.err == nil {
	}
}

// act takes what the sockets have to say and acts on it. It reports false, and so has the runtime wait, when that was all:
// what a socket says from then on is news of the epoll instance too, so that there is no need to look once more.
func (c *carrier) act(fd uintptr) (more bool) {
	var n int
	if n, c.err = epollWait(fd, c.events[:]); n == 0 {
		return c.err != nil
	}
	before, share := c.moved, c.processors() > 1
	for i := range c.events[:n] {
		e := &c.events[i]
		c.moved += c.hear(e.Fd, hostNews(e.Events), share && i < n-1)
	}
	sys.Linger(c.moved - before)
	if c.moved >= lookAfter {
		sys.Yield()
		c.moved = 0
	}
	return n == len(c.events)
}

// hear acts on news of a socket, or has serve do it, and returns how many bytes it moved.
//
// A stream takes its turn after those that wait for theirs. Of 16 streams some had twice the mean and some a hundredth of
// it when its own news gave each a turn at once; so the furthest is within 6 % of it in 1 s.
func (c *carrier) hear(fd int32, n news, share bool) (moved int) {
	c.mu.Lock()
	f, waiting := c.flows[fd], !c.turns.empty()
	c.mu.Unlock()
	switch {
	case f == nil: // it was closed since
	case share, waiting && f.stream.Load():
		c.ready(f, n)
	default:
		return f.work(n)
	}
	return 0
}

func hostNews(events uint32) (n news) {
	if events&unix.EPOLLIN != 0 {
		n |= newsHostData
	}
	if events&unix.EPOLLOUT != 0 {
		n |= newsHostRoom
	}
	if events&unix.EPOLLPRI != 0 {
		n |= newsHostData | newsHostUrgent
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		n |= newsHostData | newsHostRoom | newsHostEnd
	}
	return n
}

// serve works on flows that ready has put into the list, until stop, or until there are more that do than P.
func (c *carrier) serve() {
	moved := 0
	for {
		f, n, waited, ok := c.next()
		if !ok {
			return
		}
		if waited {
			moved = 0
		}
		did := f.work(n)
		c.spent(f, did)
		if moved += did; moved >= lookAfter {
			sys.Yield()
			moved = 0
		}
	}
}

// next takes the first flow out of the list and waits for one if there is none.
func (c *carrier) next() (f *flow, n news, waited, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.turns.empty() && !c.stopped {
		if c.serving > c.processors() {
			c.serving--
			return nil, 0, waited, false
		}
		c.waiting++
		c.mu.Unlock()
		<-c.bell
		waited = true
		c.mu.Lock()
	}
	if c.stopped {
		return nil, 0, waited, false
	}
	f = c.turns.next()
	n, f.queued, f.pending = f.pending, false, 0
	return f, n, waited, true
}

// spent is told that serve has moved n bytes for f.
func (c *carrier) spent(f *flow, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turns.spend(f, n)
}

// ready has serve work on f. It may be called with any lock held but c.mu.
func (c *carrier) ready(f *flow, n news) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.pending |= n
	if f.queued || c.stopped {
		return
	}
	f.queued = true
	c.turns.add(f)
	switch {
	case c.waiting > 0:
		c.waiting--
		c.bell <- struct{}{} // there is room: no more tokens than serve
	case c.serving < c.processors():
		c.serving++
		c.wg.Go(c.serve)
	}
}

// add begins to watch the host socket of f, which may have something to say already. It reports false when the carrier
// has stopped.
func (c *carrier) add(f *flow) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return false
	}
	if !c.control(unix.EPOLL_CTL_ADD, f.fd, f.hostEvents()) {
		return false // out of watches (max_user_watches) or memory
	}
	c.flows[int32(f.fd)] = f
	return true
}

// control tells the epoll instance what to watch a socket for.
func (c *carrier) control(op, fd int, events uint32) bool {
	e := unix.EpollEvent{Events: events, Fd: int32(fd)}
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(c.fd), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&e)), 0, 0)
	return errno == 0
}

// hostEvents are what the carrier watches the socket for. f.mu is held.
func (f *flow) hostEvents() uint32 {
	if f.asksRoom {
		return hostEvents | unix.EPOLLOUT
	}
	return hostEvents
}

// askRoom makes sure that it is news when the socket, which was full, has room. f.mu is held.
func (f *flow) askRoom() bool {
	if f.asksRoom {
		return true
	}
	f.asksRoom = true
	return !f.added || f.c.control(unix.EPOLL_CTL_MOD, f.fd, f.hostEvents())
}

// forget is called before the socket of f is closed, since the next one will have its number.
func (c *carrier) forget(f *flow) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flows[int32(f.fd)] == f {
		delete(c.flows, int32(f.fd))
	}
	c.turns.forget(f)
}

// stop resets all flows and waits for the goroutines.
func (c *carrier) stop() {
	c.mu.Lock()
	for ; c.waiting > 0; c.waiting-- {
		c.bell <- struct{}{}
	}
	c.stopped = true
	rest := make([]*flow, 0, len(c.flows))
	for _, f := range c.flows {
		rest = append(rest, f)
	}
	c.mu.Unlock()
	for _, f := range rest {
		f.work(newsKill)
	}
	c.poll.SetReadDeadline(past) // ends watch's wait
	c.wg.Wait()
	c.poll.Close()
}
