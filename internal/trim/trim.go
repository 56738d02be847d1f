// Package trim gives memory back to the host when much that used it has gone.
//
// # Theory of operation
//
// The Go runtime collects when the heap grows. So what a thousand Networks or sandboxes leave behind stays in the process
// until others come, which may be never. A Trimmer counts what goes; when it was worth a collection, it waits until
// the rest has ended too, collects, and returns what is free. It costs nothing while nothing goes.
package trim

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// Delay lets the rest of what goes together end.
const Delay = 5 * time.Second

// Trimmer counts what goes. Its methods may be called from any goroutine.
type Trimmer struct {
	many int64
	gone atomic.Int64
	wake chan struct{} // of one element
	free func()
}

// New makes a Trimmer for things of which many are worth a collection.
func New(many int) *Trimmer { return newTrimmer(many, giveBack) }

func newTrimmer(many int, free func()) *Trimmer {
	return &Trimmer{many: int64(many), wake: make(chan struct{}, 1), free: free}
}

// giveBack returns to the host what is not used.
func giveBack() {
	// What has a finalizer (every socket) or lies in a pool is freed by the second collection.
	runtime.GC()
	debug.FreeOSMemory()
}

// Gone is told that one has gone.
func (t *Trimmer) Gone() {
	if t.gone.Add(1) < t.many {
		return
	}
	t.gone.Store(0)
	select {
	case t.wake <- struct{}{}:
	default: // one is on its way
	}
}

// Run gives memory back when many have gone, until ctx ends.
func (t *Trimmer) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		}
		delay := time.NewTimer(Delay)
		select {
		case <-ctx.Done():
			delay.Stop()
			return
		case <-delay.C:
			t.free()
		}
	}
}
