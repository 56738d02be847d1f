package gateway

import (
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/usernet/usernet/stack/spec"
)

// TestGiveUp: whoever waits for an ACK is told that it is in vain until it has heard, however many say so; who does not wait any more is
// not told.
func TestGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := New(Config{Spec: testNet, Policy: mustPolicy(t, testNet)})
		if err != nil {
			t.Fatal(err)
		}
		a := &attempt{g: g, state: answering, wq: new(waiter.Queue)}
		entry, told := waiter.NewChannelEntry(waiter.WritableEvents)
		a.wq.EventRegister(&entry)
		g.answers.add(&a.elder, a)
		g.enter() // as its worker has
		a.giveUp()
		a.giveUp()
		for range 3 {
			<-told
		}
		a.over()
		g.wg.Done()
		g.Close()
		select {
		case <-told: // on its way when it was over
		default:
		}
		late := &attempt{g: g, state: attemptOver}
		late.giveUp()
		synctest.Wait()
		if len(told) != 0 || g.answers.first != nil {
			t.Error("told after it was over")
		}
	})
}

// TestEvictedWhileAnswering: an attempt whose slot is taken away gives its host socket back, although the container never ends it.
func TestEvictedWhileAnswering(t *testing.T) {
	o := newOutside(t)
	b := newBench(t, withDial(o.dial), func(c *Config) { c.Spec.Limits = spec.Limits{TCPHandshakes: 1} })
	clock := stopClock(b)
	b.send(synPacket(container4, ap(outside4), 1000))
	squatter := o.accept(t)
	b.next("SYN-ACK to the squatter", func(p segment) bool { return p.Dst.Port() == 1000 })
	clock.advance(evictAfter)
	b.send(synPacket(container4, ap(outside4), 1001))
	o.accept(t)
	squatter.SetDeadline(time.Now().Add(packetWait))
	if _, err := squatter.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the squatter's socket: %v, want its end", err)
	}
	waitFor(t, func() bool { return b.gw.Flows() == 1 && b.gw.handshakes.inFlight() == 1 })
}
