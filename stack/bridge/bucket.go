package bridge

import (
	"sync"
	"time"
)

// bucket is the token bucket of one port's broadcasts. Time is passed in.
type bucket struct {
	mu sync.Mutex // innermost; held for a few instructions
	// +checklocks:mu
	tokens float64
	// +checklocks:mu
	last time.Time
}

// reset fills the bucket.
func (k *bucket) reset(now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tokens, k.last = BroadcastBurst, now
}

// take takes n tokens, or none and reports false. A frame of more segments than the bucket holds
// passes when the bucket is full, and empties it.
func (k *bucket) take(now time.Time, n int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d := now.Sub(k.last); d > 0 { // goroutines may come here in another order than they read the clock
		k.tokens = min(BroadcastBurst, k.tokens+d.Seconds()*BroadcastRate)
		k.last = now
	}
	cost := min(float64(n), BroadcastBurst)
	if k.tokens < cost {
		return false
	}
	k.tokens -= cost
	return true
}
