package datapath

import "testing"

// RX-11: the heap of many Networks is not allowed the multiple that few may have, in few steps.
func TestPercent(t *testing.T) {
	for networks, want := range map[int]int{0: 400, 1: 400, 16: 400, 17: 250, 32: 250, 33: 175, 1000: 104, 100_000: 100} {
		if got := percentFor(networks); got != want {
			t.Errorf("%d networks: %d %%, want %d", networks, got, want)
		}
	}
	steps := 0
	m := newMemory()
	m.setPercent = func(p int) int { steps++; return p }
	for n := range 1000 {
		m.added(n + 1)
	}
	for n := range 1000 {
		m.removed(999 - n)
	}
	if steps != 12 || m.percent != gcPercent {
		t.Errorf("%d steps, %d %% at the end", steps, m.percent)
	}
}
