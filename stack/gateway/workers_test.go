package gateway

import (
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// workerRig are workers whose work is to wait until they may go on.
type workerRig struct {
	*synWorkers
	t    *testing.T
	goOn chan struct{}
}

func newWorkerRig(t *testing.T) *workerRig {
	g, err := New(Config{Spec: testNet, Policy: mustPolicy(t, testNet)})
	if err != nil {
		t.Fatal(err)
	}
	return &workerRig{synWorkers: &g.workers, t: t, goOn: make(chan struct{})}
}

// start has n more of them look for work.
func (w *workerRig) start(n int) {
	for range n {
		w.g.wg.Go(func() {
			for w.next() != nil {
				<-w.goOn
			}
		})
	}
}

// give gives n of them work.
func (w *workerRig) give(n int) {
	for range n {
		w.requests <- new(tcp.ForwarderRequest)
	}
}

// finish lets n of them go on.
func (w *workerRig) finish(n int) {
	for range n {
		w.goOn <- struct{}{}
	}
}

func (w *workerRig) wantIdle(n int32) {
	w.t.Helper()
	synctest.Wait()
	if got := w.idle.Load(); got != n {
		w.t.Errorf("%d workers are idle, want %d", got, n)
	}
}

// TestIdleWorkersEnd: workers that were not needed for a while end, those that were stay, and with the last one the timer.
func TestIdleWorkersEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorkerRig(t)
		defer w.g.Close()
		w.start(idleWorkers + 4)
		w.wantIdle(idleWorkers)
		<-time.After(idleWorkerTime * 3 / 2) // in the middle between two looks; at the first set there was one idle
		w.give(3)
		w.wantIdle(idleWorkers - 1 - 3)
		w.finish(3)
		w.wantIdle(idleWorkers - 1)
		<-time.After(idleWorkerTime)
		w.wantIdle(3)
		for range 10 {
			<-time.After(idleWorkerTime / 4)
			w.give(1)
			w.finish(1)
		}
		w.wantIdle(1)
		<-time.After(2 * idleWorkerTime)
		w.wantIdle(0)
		if w.looking.Load() || w.timer.Stop() {
			t.Error("with nobody idle there is still a timer")
		}
		w.start(1)
		w.wantIdle(1)
		<-time.After(2 * idleWorkerTime)
		w.wantIdle(0)
	})
}

// TestCloseEndsWorkers: a gateway that closes waits for no idle worker, and nothing is left of them.
func TestCloseEndsWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorkerRig(t)
		w.start(2)
		w.wantIdle(2)
		w.g.Close()
		if w.timer.Stop() {
			t.Error("a timer is left")
		}
	})
}

// TestSYNWorkers: goroutines that have handled a SYN handle the next ones, and no more of them stay than may.
func TestSYNWorkers(t *testing.T) {
	o := newOutside(t)
	b := newBench(t, withDial(o.dial))
	b.gw.workers.looking.Store(true) // as if somebody looked: none ends in this test, however long it takes
	const at = 2 * idleWorkers
	var all [at]*client
	for i := range all { // all wait for their ACK at once
		all[i] = b.newClient(uint16(1000 + i))
		all[i].syn()
		o.accept(t)
	}
	if n := b.gw.workers.idle.Load(); n != 0 {
		t.Errorf("%d workers are idle while all wait", n)
	}
	for i := range all {
		all[i].send(0x10, nil)
	}
	waitFor(t, func() bool { return b.gw.handshakes.inFlight() == 0 && b.gw.workers.idle.Load() == idleWorkers })
	for i := range 3 * at {
		c := b.newClient(uint16(2000 + i))
		c.open(o)
		waitFor(t, func() bool { return b.gw.workers.idle.Load() == idleWorkers })
	}
	last := b.newClient(3000)
	last.syn() // and waits for its ACK, on a goroutine that was there
	o.accept(t)
	if n := b.gw.workers.idle.Load(); n != idleWorkers-1 {
		t.Errorf("%d workers are idle while one connection begins, want %d", n, idleWorkers-1)
	}
}
