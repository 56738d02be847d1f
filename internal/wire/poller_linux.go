package wire

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Connections by the thousand.
//
// # Theory of operation
//
// A goroutine that waits for a message has 4 KiB of stack, and when it has ended the runtime keeps 480 bytes of it and 360 of
// its descriptor for ever. A daemon has a connection to each sandbox, which says nothing for days. So one goroutine
// waits for all of them, on an epoll instance, which is the only descriptor among them that is in the runtime's poller.
//
//	waiting ── a message, the end, Close ──► awake ── Await ──► waiting
//
// Awake, a connection has a goroutine of its owner's function, which lasts while there is something to receive. There is one at a
// time (EPOLLONESHOT), and who stands still in it is in nobody's way.
//
// Sends do not wait as a rule. One that finds no room holds a thread until there is some, its deadline passes or the
// connection is closed.

// ErrNothing is what Receive of a Polled returns instead of waiting.
var ErrNothing = errors.New("no message is there")

// pollerEvents is how many connections are taken from the kernel at a time.
const pollerEvents = 64

// Poller waits for messages on many connections.
type Poller struct {
	epoll *os.File
	fd    int            // of epoll
	wg    sync.WaitGroup // run, and what it wakes

	mu   sync.Mutex // guards byFD; a leaf
	byFD []*Polled
}

// NewPoller makes a Poller; Close ends it.
func NewPoller() (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make epoll instance: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that it is in the runtime's poller
		unix.Close(fd)
		return nil, fmt.Errorf("make epoll instance: %w", err)
	}
	p := &Poller{epoll: os.NewFile(uintptr(fd), "epoll"), fd: fd}
	rc, err := p.epoll.SyscallConn()
	if err != nil {
		p.epoll.Close()
		return nil, fmt.Errorf("make epoll instance: %w", err)
	}
	p.wg.Go(func() { p.run(rc) })
	return p, nil
}

// Close waits for the last goroutine. The connections must have been closed.
func (p *Poller) Close() error {
	err := p.epoll.Close()
	p.wg.Wait()
	return err
}

// run wakes until the Poller is closed.
func (p *Poller) run(rc syscall.RawConn) {
	var events [pollerEvents]unix.EpollEvent
	for {
		n := 0
		err := rc.Read(func(fd uintptr) bool {
			n, _ = unix.EpollWait(int(fd), events[:], 0) // does not fail: it is an epoll instance, and nothing waits
			return n > 0
		})
		if err != nil {
			return
		}
		for _, e := range events[:n] {
			if c := p.at(int(e.Fd)); c != nil {
				c.wake()
			}
		}
	}
}

// at returns the connection of a descriptor. An event may be late, and its descriptor another's by now, which then wakes and
// finds nothing.
func (p *Poller) at(fd int) *Polled {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fd >= len(p.byFD) {
		return nil
	}
	return p.byFD[fd]
}

// put makes c, which may be nil, the connection of a descriptor.
func (p *Poller) put(fd int, c *Polled) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for fd >= len(p.byFD) {
		p.byFD = append(p.byFD, nil)
	}
	p.byFD[fd] = c
}

// pollState is what a connection does.
type pollState uint8

const (
	pollAwake   pollState = iota // somebody receives, or will call Await
	pollWaiting                  // for something to receive
	pollClosed
)

// Polled is a Socket whose receives do not wait. It has no deadline for them.
type Polled struct {
	p  *Poller
	f  *os.File // blocking, which keeps it out of the runtime's poller; no call of ours would block
	rc syscall.RawConn
	fd int // of f, not to be used once it is closed

	mu     sync.Mutex // guards what follows; taken before Poller.mu
	state  pollState
	woken  func()
	sendBy time.Time
}

// Add takes s over, unless there is an error, and closes it: the Polled has a descriptor of its own.
func (p *Poller) Add(s Socket) (*Polled, error) {
	rc, err := s.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("use socket: %w", err)
	}
	fd, derr := -1, error(nil)
	err = rc.Control(func(from uintptr) { fd, derr = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 3) })
	if err = errors.Join(err, derr); err != nil {
		return nil, fmt.Errorf("duplicate socket: %w", err)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("use socket: %w", err)
	}
	c := &Polled{p: p, f: os.NewFile(uintptr(fd), "polled socket"), fd: fd}
	if c.rc, err = c.f.SyscallConn(); err == nil {
		err = unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLONESHOT, Fd: int32(fd)})
	}
	if err != nil {
		c.f.Close()
		return nil, fmt.Errorf("watch socket: %w", err)
	}
	p.put(fd, c)
	s.Close()
	return c, nil
}

// Await has woken called, once and on a goroutine of its own, when there is something to receive, the other side has
// ended, or the connection is closed. After an error it will not be.
func (c *Polled) Await(woken func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == pollClosed {
		return os.ErrClosed
	}
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(c.fd)}
	if err := unix.EpollCtl(c.p.fd, unix.EPOLL_CTL_MOD, c.fd, &e); err != nil {
		return fmt.Errorf("wait for a message: %w", err)
	}
	c.state, c.woken = pollWaiting, woken
	return nil
}

// wake wakes a connection that waits.
func (c *Polled) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == pollWaiting {
		c.state = pollAwake
		c.p.wg.Go(c.woken)
	}
}

// Close ends the connection, interrupts who sends, and wakes who waits.
func (c *Polled) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.state
	if was == pollClosed {
		return os.ErrClosed
	}
	c.state = pollClosed
	c.p.put(c.fd, nil) // before the number can be another's
	_ = unix.EpollCtl(c.p.fd, unix.EPOLL_CTL_DEL, c.fd, nil)
	_ = unix.Shutdown(c.fd, unix.SHUT_RDWR) // whoever polls it holds it open
	err := c.f.Close()
	if was == pollWaiting {
		c.p.wg.Go(c.woken)
	}
	return err
}

// SyscallConn returns the socket for its calls, of which Read returns ErrNothing instead of waiting.
func (c *Polled) SyscallConn() (syscall.RawConn, error) { return (*polledConn)(c), nil }

// SetReadDeadline is an error: nothing waits.
func (c *Polled) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

// SetWriteDeadline bounds the sends that begin afterwards; the zero time takes it back.
func (c *Polled) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sendBy = t
	return nil
}

type polledConn Polled

func (c *polledConn) Control(f func(fd uintptr)) error { return c.rc.Control(f) }

func (c *polledConn) Read(f func(fd uintptr) bool) error {
	done := false
	if err := c.rc.Control(func(fd uintptr) { done = f(fd) }); err != nil {
		return err
	}
	if !done {
		return ErrNothing
	}
	return nil
}

func (c *polledConn) Write(f func(fd uintptr) bool) error {
	c.mu.Lock()
	by := c.sendBy
	c.mu.Unlock()
	var werr error
	err := c.rc.Control(func(fd uintptr) {
		for werr == nil && !f(fd) {
			werr = room(int(fd), by)
		}
	})
	return errors.Join(err, werr)
}

// room waits until a socket may take a message, or has ended; t is when to give up, the zero time never.
func room(fd int, t time.Time) error {
	for {
		wait := -1
		if !t.IsZero() {
			wait = int(max(0, (time.Until(t)+time.Millisecond-1)/time.Millisecond))
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, wait)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return os.ErrDeadlineExceeded
		default:
			return nil
		}
	}
}
