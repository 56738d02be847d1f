package gateway

import (
	"net/netip"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// # Theory of operation
//
// To make a socket, set it up and close it is a twentieth of the CPU time of a short connection. A socket whose connection has ended in
// order, both FINs acknowledged, becomes a fresh one by connecting it to AF_UNSPEC (connect(2)); what TIME_WAIT remembers is no longer
// part of it. So a few are kept for the next connections. Options stay, which is why only sockets with those of every
// connection are kept: not those bound to an address or interface, with keepalive, or with buffers that have grown.
//
// The one kept last is used first. So those at the front that nobody took for spareFor to twice that are more than are needed, and
// are closed; a gateway that is idle has none.
type spareSockets struct {
	g   *Gateway
	age time.Duration // of what is closed

	mu     sync.Mutex  // a leaf
	fds    []int       // guarded by mu
	unused int         // guarded by mu; the fewest there were since the last tick
	timer  *time.Timer // guarded by mu; nil before the first
	ticks  bool        // guarded by mu; the timer runs
	closed bool        // guarded by mu
}

const (
	// maxSpares is how many of a busy container's connections end before the next ones begin.
	maxSpares = 16
	// maxAllSpares is for all Networks: no quota of flows counts them, so they are of what is for TAPs, listeners and control.
	maxAllSpares = 64
	spareFor     = time.Second
)

// sparesFor returns those for a destination. Sockets are of one family, and those of loopback have a congestion control of their own.
func (g *Gateway) sparesFor(to netip.Addr) *spareSockets {
	i := 0
	if to.Is6() {
		i = 1
	}
	if to.IsLoopback() {
		i += 2
	}
	return &g.spares[i]
}

// take returns a socket, or -1. s may be nil.
func (s *spareSockets) take() (fd int) {
	if s == nil {
		return -1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.fds) - 1
	if last < 0 {
		return -1
	}
	fd, s.fds = s.fds[last], s.fds[:last]
	s.g.cfg.Shared.spares.Add(-1)
	s.unused = min(s.unused, last)
	return fd
}

// keep makes fd, which the caller watches no more, a spare. If it reports false the caller closes it.
func (s *spareSockets) keep(fd int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.fds) == maxSpares || !refresh(fd) {
		return false
	}
	if all := &s.g.cfg.Shared.spares; all.Add(1) > maxAllSpares {
		all.Add(-1)
		return false
	}
	s.fds = append(s.fds, fd)
	switch {
	case s.ticks:
		return true
	case s.timer == nil:
		s.timer = time.AfterFunc(s.age, s.tick)
	default:
		s.timer.Reset(s.age)
	}
	s.ticks = true
	return true
}

// tick closes what nobody needed since the last one. It comes back while there are any.
func (s *spareSockets) tick() {
	if !s.g.enter() {
		return
	}
	defer s.g.wg.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, fd := range s.fds[:s.unused] {
		closeSocket(fd)
	}
	s.g.cfg.Shared.spares.Add(-int64(s.unused))
	s.fds = append(s.fds[:0], s.fds[s.unused:]...)
	s.unused = len(s.fds)
	if s.ticks = s.unused > 0; s.ticks {
		s.timer.Reset(s.age)
	}
}

// close closes all. None is kept after it.
func (s *spareSockets) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
	for _, fd := range s.fds {
		closeSocket(fd)
	}
	s.g.cfg.Shared.spares.Add(-int64(len(s.fds)))
	s.fds, s.unused = nil, 0
}

// refresh makes a socket whose connection has ended in order a fresh one, and reports whether it was such a socket. Nobody else has the
// socket, so that unlike sys.Disconnect, which works on sockets of containers, it can make quiet calls.
func refresh(fd int) bool {
	var peer [unix.SizeofSockaddrInet6]byte
	size := uint32(len(peer))
	if quietly(unix.SYS_GETPEERNAME, fd, uintptr(unsafe.Pointer(&peer)), uintptr(unsafe.Pointer(&size))) != unix.ENOTCONN {
		return false // it may have to send, or to acknowledge
	}
	var failed int32 // asking forgets it
	size = uint32(unsafe.Sizeof(failed))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ERROR,
		uintptr(unsafe.Pointer(&failed)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 || failed != 0 {
		return false
	}
	unspec := sockaddr{n: unix.SizeofSockaddrInet4} // AF_UNSPEC is 0
	return unspec.call(unix.SYS_CONNECT, fd) == 0
}

// retire takes the socket of a flow that has ended in order.
func (f *flow) retire(fd int) {
	if f.spares == nil || f.urgent || f.asksRoom || !f.c.control(unix.EPOLL_CTL_DEL, fd, 0) || !f.spares.keep(fd) {
		closeSocket(fd)
	}
}
