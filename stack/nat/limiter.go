package nat

import (
	"hash/maphash"
	"time"

	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
)

// limiters is an ip.Limiter per container. Containers are hashed into a fixed number of them, so a
// container that makes up addresses finds no memory to fill, even before it has a flow to be charged
// with. Two containers that share one share its rate; the keyed hash leaves to chance which do.
type limiters struct {
	seed maphash.Seed
	each [256]*ip.Limiter
}

func newLimiters(perSecond, burst int) *limiters {
	l := &limiters{seed: maphash.MakeSeed()}
	for i := range l.each {
		l.each[i] = ip.NewLimiter(perSecond, burst)
	}
	return l
}

func (l *limiters) allow(now time.Time, container l2.MAC) bool {
	return l.each[maphash.Comparable(l.seed, container)%uint64(len(l.each))].Allow(now)
}
