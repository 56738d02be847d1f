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
	"maps"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// delay lets the rest of what goes together end.
const delay = 5 * time.Second

// Trimmer counts what goes. Its methods may be called from any goroutine.
type Trimmer struct {
	many int64
	gone atomic.Int64
	wake chan struct{} // of one element
	free func()
}

// New makes a Trimmer for things of which many are worth a collection. Before it, shrink is called, which may be nil, on the
// goroutine of Run: there whoever knew those that have gone lets go of the room they took.
func New(many int, shrink func()) *Trimmer {
	return newTrimmer(many, func() {
		if shrink != nil {
			shrink()
		}
		giveBack()
	})
}

func newTrimmer(many int, free func()) *Trimmer {
	return &Trimmer{many: int64(many), wake: make(chan struct{}, 1), free: free}
}

// giveBack returns to the host what is not used.
func giveBack() {
	// What has a finalizer (every socket) or lies in a pool is freed by the second collection.
	runtime.GC()
	debug.FreeOSMemory()
}

// Map returns m in a map that is no larger than what is in it, for a map does not shrink as things are deleted from it.
func Map[M ~map[K]V, K comparable, V any](m M) M {
	small := make(M, len(m)) // maps.Clone would be as large as m
	maps.Copy(small, m)
	return small
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
		timer := time.NewTimer(delay)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
			t.free()
		}
	}
}
