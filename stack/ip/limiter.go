package ip

import (
	"sync"
	"time"
)

// Defaults of a Limiter: ICMP errors to one container. The burst is that of Linux (icmp_msgs_burst);
// a traceroute that sends three probes to each of 16 hops at once fits into it.
const (
	ErrorsPerSecond = 100
	ErrorBurst      = 50
)

// Limiter is a token bucket. Each container has its own, for one that is shared tells a container
// what the others do (the side channel of CVE-2020-25705). The zero value allows ErrorsPerSecond
// and ErrorBurst. It is safe for concurrent use.
type Limiter struct {
	interval time.Duration // between tokens; zero means the defaults
	burst    int

	mu     sync.Mutex
	tokens int
	last   time.Time // when tokens was right
}

// NewLimiter makes a Limiter of perSecond events a second, at most burst at once. Both are at least 1.
func NewLimiter(perSecond, burst int) *Limiter {
	return &Limiter{interval: time.Second / time.Duration(max(1, perSecond)), burst: max(1, burst)}
}

// Allow takes a token and reports whether there was one. now never goes back, or does no harm if it does.
func (l *Limiter) Allow(now time.Time) bool {
	interval, burst := l.interval, l.burst
	if interval == 0 {
		interval, burst = time.Second/ErrorsPerSecond, ErrorBurst
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last.IsZero() {
		l.tokens, l.last = burst, now
	}
	if n := int64(now.Sub(l.last) / interval); n > 0 {
		l.tokens = int(min(int64(burst), int64(l.tokens)+n))
		l.last = l.last.Add(time.Duration(n) * interval)
	}
	if l.tokens == 0 {
		return false
	}
	l.tokens--
	return true
}
