package gateway

import (
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// # Theory of operation
//
// netstack starts a goroutine for each SYN. A goroutine begins with 2 KiB of stack and a SYN needs 8, so that each copied its
// stack twice as it grew, 3 % of the CPU time of short connections. So some of those that are done stay and wait for another
// SYN, and netstack's new goroutine hands it over and ends.
//
// Those that were not needed for a while end. That must cost a connection nothing, so no worker has a timer or knows how long
// it has waited. One timer serves all: when it fires, as many end as have been idle at any moment since it was set. It is set
// only while there is an idle worker, so a Network that rests has neither.

// synWorkers are the goroutines that handle SYNs.
type synWorkers struct {
	g        *Gateway
	requests chan *tcp.ForwarderRequest // nil: the worker is to end
	idle     atomic.Int32               // how many wait for a request
	fewest   atomic.Int32               // about the fewest that were idle since the last look
	looking  atomic.Bool                // the timer is set, or look runs

	mu    sync.Mutex  // a leaf
	timer *time.Timer // guarded by mu; nil before the first
}

const (
	// idleWorkers is how many connections begin at once without another goroutine growing.
	idleWorkers = 16
	// idleWorkerTime is how long one stays without a request, and twice that at the most.
	idleWorkerTime = 5 * time.Second
)

// handle is what netstack calls with a SYN, on a new goroutine, which becomes a worker when none is idle.
func (w *synWorkers) handle(r *tcp.ForwarderRequest) {
	select {
	case w.requests <- r:
		return
	default:
	}
	if !w.g.enter() {
		r.Complete(false)
		return
	}
	defer w.g.wg.Done()
	for r != nil {
		if w.g.closed.Load() {
			r.Complete(false)
			return
		}
		w.g.handleSYN(r)
		r = w.next()
	}
}

// next waits for a worker's next request; nil: it is to end.
func (w *synWorkers) next() *tcp.ForwarderRequest {
	if w.idle.Add(1) > idleWorkers {
		w.idle.Add(-1)
		return nil
	}
	w.watch()
	select {
	case r := <-w.requests:
		if r == nil {
			return nil // look has counted
		}
		n := w.idle.Add(-1)
		// Another may write a greater one at the same time: then some end that were needed, and others begin.
		if n < w.fewest.Load() {
			w.fewest.Store(n)
		}
		return r
	case <-w.g.ctx.Done():
		return nil
	}
}

// watch sees to it that somebody looks at the idle workers.
func (w *synWorkers) watch() {
	if w.looking.Load() || w.looking.Swap(true) {
		return
	}
	w.fewest.Store(w.idle.Load())
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer == nil {
		w.timer = time.AfterFunc(idleWorkerTime, w.look)
	} else {
		w.timer.Reset(idleWorkerTime)
	}
}

// look ends the workers that nobody needed since it was called last.
func (w *synWorkers) look() {
	if !w.g.enter() {
		return
	}
	defer w.g.wg.Done()
	for range w.fewest.Load() {
		select {
		case w.requests <- nil:
			w.idle.Add(-1)
		default: // it is about to wait; the next look finds it
		}
	}
	w.looking.Store(false)
	if w.idle.Load() > 0 {
		w.watch()
	}
}

// stop lets go of the timer. No worker is left, and none will be.
func (w *synWorkers) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
}
