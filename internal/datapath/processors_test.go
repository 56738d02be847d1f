package datapath

import (
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestProcessorsFor: a machine's half, and never none.
func TestProcessorsFor(t *testing.T) {
	for cpus, want := range map[int]int{1: 1, 2: 1, 3: 1, 4: 2, 8: 4, 32: 16, 256: 16} {
		if got := processorsFor(cpus); got != want {
			t.Errorf("%d CPUs: %d P, want %d", cpus, got, want)
		}
	}
}

// TestProcessorsAreTold: the datapath, which sees neither CPUs nor cgroups, is told how many P it may have, where that is more than one.
func TestProcessorsAreTold(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8))
	if f := (Config{}).flags(); !slices.Contains(f, "--processors=4") {
		t.Errorf("8 CPUs: %v", f)
	}
	runtime.GOMAXPROCS(2)
	if f := (Config{}).flags(); slices.ContainsFunc(f, func(a string) bool { return strings.HasPrefix(a, "--processors") }) {
		t.Errorf("2 CPUs: %v", f)
	}
}
