package dnsproxy

import (
	"net/netip"
	"sync"
)

// verdict says what became of a query that asked to be forwarded.
type verdict uint8

const (
	joinFirst verdict = iota // it started a flight
	joinOther                // it shares a flight that was on its way
	joinLimit                // it is over a limit, or the Server is closed
	joinLoop                 // it is our own query, forwarded back to us
)

// waiter is one client's query in flight.
type waiter struct {
	q       query
	client  netip.Addr
	via     transport
	respond respond
}

// flight is one question on its way upstream, and everybody who waits for the answer.
type flight struct {
	key string
	q   query // the first waiter's, letters and all: what is sent

	// Guarded by flights.mu.
	waiters []waiter
	ids     []uint16 // ids under which upstreams have been asked
}

// flights admits queries and coalesces those that ask the same thing.
type flights struct {
	wg        sync.WaitGroup // the goroutine of each flight
	perClient int

	// mu guards the rest, and the waiters and ids of every flight.
	mu     sync.Mutex
	closed bool
	total  int // queries in flight, of all clients
	client map[netip.Addr]int
	byKey  map[string]*flight
}

func (t *flights) init(perClient int) {
	if perClient <= 0 {
		perClient = maxInFlightPerClient
	}
	t.perClient = perClient
	t.client = make(map[netip.Addr]int)
	t.byKey = make(map[string]*flight)
}

// join puts w into the flight for its question. When there is none it makes one and calls run
// in a goroutine of its own.
func (t *flights) join(w *waiter, run func(*flight)) verdict {
	var buf [maxName + 8]byte
	key := w.q.appendKey(buf[:0])

	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.total >= maxInFlight || t.client[w.client] >= t.perClient {
		return joinLimit
	}
	f := t.byKey[string(key)]
	if f != nil {
		// A query that repeats the random id of ours is ours: an upstream forwards to us. Answering
		// SERVFAIL ends the loop; a client hits the id by chance once in 65536 times, and asks again.
		for _, id := range f.ids {
			if id == w.q.id {
				return joinLoop
			}
		}
	}
	t.total++
	t.client[w.client]++
	w.q.own()
	if f != nil {
		f.waiters = append(f.waiters, *w)
		return joinOther
	}
	f = &flight{key: string(key), q: w.q, waiters: []waiter{*w}}
	t.byKey[f.key] = f
	t.wg.Go(func() { run(f) })
	return joinFirst
}

// asked notes an id under which f's question has gone upstream.
func (t *flights) asked(f *flight, id uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f.ids = append(f.ids, id)
}

// finish takes f out of the table and returns its waiters, each of which still counts until release.
func (t *flights) finish(f *flight) []waiter {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byKey[f.key] == f {
		delete(t.byKey, f.key)
	}
	return f.waiters
}

// release ends the count of one query of client.
func (t *flights) release(client netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total--
	if t.client[client]--; t.client[client] == 0 {
		delete(t.client, client)
	}
}

// detach lets no further query join the flights on their way.
func (t *flights) detach() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.byKey)
}

// shut admits nothing any more.
func (t *flights) shut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}
