package daemon

import (
	"net/http"
	"sync"
	"time"
)

// idleness ends a daemon that nobody uses: no sandbox is connected and no request of the API is under way, for a
// while. A stream of events is a request under way.
type idleness struct {
	after time.Duration // 0 means never

	// mu guards what follows.
	mu        sync.Mutex
	sandboxes int
	requests  int
	timer     *time.Timer
	expired   chan struct{} // closed once
	once      sync.Once
}

// newIdleness begins to wait at once.
func newIdleness(after time.Duration) *idleness {
	i := &idleness{after: after, expired: make(chan struct{})}
	if after > 0 {
		i.timer = time.AfterFunc(after, i.expire)
	}
	return i
}

func (i *idleness) expire() {
	i.mu.Lock()
	defer i.mu.Unlock()
	// The timer may have fired while somebody came.
	if i.sandboxes == 0 && i.requests == 0 {
		i.once.Do(func() { close(i.expired) })
	}
}

// setSandboxes says how many there are.
func (i *idleness) setSandboxes(n int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.sandboxes = n
	i.turnLocked()
}

func (i *idleness) addRequests(n int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.requests += n
	i.turnLocked()
}

func (i *idleness) turnLocked() {
	switch {
	case i.timer == nil:
	case i.sandboxes == 0 && i.requests == 0:
		i.timer.Reset(i.after)
	default:
		i.timer.Stop()
	}
}

// watch counts the requests of h.
func (i *idleness) watch(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.addRequests(1)
		defer i.addRequests(-1)
		h.ServeHTTP(w, r)
	})
}

// stop lets go of the timer.
func (i *idleness) stop() {
	if i.timer != nil {
		i.timer.Stop()
	}
}
