package control

import "time"

// Limits of FT-20: a datapath that dies now and then is replaced at once, one that dies of what it
// is given does not eat a processor.
const (
	restartBurst  = 5
	restartWindow = time.Minute
	backoffFirst  = time.Second
	backoffMax    = 30 * time.Second
)

// restarts decides when the next datapath may start. The zero value has seen none.
type restarts struct {
	recent  []time.Time // starts within restartWindow, oldest first, restartBurst at most
	backoff time.Duration
}

// next says how long to wait at now before a restart, and counts it at the time it will happen.
func (r *restarts) next(now time.Time) time.Duration {
	for len(r.recent) > 0 && now.Sub(r.recent[0]) >= restartWindow {
		r.recent = r.recent[1:]
	}
	var wait time.Duration
	if len(r.recent) < restartBurst {
		r.backoff = 0
	} else {
		r.backoff = min(max(2*r.backoff, backoffFirst), backoffMax)
		wait = r.backoff
		r.recent = r.recent[1:]
	}
	r.recent = append(r.recent, now.Add(wait))
	return wait
}
