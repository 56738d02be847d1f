package trim

import (
	"context"
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
		<-time.After(2 * Delay)
		synctest.Wait()
		if freed.Load() != 0 {
			t.Fatal("for a few")
		}
		m.Gone()
		<-time.After(Delay - time.Nanosecond)
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
		<-time.After(3 * Delay)
		synctest.Wait()
		if n := freed.Load(); n < 2 || n > 3 {
			t.Fatalf("freed %d times", n)
		}
	})
}
