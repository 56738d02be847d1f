package ip

import (
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	count := func(l *Limiter, at time.Time, tries int) (n int) {
		for range tries {
			if l.Allow(at) {
				n++
			}
		}
		return n
	}
	var l Limiter
	if n := count(&l, t0, 1000); n != ErrorBurst {
		t.Errorf("burst of %d, want %d", n, ErrorBurst)
	}
	if n := count(&l, t0.Add(-time.Hour), 10); n != 0 {
		t.Errorf("%d when time goes back", n)
	}
	if n := count(&l, t0.Add(9*time.Millisecond), 10); n != 0 {
		t.Errorf("%d after 9 ms, want 0", n)
	}
	if n := count(&l, t0.Add(10*time.Millisecond), 10); n != 1 {
		t.Errorf("%d after 10 ms, want 1", n)
	}
	if n := count(&l, t0.Add(time.Hour), 1000); n != ErrorBurst {
		t.Errorf("%d after an hour, want %d", n, ErrorBurst)
	}
	// Uneven times lose nothing: 10 s at 100 a second.
	n := 0
	for at := time.Duration(0); at < 10*time.Second; at += 7 * time.Millisecond / 3 {
		n += count(&l, t0.Add(2*time.Hour+at), 3)
	}
	if want := 10*ErrorsPerSecond + ErrorBurst; n < want-1 || n > want {
		t.Errorf("%d in 10 s, want %d", n, want)
	}
	if n := count(NewLimiter(0, 0), t0, 5); n != 1 {
		t.Errorf("the least limiter allows %d at once", n)
	}
}
