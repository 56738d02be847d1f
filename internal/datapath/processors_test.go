package datapath

import "testing"

// TestProcessorsFor: a machine's half, and never none.
func TestProcessorsFor(t *testing.T) {
	for cpus, want := range map[int]int{1: 1, 2: 1, 3: 1, 4: 2, 8: 4, 32: 16, 256: 16} {
		if got := processorsFor(cpus); got != want {
			t.Errorf("%d CPUs: %d P, want %d", cpus, got, want)
		}
	}
}
