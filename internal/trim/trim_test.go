package trim

import (
	"context"
	"maps"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// RX-11: memory is given back once after many have gone, not for a few and not while they go.
func TestTrim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 16
		ctx, cancel := context.WithCancel(t.Context())
		var freed atomic.Int32
		m := newTrimmer(many, func() { freed.Add(1) })
		go m.Run(ctx)
		defer synctest.Wait()
		defer cancel()
		for range many - 1 {
			m.Gone()
		}
		<-time.After(2 * delay)
		synctest.Wait()
		if freed.Load() != 0 {
			t.Fatal("for a few")
		}
		m.Gone()
		<-time.After(delay - time.Nanosecond)
		synctest.Wait()
		if freed.Load() != 0 {
			t.Fatal("at once")
		}
		<-time.After(time.Nanosecond)
		synctest.Wait()
		if n := freed.Load(); n != 1 {
			t.Fatalf("freed %d times", n)
		}
		for range 20 * many {
			m.Gone()
		}
		<-time.After(3 * delay)
		synctest.Wait()
		if n := freed.Load(); n < 2 || n > 3 {
			t.Fatalf("freed %d times", n)
		}
	})
}

// A map that has lost most of what was in it gives the room back, and keeps the rest.
func TestMap(t *testing.T) {
	m := make(map[int]int)
	for i := range 200_000 { // 4 MiB
		m[i] = i
	}
	for i := range 200_000 {
		if i >= 3 {
			delete(m, i)
		}
	}
	large := heap()
	m = Map(m)
	if small := heap(); small > large-(1<<20) {
		t.Errorf("%d bytes of heap before, %d after", large, small)
	}
	if !maps.Equal(m, map[int]int{0: 0, 1: 1, 2: 2}) {
		t.Errorf("it has %v", m)
	}
}

// heap is what is live.
func heap() uint64 {
	var st runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&st)
	return st.HeapAlloc
}

// Who knew those that have gone is asked to forget them before memory is given back.
func TestShrink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		asked := make(chan struct{}, 1)
		m := New(1, func() { asked <- struct{}{} })
		go m.Run(ctx)
		m.Gone()
		<-asked
		cancel()
		synctest.Wait()
	})
}
