package ip

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/usernet/usernet/stack/l2"
)

// HC-32: what one container uses up no other can tell, whoever they are.
func TestHC32LimitersApart(t *testing.T) {
	l := NewLimiters(1, 3)
	now := time.Unix(0, 0)
	mac := func(i int) (m l2.MAC) {
		m[0] = 2
		binary.BigEndian.PutUint32(m[2:], uint32(i))
		return m
	}
	for range 10 {
		l.Allow(now, mac(0))
	}
	if l.Allow(now, mac(0)) {
		t.Error("a container has no limit")
	}
	for i := 1; i < 2000; i++ {
		for n := range 3 {
			if !l.Allow(now, mac(i)) {
				t.Fatalf("container %d is refused its event %d for what another did", i, n+1)
			}
		}
	}
}

// However many stations there were, the table stays bounded.
func TestLimitersBounded(t *testing.T) {
	l := NewLimiters(1, 1)
	var m l2.MAC
	for i := range 2*limitersMax + 10 {
		binary.BigEndian.PutUint32(m[2:], uint32(i))
		if l.of(m); len(l.each) > limitersMax {
			t.Fatalf("%d limits, at most %d wanted", len(l.each), limitersMax)
		}
	}
	if first := l.of(m); l.of(m) != first {
		t.Error("a container has two limits")
	}
}
