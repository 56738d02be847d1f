package control

import (
	"testing"
	"time"
)

// FT-20: five at once in a minute, then a pause that doubles, and again at once after a quiet minute.
func TestRestartsBackOff(t *testing.T) {
	var r restarts
	now := time.Unix(1000, 0)
	for i := range restartBurst {
		if w := r.next(now); w != 0 {
			t.Errorf("restart %d waits %v", i+1, w)
		}
	}
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		w := r.next(now)
		if w != want*time.Second {
			t.Errorf("restart %d waits %v, want %v s", restartBurst+i+1, w, want)
		}
		now = now.Add(w)
	}
	now = now.Add(restartWindow)
	if w := r.next(now); w != 0 {
		t.Errorf("after a quiet minute it waits %v", w)
	}
}

// One crash every 20 seconds is no storm.
func TestRestartsSlowly(t *testing.T) {
	var r restarts
	now := time.Unix(1000, 0)
	for range 100 {
		if w := r.next(now); w != 0 {
			t.Fatalf("waits %v", w)
		}
		now = now.Add(20 * time.Second)
	}
}
