package gateway

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// TestSharedFlows: while the process has several P, flows in both directions are shared by as many goroutines, everything arrives
// whole, and the goroutines end when there are fewer P again.
func TestSharedFlows(t *testing.T) {
	t.Parallel()
	const most, flows, size = 8, 24, 512 << 10
	var p atomic.Int32
	p.Store(1)
	o := newOutside(t)
	w := newWorld(t, withDial(o.dial))
	w.gw.carriers.processors, w.gw.carriers.most = func() int { return int(p.Load()) }, most
	carrier, err := w.gw.carriers.get()
	if err != nil {
		t.Fatal(err)
	}
	serving := func() int {
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
	if round(); serving() != 1 {
		t.Errorf("one P: %d goroutines serve", serving())
	}
	p.Store(most)
	round()
	waitFor(t, func() bool {
		kept, other := carrier.two(t)
		// Whoever serves the first is kept by its endpoint's lock, so somebody else has to serve the second.
		ep := kept.ep.(*tcp.Endpoint)
		ep.LockUser()
		defer ep.UnlockUser()
		carrier.ready(kept, newsContainerData)
		carrier.ready(other, newsContainerData)
		return serving() > 1
	})
	if n := serving(); n > most {
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

// two are any flows of the carrier.
func (c *carrier) two(t *testing.T) (one, other *flow) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.flows {
		if one != nil {
			return one, f
		}
		one = f
	}
	t.Fatalf("%d flows, want two", len(c.flows))
	return nil, nil
}
