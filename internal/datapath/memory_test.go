package datapath

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// RX-11: the heap of many Networks is not allowed the multiple that few may have, in few steps.
func TestPercent(t *testing.T) {
	for networks, want := range map[int]int{0: 400, 1: 400, 16: 400, 17: 250, 32: 250, 33: 175, 1000: 104, 100_000: 100} {
		if got := percentFor(networks); got != want {
			t.Errorf("%d networks: %d %%, want %d", networks, got, want)
		}
	}
	steps := 0
	m := newMemory()
	m.setPercent = func(p int) int { steps++; return p }
	for n := range 1000 {
		m.added(n + 1)
	}
	for n := range 1000 {
		m.removed(999 - n)
	}
	if steps != 12 || m.percent != gcPercent {
		t.Errorf("%d steps, %d %% at the end", steps, m.percent)
	}
}

// RX-11: memory is given back once after many have gone, not for a few and not while they go.
func TestTrim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var freed atomic.Int32
		m := newMemory()
		m.setPercent, m.free = func(p int) int { return p }, func() { freed.Add(1) }
		go m.run(ctx)
		defer synctest.Wait()
		defer cancel()
		for range trimNetworks - 1 {
			m.removed(1)
		}
		<-time.After(2 * trimDelay)
		synctest.Wait()
		if freed.Load() != 0 {
			t.Fatal("for a few")
		}
		m.removed(1)
		<-time.After(trimDelay - time.Nanosecond)
		synctest.Wait()
		if freed.Load() != 0 {
			t.Fatal("at once")
		}
		<-time.After(time.Nanosecond)
		synctest.Wait()
		if n := freed.Load(); n != 1 {
			t.Fatalf("freed %d times", n)
		}
		for range 20 * trimNetworks {
			m.removed(1)
		}
		<-time.After(3 * trimDelay)
		synctest.Wait()
		if n := freed.Load(); n < 2 || n > 3 {
			t.Fatalf("freed %d times", n)
		}
	})
}
