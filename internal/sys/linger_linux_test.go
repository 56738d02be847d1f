package sys

import (
	"testing"
	"time"
)

// TestLingerState: small packets that follow each other closely are lingered for, others are not.
func TestLingerState(t *testing.T) {
	const near, late = lingerFor / 2, 2 * lingerFor
	for _, tc := range []struct {
		name string
		gap  time.Duration
		n    int
		want bool
	}{
		{"requests and answers", near, 1, true},
		{"now and then", late, 1, false},
		{"a stream", near, 64 << 10, false},
	} {
		var s lingerState
		now, began := time.Duration(0), false
		for range 100 {
			now += tc.gap
			began = s.handled(now, tc.n) || began
		}
		if began != tc.want {
			t.Errorf("%s: lingers %v, want %v", tc.name, began, tc.want)
		}
	}
}

// TestLingerEnds: what ends lingering, and for how long.
func TestLingerEnds(t *testing.T) {
	for _, tc := range []struct {
		name  string
		away  time.Duration // how long others had the CPU
		quiet time.Duration // since the last packet, on top of that
		n     int           // a last packet of that size, 0 for none
		ends  bool
		pause time.Duration
	}{
		{name: "a packet just came", away: time.Microsecond},
		{name: "nothing came", quiet: lingerFor + 1, ends: true},
		{name: "a stream begins", n: 64 << 10, ends: true},
		{name: "others want the CPU", away: wantedAfter + 1, ends: true, pause: wantedPause},
		{name: "there is a limit on CPU time", away: limitedAfter + 1, ends: true, pause: limitedPause},
	} {
		var s lingerState
		now := time.Second
		s.last = now
		for !s.handled(now, 1) {
		}
		if tc.n > 0 {
			s.handled(now, tc.n)
		}
		before := now + tc.quiet
		now = before + tc.away
		if more := s.looked(before, now); more == tc.ends {
			t.Errorf("%s: goes on: %v", tc.name, more)
		}
		if tc.pause == 0 {
			continue
		}
		s.last = now
		if s.handled(now+tc.pause-1, 1); s.on {
			t.Errorf("%s: lingers again before its time", tc.name)
		}
		s.credit = creditMost
		if !s.handled(now+tc.pause, 1) {
			t.Errorf("%s: does not linger again", tc.name)
		}
	}
}

// TestLingerNear: where every answer is there at the first look, nobody is waited for, and there is no lingering.
func TestLingerNear(t *testing.T) {
	for _, tc := range []struct {
		name  string
		looks []int // before each find, in turns
		ends  bool
	}{
		{"all on one CPU", []int{1}, true},
		{"found several at once", []int{1, 0}, true},
		{"client here, server elsewhere", []int{1, 13}, false},
		{"both elsewhere", []int{13}, false},
	} {
		var s lingerState
		now := time.Second
		s.last = now
		for !s.handled(now, 1) {
		}
		more := true
		for i := 0; i < 10*nearFinds && more; i++ {
			for range tc.looks[i%len(tc.looks)] {
				before := now
				now += time.Microsecond
				more = s.looked(before, now) && more
			}
			if more {
				s.handled(now, 1)
			}
		}
		if more == tc.ends {
			t.Errorf("%s: goes on: %v", tc.name, more)
		}
		if !tc.ends {
			continue
		}
		if s.handled(s.pause-1, 1) {
			t.Errorf("%s: lingers again before its time", tc.name)
		}
		if !s.handled(s.pause, 1) {
			t.Errorf("%s: does not linger again", tc.name)
		}
	}
}

// TestLinger: lingering ends by itself when nothing comes.
func TestLinger(t *testing.T) {
	for range 10 * creditStart {
		Linger(1)
	}
	for on := true; on; Yield() {
		lingering.mu.Lock()
		on = lingering.state.on
		lingering.mu.Unlock()
	}
}
