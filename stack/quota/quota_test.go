package quota

import (
	"testing"

	"pgregory.net/rapid"
)

// takeAll takes until the Pool refuses and returns how many it got.
func takeAll(s *Share) (n int) {
	for {
		if _, ok := s.Take(); !ok {
			return n
		}
		n++
	}
}

// RX-06, HC-32: one Network gets nearly all, several share, and the next one always finds something.
func TestRX06Shares(t *testing.T) {
	p := NewPool(36864)
	// 16/17 of what is not kept, then of what is left; and of what is kept a 512th of the whole each.
	for n, want := range []int{33611, 1977, 116, 72, 72, 72, 72, 72, 72, 72} {
		if got := takeAll(p.Share()); got < want || got > want+want/10+1 {
			t.Errorf("holder %d got %d, want about %d", n, got, want)
		}
	}
	// Side by side they get the same.
	p = NewPool(17032) // of which 532 are kept
	a, b := p.Share(), p.Share()
	for more := true; more; {
		_, okA := a.Take()
		_, okB := b.Take()
		more = okA || okB
	}
	if a.Held() != 8000 || b.Held() != 8000 {
		t.Errorf("two holders have %d and %d of 16500, want 8000 each", a.Held(), b.Held())
	}
}

func TestSmallPools(t *testing.T) {
	for total := 1; total < 20; total++ {
		s := NewPool(total).Share()
		if got := takeAll(s); got < max(1, total*7/8) || got > total {
			t.Errorf("of %d one holder gets %d", total, got)
		}
	}
	if got := (*Pool)(nil).Share(); func() bool { _, ok := got.Take(); return !ok }() {
		t.Error("a Share of no Pool has a bound")
	}
}

// A slow twin counts; no more is out than there is, and what was refused was over the rule.
func TestPoolModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.IntRange(1, 1200).Draw(t, "total")
		p := NewPool(total)
		shares := []*Share{p.Share(), p.Share(), p.Share()}
		held := make([]int, len(shares))
		for range rapid.IntRange(1, 2000).Draw(t, "steps") {
			i := rapid.IntRange(0, len(shares)-1).Draw(t, "holder")
			used := held[0] + held[1] + held[2]
			if held[i] > 0 && rapid.IntRange(0, 9).Draw(t, "give") == 0 {
				shares[i].Give()
				held[i]--
				continue
			}
			want := used < total && (held[i] < max(1, total/512) || held[i] < weight*(total-used-total/32))
			all, ok := shares[i].Take()
			if ok != want {
				t.Fatalf("take with %d held, %d of %d used: %v", held[i], used, total, ok)
			}
			if ok {
				held[i]++
				used++
			}
			if all != used || p.Used() != used || shares[i].Held() != held[i] {
				t.Fatalf("says %d used, %d held; want %d, %d", p.Used(), shares[i].Held(), used, held[i])
			}
		}
	})
}
