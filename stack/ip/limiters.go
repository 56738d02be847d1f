package ip

import (
	"sync"
	"time"

	"github.com/usernet/usernet/stack/l2"
)

// limitersMax bounds Limiters. The switch knows no more stations, and one container is four of them at most, so
// a full table holds stations that have gone. It is started anew then, which gives everybody a fresh burst.
const limitersMax = 8192

// Limiters is a Limiter for each container, told by its link address, which the switch vouches for: a
// container that makes up addresses has one all the same. It is safe for concurrent use.
type Limiters struct {
	perSecond, burst int

	mu   sync.Mutex
	each map[l2.MAC]*Limiter // guarded by mu
}

// NewLimiters makes Limiters of perSecond events a second, at most burst at once.
func NewLimiters(perSecond, burst int) *Limiters {
	return &Limiters{perSecond: perSecond, burst: burst}
}

// Allow takes a token of the container's and reports whether there was one.
func (l *Limiters) Allow(now time.Time, container l2.MAC) bool { return l.of(container).Allow(now) }

func (l *Limiters) of(container l2.MAC) *Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.each[container]
	if one == nil {
		if l.each == nil || len(l.each) >= limitersMax {
			l.each = make(map[l2.MAC]*Limiter)
		}
		one = NewLimiter(l.perSecond, l.burst)
		l.each[container] = one
	}
	return one
}
