package portfwd

import (
	"context"
	"time"
)

// The steps of a backoff (RX-07): 5 ms costs a client nothing it would notice, and at 1 s a process
// out of file descriptors uses no measurable CPU while it waits for one.
const (
	backoffMin = 5 * time.Millisecond
	backoffMax = time.Second
)

// backoff spaces out the tries of a loop whose system call fails for a reason that will pass.
type backoff struct{ last time.Duration }

// wait sleeps for twice as long as the last time and reports false when ctx ended first.
func (b *backoff) wait(ctx context.Context) bool {
	b.last = min(max(2*b.last, backoffMin), backoffMax)
	t := time.NewTimer(b.last)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// active reports whether the last try failed.
func (b *backoff) active() bool { return b.last != 0 }

// reset forgets failures.
func (b *backoff) reset() { b.last = 0 }
