package cnm

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// stale makes the sandbox's files something that its namespaces are to be told again.
func (b *box) stale() {
	b.op <- struct{}{}
	b.told.files = nil
	b.unlock()
	b.c.later(b.Sandbox)
}

// TestRetry: a container whose shim refuses for a while is up to date soon after, without another change.
func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := r.run(sandboxConf("c1", "bridge"))
		synctest.Wait()
		var refused, told atomic.Int32
		begin := time.Now()
		b.ns.Fail = func(method string) error {
			switch {
			case method != "SetFiles":
			case time.Since(begin) < 10*time.Minute:
				refused.Add(1)
				return errors.New("frozen")
			default:
				told.Add(1)
			}
			return nil
		}
		b.stale()
		<-time.After(12 * time.Minute)
		synctest.Wait()
		if told.Load() != 1 {
			t.Errorf("files written %d times after the thaw, want once", told.Load())
		}
		// 1, 2, 4 … 60 s, and then every minute.
		if n := refused.Load(); n < 10 || n > 17 {
			t.Errorf("%d tries in ten minutes", n)
		}
	})
}

// TestRetryUnanswered: a shim that does not answer is not sent more and more, and the end of its sandbox does not wait
// for the next try.
func TestRetryUnanswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := r.run(sandboxConf("c1", "bridge"))
		synctest.Wait()
		var asked atomic.Int32
		b.ns.Fail = func(string) error { asked.Add(1); return errShim }
		b.stale()
		<-time.After(24 * time.Hour)
		synctest.Wait()
		if n := asked.Load(); n != maxUnanswered {
			t.Errorf("asked %d times in a day, want %d", n, maxUnanswered)
		}
		b.stale()
		synctest.Wait()
		begin := time.Now()
		b.Close()
		if d := time.Since(begin); d != 0 || b.retrying {
			t.Errorf("closed after %v, one waits: %t", d, b.retrying)
		}
	})
}
