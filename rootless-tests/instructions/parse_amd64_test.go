package instructions

import "testing"

func TestParseCount(t *testing.T) {
	const head = "==7== Cachegrind, a cache and branch-prediction profiler\nBenchmarkForward/strict \t 1000\t 43170 ns/op\nPASS\n==7== \n"
	for _, tc := range []struct {
		name, out string
		want      uint64 // 0: an error
	}{
		{"valgrind 3.19", head + "==7== I   refs:      52,068,039\n", 52068039},
		{"valgrind 3.22", head + "==7== I refs:        1,052,068,039\n", 1052068039},
		{"small", "==7== I   refs:      39\n", 39},
		{"no count", head, 0},
		{"another count", "==7== D   refs:      52,068,039\n", 0},
		{"two processes", "==7== I   refs:      1\n==8== I   refs:      2\n", 0},
		{"no digits", "==7== I   refs:      ,\n", 0},
		{"too large", "==7== I   refs:      99,999,999,999,999,999,999\n", 0},
		{"nothing", "", 0},
	} {
		got, err := parseCount(tc.out)
		if got != tc.want || (err == nil) != (tc.want > 0) {
			t.Errorf("%s: %d, %v, want %d", tc.name, got, err, tc.want)
		}
	}
}

func TestPerUnit(t *testing.T) {
	if got, err := perUnit(1000, 4200, 32); got != 100 || err != nil {
		t.Errorf("%v, %v, want 100", got, err)
	}
	for _, many := range []uint64{1000, 999} {
		if got, err := perUnit(1000, many, 32); err == nil {
			t.Errorf("%d and then %d: %v, want an error", 1000, many, got)
		}
	}
}
