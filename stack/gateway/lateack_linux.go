package gateway

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// # Theory of operation
//
// The ACK with which we complete a handshake with a server says no more than that there is a connection. A server on this host that waits
// for a request is woken by it, accepts, and waits again until the request wakes it once more. A client of Linux may leave that
// ACK to its first data (TCP_QUICKACK off before connect), so that the server is woken once and finds the request at once: a packet and
// a wake-up of another CPU less for each connection.
//
// But a server that speaks first waits for the ACK. So it is late only where it cannot matter: towards a server that, the last time, was
// spoken to before it spoke. What is remembered of servers is in a few slots for the whole process; two that share one take it from
// each other, which costs nothing but a packet. A container that does not send anything after all has its server told in lateFor to twice that.
//
// With the first data the socket's ACKs are prompt again, or a server that sends its answer in two parts and has Nagle's algorithm on would
// wait for us with the second.
//
//	dial ── prompt                                    first data from the container ─► remember the server
//	  └──── late ──► data, or lateFor ──► prompt                         from the server ─► forget it

// lateFor is as short as Go's timers are, and many times what a container on this host takes to send a request.
const lateFor = time.Millisecond

// lateServers are the servers that are spoken to first, told by serverID. None is 0.
type lateServers [64]atomic.Uint64

var serverSeed = maphash.MakeSeed()

// serverID stands for a server. That two have the same is as good as impossible, and would cost lateFor.
func serverID(a netip.AddrPort) uint64 { return max(1, maphash.Comparable(serverSeed, a)) }

func (s *lateServers) slot(id uint64) *atomic.Uint64 { return &s[id%uint64(len(s))] }

// has reports whether a server is spoken to first.
func (s *lateServers) has(id uint64) bool { return s.slot(id).Load() == id }

// learn is told who spoke first.
func (s *lateServers) learn(id uint64, container bool) {
	slot := s.slot(id)
	switch known := slot.Load(); {
	case container && known != id:
		slot.Store(id)
	case !container && known == id:
		slot.CompareAndSwap(id, 0)
	}
}

// lateACK is a flow as one that waits in g.late.
type lateACK flow

// aged implements ager: the container has sent nothing for lateFor.
func (f *lateACK) aged() { (*flow)(f).work(newsLate) }

// answersTo says which server a flow is with, whether that still waits for our ACK, and where the socket may go when it is over.
func (f *flow) answersTo(server uint64, late bool, spares *spareSockets) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.server, f.spares = server, spares
	f.late = late && f.g.late.add(&f.lateElder, (*lateACK)(f))
}

// spoke notes who speaks first. f.mu is held.
func (f *flow) spoke(up, down int) {
	if f.server == 0 || up+down == 0 {
		return
	}
	f.g.cfg.Shared.servers.learn(f.server, up > 0)
	f.server = 0
	if f.late {
		f.g.late.remove(&f.lateElder)
		f.prompt()
	}
}

// prompt has the socket send its ACKs at once, first of all one that waits. f.mu is held.
func (f *flow) prompt() {
	f.late = false
	_ = setsockoptInt(f.fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) // or the ACK goes out by the kernel's own timer
}
