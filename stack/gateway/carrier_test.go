package gateway

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// TestSharedFlows: while the process has several P, flows in both directions are shared by as many goroutines, everything arrives
// whole, and the goroutines end when there are fewer P again.
func TestSharedFlows(t *testing.T) {
	t.Parallel()
	const most, flows, size = 8, 24, 512 << 10
	var p atomic.Int32
	o := newOutside(t)
	w := newWorld(t, withDial(o.dial))
	w.gw.carriers.processors, w.gw.carriers.most = func() int { return int(p.Load()) }, most
	serving := func() int {
		carrier, err := w.gw.carriers.get()
		if err != nil {
			t.Fatal(err)
		}
		carrier.mu.Lock()
		defer carrier.mu.Unlock()
		return carrier.serving
	}
	round := func() {
		var all sync.WaitGroup
		for i := range flows {
			c, h := pair(t, w, o, outside4)
			for _, ends := range [][2]net.Conn{{c, h}, {h, c}} {
				data := bytes.Repeat([]byte{byte(i)}, size)
				all.Go(func() {
					if _, err := ends[0].Write(data); err != nil {
						t.Errorf("flow %d: write: %v", i, err)
					}
				})
				all.Go(func() {
					got := make([]byte, size)
					if _, err := io.ReadFull(ends[1], got); err != nil || !bytes.Equal(got, data) {
						t.Errorf("flow %d: bytes differ, or %v", i, err)
					}
				})
			}
		}
		all.Wait()
	}
	p.Store(1)
	if round(); serving() != 1 {
		t.Errorf("one P: %d goroutines serve", serving())
	}
	p.Store(most)
	for range 20 { // they are more when two flows have news at the same time
		if round(); serving() > 1 {
			break
		}
	}
	if n := serving(); n < 2 || n > most {
		t.Errorf("%d P: %d goroutines serve", most, n)
	}
	p.Store(1)
	// Those that are too many end when they have served once more.
	c, h := pair(t, w, o, outside4)
	waitFor(t, func() bool {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		readFull(t, h, "x")
		return serving() == 1
	})
}
