package rig

import (
	"testing"
	"time"
)

// Busy is how much longer than a requirement says something may take in a test: tests run beside each other, on whatever
// machine there is. How long it takes on a quiet one is the bench's to say; a test is to show what waits for a time-out,
// or for ever.
const Busy = 10

// WaitFor polls until ok says true, and fails the test when that takes longer than limit, Busy times. It is the one
// place where a test waits for something that does not announce itself.
func WaitFor(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	if !Eventually(t, limit, ok) {
		t.Fatalf("%s: not within %v", what, limit)
	}
}

// Eventually polls until ok says true and reports whether that came within limit, Busy times.
func Eventually(t testing.TB, limit time.Duration, ok func() bool) bool {
	t.Helper()
	deadline := time.NewTimer(Busy * limit)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok() {
			return true
		}
		select {
		case <-deadline.C:
			return ok()
		case <-tick.C:
		case <-t.Context().Done():
			return ok()
		}
	}
}
