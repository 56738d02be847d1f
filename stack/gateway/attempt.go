package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// # Theory of operation
//
// A SYN keeps a goroutine until its connection is established or has failed: netstack's CreateEndpoint sends the SYN-ACK and
// waits for the ACK. Nearly every attempt succeeds in less than a millisecond, so what is only for those that do not
// is made when it is needed: a context for a dial that does not end at once, and for the ACK that does not come one timer for
// all that wait. Of a connection's own CPU time that was a tenth.
//
//	dialling ──────► answering ──────► over
//	   └──────────────────────────────►┘ refused, given up
//
// An attempt is given up when its slot is taken away, when the ACK does not come in handshakeTimeout and when the gateway
// closes. CreateEndpoint gives up at an event it waits for. It may not wait yet when the first one comes, so a goroutine tells it
// again and again until it has returned.

// attemptState is how far an attempt is.
type attemptState uint8

const (
	dialling attemptState = iota
	answering
	attemptOver
)

// attempt is one try of a container to connect.
type attempt struct {
	g *Gateway

	mu      sync.Mutex
	state   attemptState       // guarded by mu
	givenUp bool               // guarded by mu
	cancel  context.CancelFunc // guarded by mu; of the dial, nil when it does not wait
	wq      *waiter.Queue      // guarded by mu; of the endpoint that is answering

	// Guarded by g.answers.mu.
	prev, next *attempt
	since      time.Time
	listed     bool
}

// context is what a dial waits by. The caller calls done after it.
func (a *attempt) context() (ctx context.Context, done context.CancelFunc) {
	ctx, done = context.WithCancel(a.g.ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cancel = done
	if a.givenUp {
		done()
	}
	return ctx, done
}

// giveUp ends the attempt, unless it is over. It may be called with any lock held but those of attempts, and more than once.
func (a *attempt) giveUp() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.givenUp {
		return
	}
	a.givenUp = true
	switch {
	case a.state == dialling && a.cancel != nil:
		a.cancel()
	case a.state == answering:
		a.g.wg.Go(a.insist) // the attempt's own goroutine is counted still
	}
}

// acknowledge sends the SYN-ACK and waits for the container's ACK.
func (a *attempt) acknowledge(r *tcp.ForwarderRequest, wq *waiter.Queue) (tcpip.Endpoint, error) {
	a.mu.Lock()
	if a.givenUp {
		a.mu.Unlock()
		return nil, context.Canceled
	}
	a.state, a.wq = answering, wq
	a.mu.Unlock()
	defer a.over()
	if !a.g.answers.add(a) {
		return nil, context.Canceled
	}
	ep, err := r.CreateEndpoint(wq)
	if err != nil {
		return nil, context.DeadlineExceeded
	}
	return ep, nil
}

// over ends the wait for the ACK.
func (a *attempt) over() {
	a.g.answers.remove(a)
	a.mu.Lock()
	a.state = attemptOver
	a.mu.Unlock()
}

// insistEvery is how often whoever waits is told that it is in vain.
const insistEvery = 10 * time.Millisecond

// insist has CreateEndpoint return.
func (a *attempt) insist() {
	tick := time.NewTicker(insistEvery)
	defer tick.Stop()
	for {
		a.mu.Lock()
		state := a.state
		a.mu.Unlock()
		if state == attemptOver {
			return
		}
		a.wq.Notify(waiter.WritableEvents)
		<-tick.C
	}
}

// answers are the attempts of a gateway that wait for an ACK, the one that waits for longest first.
type answers struct {
	g *Gateway

	mu          sync.Mutex
	first, last *attempt    // guarded by mu
	timer       *time.Timer // guarded by mu; nil before the first
	ticks       bool        // guarded by mu; the timer runs
	stopped     bool        // guarded by mu
}

// add notes that a waits from now on. It reports false when the gateway closes.
func (l *answers) add(a *attempt) bool {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return false
	}
	a.since, a.listed, a.prev = now, true, l.last
	if l.last == nil {
		l.first = a
	} else {
		l.last.next = a
	}
	l.last = a
	l.armLocked(handshakeTimeout)
	return true
}

func (l *answers) armLocked(d time.Duration) {
	switch {
	case l.ticks:
		return
	case l.timer == nil:
		l.timer = time.AfterFunc(d, l.tick)
	default:
		l.timer.Reset(d)
	}
	l.ticks = true
}

// remove is called when a waits no more; it may be called again.
func (l *answers) remove(a *attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.removeLocked(a)
}

func (l *answers) removeLocked(a *attempt) {
	if !a.listed {
		return
	}
	a.listed = false
	if a.prev == nil {
		l.first = a.next
	} else {
		a.prev.next = a.next
	}
	if a.next == nil {
		l.last = a.prev
	} else {
		a.next.prev = a.prev
	}
	a.prev, a.next = nil, nil
}

// tick gives up those that have waited for too long and comes back when the next one has. While connections succeed that is once
// in handshakeTimeout, and an idle gateway's timer ends by itself.
func (l *answers) tick() {
	if !l.g.enter() {
		return
	}
	defer l.g.wg.Done()
	var late []*attempt
	now := time.Now()
	l.mu.Lock()
	l.ticks = false
	for l.first != nil {
		a := l.first
		if left := handshakeTimeout - now.Sub(a.since); left > 0 {
			l.armLocked(left)
			break
		}
		l.removeLocked(a)
		late = append(late, a)
	}
	l.mu.Unlock()
	for _, a := range late {
		a.giveUp()
	}
}

// stop gives all up, and those to come.
func (l *answers) stop() {
	l.mu.Lock()
	l.stopped = true
	if l.timer != nil {
		l.timer.Stop()
	}
	var all []*attempt
	for l.first != nil {
		all = append(all, l.first)
		l.removeLocked(l.first)
	}
	l.mu.Unlock()
	for _, a := range all {
		a.giveUp()
	}
}

// synWorkers are the goroutines that handle SYNs. netstack starts one for each; what a SYN needs of stack, 8 KiB, is four times what a
// goroutine begins with and is copied twice as it grows, 5 µs. So a few that are done stay, and take over from new ones.
type synWorkers struct {
	g        *Gateway
	requests chan *tcp.ForwarderRequest
	idle     atomic.Int32 // that wait for a request
}

// idleWorkers is how many connections begin at once without another goroutine growing.
const idleWorkers = 16

// handle is netstack's way to us, on a goroutine of its own.
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
	for {
		if w.g.closed.Load() {
			r.Complete(false)
			return
		}
		w.g.handleSYN(r)
		if w.idle.Add(1) > idleWorkers {
			w.idle.Add(-1)
			return
		}
		select {
		case r = <-w.requests:
			w.idle.Add(-1)
		case <-w.g.ctx.Done():
			return
		}
	}
}
