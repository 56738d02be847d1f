package gateway

import (
	"net/netip"
	"testing"
	"time"
)

// TestHandshakes: per-owner and total bounds; the oldest gives way once it is old enough (HC-23).
func TestHandshakes(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	now := time.Unix(0, 0)
	h := newHandshakes(2, 3)
	var cancelled []int
	admit := func(owner netip.Addr, id int) (*pending, bool) {
		return h.admit(now, owner, func() { cancelled = append(cancelled, id) })
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
	h.cancelAll()
	if len(cancelled) != 3 {
		t.Fatalf("cancelAll reached %v", cancelled)
	}
}

func TestBufferSize(t *testing.T) {
	for _, tc := range []struct {
		flows int
		want  int64
	}{{0, maxBuffer}, {1, maxBuffer}, {256, maxBuffer}, {512, maxBuffer / 2}, {4096, minBuffer}, {100000, minBuffer}} {
		if got := bufferSize(tc.flows); got != tc.want {
			t.Errorf("bufferSize(%d) = %d, want %d", tc.flows, got, tc.want)
		}
	}
}

// TestFlowCount: a container has its limit and all together have theirs, and the end of most of many flows is told
// once.
func TestFlowCount(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.2.100"), netip.MustParseAddr("10.0.2.101")
	c := flowCount{n: map[netip.Addr]int{}, most: 2 * trimFlows}
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
