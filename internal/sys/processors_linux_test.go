package sys

import (
	"testing"
	"time"
)

// machine is what a process that has work for so many percent of a CPU gets, whatever P it has.
type machine struct {
	work  int // percent of a CPU there is to do
	quota int // percent of a CPU that others or a cgroup leave
}

// use is the CPU time of a process with n P. Not all of a P can be used.
func (m machine) use(n int) int { return min(98*n, m.work, m.quota) }

// run lets s look at m for some time and returns the P it had, how often each.
func (s *processorState) run(m machine, limit int, from, d time.Duration) (had map[int]int, last int) {
	had = make(map[int]int)
	last = max(1, s.n)
	for now := from; now < from+d; now += lookEvery {
		last = s.looked(now, m.use(last), limit)
		had[last]++
	}
	return had, last
}

// TestProcessorsFollowWork: there are as many P as there is work for, within the limit and what the machine gives.
func TestProcessorsFollowWork(t *testing.T) {
	for _, tc := range []struct {
		name  string
		m     machine
		limit int
		want  int
	}{
		{"idle", machine{0, 1600}, 16, 1},
		{"one is enough", machine{80, 1600}, 16, 1},
		{"three and a half", machine{350, 1600}, 16, 4},
		{"more than there are", machine{5000, 3200}, 16, 16},
		{"limit", machine{5000, 3200}, 2, 2},
		{"alone", machine{5000, 3200}, 1, 1},
		{"quota of one CPU", machine{5000, 100}, 16, 1},
		{"quota of two and a half", machine{5000, 250}, 16, 3},
		{"others have the rest", machine{5000, 195}, 16, 2},
	} {
		var s processorState
		had, _ := s.run(tc.m, tc.limit, 0, 10*time.Minute)
		most, looks := 0, 0
		for n, times := range had {
			if looks += times; times > had[most] {
				most = n
			}
			if n > tc.limit {
				t.Errorf("%s: %d P, at most %d allowed", tc.name, n, tc.limit)
			}
		}
		// A try that fails is seldom.
		if most != tc.want || had[most]*100 < looks*97 {
			t.Errorf("%s: %v, want %d nearly always", tc.name, had, tc.want)
		}
		if _, last := s.run(machine{0, 3200}, tc.limit, 10*time.Minute, time.Minute); last != 1 {
			t.Errorf("%s: %d P are left when there is nothing to do", tc.name, last)
		}
	}
}

// TestProcessorsAreOneByDefault: a process that has not said how many it may have stays as it is.
func TestProcessorsAreOneByDefault(t *testing.T) {
	for range 3 {
		Yield()
	}
	if n, most := Processors(), MostProcessors(); n != 1 || most != 1 || processors.watching {
		t.Errorf("%d P of %d, watched: %v", n, most, processors.watching)
	}
}
