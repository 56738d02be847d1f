package sys

import (
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// RX-16: goroutines that always have work, and let others run by Yield alone, do not keep those waiting that wait for a
// descriptor: they run after each has had a few turns. By runtime.Gosched alone it is thousands.
func TestRX16YieldLooksAtTheNetwork(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	var turns atomic.Int64
	var stop atomic.Bool
	var busy sync.WaitGroup
	for range 3 {
		busy.Go(func() {
			for !stop.Load() {
				turns.Add(1)
				Yield()
			}
		})
	}
	var waited []int64
	answers := make(chan struct{})
	asked := int64(0)
	busy.Go(func() {
		b := make([]byte, 1)
		for {
			if _, err := r.Read(b); err != nil || b[0] == 0 {
				return
			}
			waited = append(waited, turns.Load()-atomic.LoadInt64(&asked))
			answers <- struct{}{}
		}
	})
	for range 100 {
		Yield() // the reader waits again
		atomic.StoreInt64(&asked, turns.Load())
		if _, err := w.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		<-answers
	}
	if _, err := w.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	stop.Store(true)
	busy.Wait()
	// The median, because a thread that a busy machine stops in the middle of a turn loses that one.
	slices.Sort(waited)
	if median := waited[len(waited)/2]; median > 30 {
		t.Errorf("whoever waits for a descriptor came to run after %d turns of others: %d", median, waited)
	}
}

// Yield allocates nothing.
func TestYieldAllocates(t *testing.T) {
	Yield()
	if n := testing.AllocsPerRun(100, Yield); n > 0 && !raceDetector {
		t.Errorf("%v allocations", n)
	}
}
