package gateway

import (
	"context"
	"net/netip"
	"sync"
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
// all that wait. That spares 15 of 121 allocations of a connection.
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
	g        *Gateway
	src, dst netip.AddrPort // the container's side and the outside's
	quote    []byte         // the SYN's headers, once the dial waits; of the goroutine that handles the SYN
	spares   *spareSockets  // where the dialled socket may go when it has served; of that goroutine too

	mu      sync.Mutex
	state   attemptState       // guarded by mu
	givenUp bool               // guarded by mu
	cancel  context.CancelFunc // guarded by mu; of the dial, nil when it does not wait
	wq      *waiter.Queue      // guarded by mu; of the endpoint that is answering

	elder elder // in g.answers
}

// aged implements ager: the ACK has not come in handshakeTimeout.
func (a *attempt) aged() { a.giveUp() }

// context is what a dial waits by. The caller calls done after it. A dial may wait for seconds, in which other SYNs would push the
// headers of this one out of the ring, so that its error could not be told; from now on they are the attempt's.
func (a *attempt) context() (ctx context.Context, done context.CancelFunc) {
	a.quote = a.g.syns.take(a.src, a.dst)
	ctx, done = context.WithCancel(a.g.ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cancel = done
	if a.givenUp {
		done()
	}
	return ctx, done
}

// quoted returns the headers of the SYN, for the ICMP error that says what became of it; nil: they are gone.
func (a *attempt) quoted() []byte {
	if a.quote == nil {
		a.quote = a.g.syns.take(a.src, a.dst)
	}
	return a.quote
}

// giveUp ends the attempt, unless it is over. It may be called more than once, and with any lock held but an attempt's.
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
	if !a.g.answers.add(&a.elder, a) {
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
	a.g.answers.remove(&a.elder)
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
		state, wq := a.state, a.wq
		a.mu.Unlock()
		if state == attemptOver {
			return
		}
		wq.Notify(waiter.WritableEvents)
		<-tick.C
	}
}
