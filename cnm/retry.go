package cnm

import (
	"context"
	"errors"
	"time"
)

// Trying again to bring a sandbox up to date.
//
// What is told in the background and fails would stay untold until the next change: the files and routes of a
// container that was frozen for a minute, for good. So a failure is followed by another try, after a pause that doubles. A
// failure that the shim reports may be followed by any number of tries. A shim that does not answer still has
// what it was sent, and does it in order when it goes on; more of the same would only fill its socket, whose end is
// the sandbox's. So those tries are few.

const (
	firstRetry = time.Second
	maxRetry   = time.Minute
	// maxUnanswered bounds the tries in a row that a shim leaves unanswered.
	maxUnanswered = 5
)

// retries is how often a sandbox could not be brought up to date in a row; guarded by op.
type retries struct {
	pause      time.Duration // the next; 0 after a success
	unanswered int
}

// next takes the outcome of a try and returns how long to wait for the next, 0 for not trying again.
func (r *retries) next(err error) time.Duration {
	if err == nil {
		*r = retries{}
		return 0
	}
	if errors.Is(err, errShim) || errors.Is(err, context.DeadlineExceeded) {
		r.unanswered++
	} else {
		r.unanswered = 0
	}
	if r.unanswered >= maxUnanswered {
		*r = retries{} // the next change has all its tries
		return 0
	}
	r.pause = min(max(firstRetry, 2*r.pause), maxRetry)
	return r.pause
}

// again has the sandbox brought in line after a pause. The goroutine that waits ends with the sandbox, whose Close
// waits for it, and with the Controller.
func (sb *Sandbox) again(pause time.Duration) {
	c := sb.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if sb.retrying || sb.state == closed || c.closing {
		return
	}
	sb.retrying = true
	sb.waits.Add(1)
	c.wg.Go(func() {
		defer sb.waits.Done()
		timer := time.NewTimer(pause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-sb.ctx.Done():
		case <-c.ctx.Done():
		}
		c.mu.Lock()
		sb.retrying = false
		c.mu.Unlock()
		if sb.ctx.Err() == nil {
			c.later(sb)
		}
	})
}
