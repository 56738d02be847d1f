package gateway

import (
	"testing"
	"time"

	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/quota"
)

// TestHandshakes: per-owner and total bounds; the oldest gives way once it is old enough (HC-23).
func TestHandshakes(t *testing.T) {
	a, b := owner{mac: l2.MAC{2, 1}}, owner{mac: l2.MAC{2, 2}}
	now := time.Unix(0, 0)
	h := newHandshakes(3)
	h.now = func() time.Time { return now }
	var cancelled []int
	admit := func(o owner, id int) (*pending, bool) {
		return h.admit(o, 2, func() { cancelled = append(cancelled, id) })
	}
	admit(a, 1)
	p2, _ := admit(a, 2)
	if _, ok := admit(a, 3); ok {
		t.Fatal("third slot of an owner with two was admitted")
	}
	if _, ok := admit(b, 4); !ok {
		t.Fatal("another owner was refused")
	}
	if _, ok := admit(b, 5); ok {
		t.Fatal("admitted over the total")
	}
	now = now.Add(evictAfter)
	if _, ok := admit(a, 6); !ok || len(cancelled) != 1 || cancelled[0] != 1 {
		t.Fatalf("after %v: admitted %v, cancelled %v; want the oldest to give way", evictAfter, ok, cancelled)
	}
	h.done(p2)
	h.done(p2) // twice is harmless
	if h.inFlight() != 2 {
		t.Fatalf("in flight %d, want 2", h.inFlight())
	}
}

// HC-23, HC-32: where flooders side by side take all slots there are, others get theirs at once, from the
// flooders; and a flooder of another Network is one like any other.
func TestHC23HandshakesFull(t *testing.T) {
	h := newHandshakes(totalHandshakes)
	h.now = func() time.Time { return time.Unix(0, 0) }
	gave := make(map[byte]int)
	networks := []*Gateway{new(Gateway), new(Gateway)}
	admit := func(c byte) bool {
		_, ok := h.admit(owner{networks[c%2], l2.MAC{2, c}}, defaultHandshakes, func() { gave[c]++ })
		return ok
	}
	for range defaultHandshakes {
		for c := range byte(8) {
			if !admit(c) {
				t.Fatal("refused while there was room")
			}
		}
	}
	if h.inFlight() != totalHandshakes {
		t.Fatalf("%d slots are taken, want all %d", h.inFlight(), totalHandshakes)
	}
	for range 100 {
		if !admit(100) {
			t.Fatal("one that has nothing yet was refused for what others hold")
		}
	}
	if h.inFlight() != totalHandshakes {
		t.Errorf("%d slots are taken", h.inFlight())
	}
	for c := range byte(8) {
		if gave[c] < 100/8 || gave[c] > 100/8+1 {
			t.Errorf("flooder %d gave %d of 100", c, gave[c])
		}
	}
}

func TestBufferSize(t *testing.T) {
	for _, tc := range []struct {
		flows int
		want  int64
	}{{0, maxBuffer}, {1, maxBuffer}, {32, maxBuffer}, {64, maxBuffer / 2}, {4096, minBuffer}, {100000, minBuffer}} {
		if got := bufferSize(tc.flows); got != tc.want {
			t.Errorf("bufferSize(%d) = %d, want %d", tc.flows, got, tc.want)
		}
	}
}

// TestFlowCount: a container has its limit and all together have theirs, and the end of most of many flows is told
// once.
func TestFlowCount(t *testing.T) {
	a, b := l2.MAC{2, 1}, l2.MAC{2, 2}
	c := newFlowCount(quota.NewPool(1123).Share()) // of which one Network may have 1024
	for i := range 2 * trimFlows {
		owner := a
		if i >= trimFlows+1 {
			owner = b
		}
		if _, ok := c.add(owner, trimFlows+1); !ok {
			t.Fatalf("flow %d is over a limit", i)
		}
		if _, ok := c.add(a, trimFlows+1); ok && i >= trimFlows {
			t.Fatalf("container has more than its limit")
		} else if ok {
			c.done(a)
		}
	}
	if _, ok := c.add(b, trimFlows+1); ok {
		t.Error("all together have more than their limit")
	}
	var told []int
	for i := range 2 * trimFlows {
		owner := a
		if i >= trimFlows+1 {
			owner = b
		}
		if c.done(owner) {
			told = append(told, c.total())
		}
	}
	if len(told) != 1 || told[0] != trimFlows/2 {
		t.Errorf("trim with %v flows left, want once with %d", told, trimFlows/2)
	}
}
