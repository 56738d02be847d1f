package portfwd

import (
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Waiting for more.
//
// # Theory of operation
//
// A socket is readable from the first byte on. Who moves a stream is then woken for each segment of 64 KiB, moves it, which wakes
// the receiver, and sleeps again: three processes that wake each other, on a machine that may have fewer CPUs. So the source of a
// stream, which is what has moved gatherAfter in gatherWithin, is made readable from gatherBytes on (SO_RCVLOWAT, see socket(7)).
// The end of the stream, an error and a full window make it readable at once all the same.
//
// The last part of a message may be less than that, and its sender may wait for an answer. So the pump waits like this for no longer than
// gatherPatience. Then one byte is enough again, by which the kernel looks at what is there already, and the pump begins to
// count anew.
//
//	counting ── gatherAfter ──► gathering, pump busy ── nothing there ──► gathering, pump waits ── gatherPatience ──► expired
//	    ▲                               ▲                                          │                                   │
//	    │                               └──────────────── readable ────────────────┘                                   │
//	    └────────────────────────────────────────────── readable ──────────────────────────────────────────────────────┘
//
// Up 0.61 → 0.86 of kernel loopback, down 0.66 → 0.88 (medians of two benches each, in turns, 2 CPUs). 256 KiB was between.
const (
	// gatherBytes is what loopback carries in some 160 µs.
	gatherBytes = 512 << 10
	// gatherAfter is some 5 ms of a stream that has the machine to itself. What is shorter is never held up.
	gatherAfter = 16 << 20
	// gatherWithin leaves out those that send much over hours and little at a time, of which each 16 MiB would have one message
	// held up. 64 MiB/s are less than each of 16 streams side by side has.
	gatherWithin = 256 * time.Millisecond
	// gatherPatience is the shortest wait the Go runtime's poller has (epoll_wait counts milliseconds).
	gatherPatience = time.Millisecond
)

// gathering is how one direction waits for its source. All but expire is called by the goroutine of that direction.
type gathering struct {
	from  syscall.RawConn
	moved int64       // since it began to count
	began time.Time   // when it began to count; valid while moved is not 0
	on    bool        // SO_RCVLOWAT is gatherBytes, or state is gatherExpired
	timer *time.Timer // nil before the first wait

	mu    sync.Mutex // a leaf
	state gatherState
}

// gatherState is how far a wait for more is.
type gatherState uint8

const (
	gatherIdle    gatherState = iota // the pump does not wait
	gatherWaiting                    // it waits for gatherBytes
	gatherExpired                    // it has waited too long, and now waits for any byte
)

// add counts n bytes that have come from the socket fd.
func (g *gathering) add(fd uintptr, n int) {
	if g.on {
		return
	}
	if g.moved == 0 {
		g.began = time.Now()
	}
	if g.moved += int64(n); g.moved < gatherAfter {
		return
	}
	g.moved = 0
	if time.Since(g.began) <= gatherWithin {
		g.on = readableFrom(int(fd), gatherBytes) == nil // a kernel that refuses is asked again after as much
	}
}

// wait is called when the source has nothing, before the pump waits for it.
func (g *gathering) wait() {
	if !g.on {
		return
	}
	g.mu.Lock()
	g.state = gatherWaiting
	g.mu.Unlock()
	if g.timer == nil {
		g.timer = time.AfterFunc(gatherPatience, g.expire)
	} else {
		g.timer.Reset(gatherPatience)
	}
}

// readable is called when the source may have something, and when nobody will wait for it any more.
func (g *gathering) readable() {
	if !g.on {
		return
	}
	g.mu.Lock()
	was := g.state
	g.state = gatherIdle
	g.mu.Unlock()
	switch was {
	case gatherIdle:
	case gatherWaiting:
		g.timer.Stop()
	case gatherExpired:
		g.on = false
	}
}

// expire ends a wait that has lasted for gatherPatience. Stop may come too late for the timer of a wait that is over: its expire then
// does nothing, or ends the next wait early, which costs no more than to count anew. It uses the socket by from, which
// fails once the socket is closed, so that it cannot be another socket of the same number.
func (g *gathering) expire() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state == gatherWaiting {
		g.state = gatherExpired
		_ = control(g.from, func(fd int) error { return readableFrom(fd, 1) }) // nobody waits for a closed one
	}
}

// readableFrom makes a socket readable when it has n bytes or more, and not with fewer.
func readableFrom(fd, n int) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, n)
}
