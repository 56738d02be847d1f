//go:build !race

// The race detector makes sync.Pool forget at random, so there is nothing to count under it.

package nat

import (
	"fmt"
	"testing"
)

// The way of a datagram allocates nothing, out and back.
func TestUDPDoesNotAllocate(t *testing.T) {
	n := testNetwork()
	c := &counter{wake: make(chan struct{}, 1)}
	u := NewUDP(Env{Emit: c}, mustPolicy(t, n, nil), n)
	defer u.Close()
	to := startEcho(t)
	for _, row := range []struct {
		name string
		d    datagram
	}{
		{"small", datagram{payload: pattern(100)}},
		{"large", datagram{payload: pattern(8000)}},
		{"train", datagram{payload: pattern(8000), segment: 1000}},
		{"ttl and tos", datagram{payload: pattern(100), ttl: 9, tos: 4}},
	} {
		row.d.from, row.d.to = a1, fmt.Sprintf("10.0.2.2:%d", to.Port())
		p := row.d.packet(t)
		replies := int64(1)
		if row.d.segment > 0 {
			replies = 8
		}
		once := func() {
			want := c.n.Load() + replies
			u.Input(p)
			u.Flush()
			for c.n.Load() < want {
				<-c.wake
			}
		}
		once()
		if got := testing.AllocsPerRun(200, once); got != 0 {
			t.Errorf("%s: %v allocations", row.name, got)
		}
	}
}
