package dnsproxy

import (
	"sync"

	"github.com/usernet/usernet/stack/quota"
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
	client  client
	via     transport
	respond respond
}

// flight is one question on its way upstream, and everybody who waits for the answer.
type flight struct {
	key flightKey
	q   query // the first waiter's, letters and all: what is sent

	// Guarded by flights.mu.
	waiters []waiter
	ids     []uint16 // ids under which upstreams have been asked
}

// flightKey is what queries of one flight have in common.
type flightKey struct {
	ring     *ring
	question string
}

// flights admits queries and coalesces those that ask the same thing.
type flights struct {
	wg        sync.WaitGroup // the goroutine of each flight
	perClient int
	pool      *quota.Pool

	// mu guards the rest, and the waiters and ids of every flight.
	mu     sync.Mutex
	closed bool
	// client is each client's share of what all Servers together may have in flight, so that many queries of one, or of
	// several, leave room for the next (DN-19).
	client map[client]*quota.Share
	byKey  map[flightKey]*flight
}

func (t *flights) init(perClient int, pool *quota.Pool) {
	if perClient <= 0 {
		perClient = maxInFlightPerClient
	}
	t.perClient, t.pool = perClient, pool
	t.client = make(map[client]*quota.Share)
	t.byKey = make(map[flightKey]*flight)
}

// join puts w into the flight for its question to r. When there is none it makes one and calls run
// in a goroutine of its own.
func (t *flights) join(r *ring, w *waiter, run func(*flight)) verdict {
	var buf [maxName + 8]byte
	key := flightKey{r, string(w.q.appendKey(buf[:0]))}

	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return joinLimit
	}
	f := t.byKey[key]
	if f != nil {
		// A query that repeats the random id of ours is ours: an upstream forwards to us. Answering
		// SERVFAIL ends the loop; a client hits the id by chance once in 65536 times, and asks again.
		for _, id := range f.ids {
			if id == w.q.id {
				return joinLoop
			}
		}
	}
	if !t.chargeLocked(w.client) {
		return joinLimit
	}
	w.q.own()
	if f != nil {
		f.waiters = append(f.waiters, *w)
		return joinOther
	}
	f = &flight{key: key, q: w.q, waiters: []waiter{*w}}
	t.byKey[f.key] = f
	t.wg.Go(func() { run(f) })
	return joinFirst
}

// chargeLocked counts one more query of c, unless it is at its limit.
func (t *flights) chargeLocked(c client) bool {
	share := t.client[c]
	if share == nil {
		share = t.pool.Share()
	}
	if share.Held() >= t.perClient {
		return false
	}
	if _, ok := share.Take(); !ok {
		return false
	}
	t.client[c] = share
	return true
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
func (t *flights) release(c client) {
	t.mu.Lock()
	defer t.mu.Unlock()
	share := t.client[c]
	if share.Give(); share.Held() == 0 {
		delete(t.client, c)
	}
}

// shut admits nothing any more.
func (t *flights) shut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}
