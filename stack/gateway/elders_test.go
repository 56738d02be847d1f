package gateway

import (
	"errors"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// aging notes that it was told, and when.
type aging struct {
	elder elder
	at    []time.Duration
	start time.Time
}

func (a *aging) aged() { a.at = append(a.at, time.Since(a.start)) }

func newElders(age time.Duration) *elders { return &elders{g: new(Gateway), age: age} }

// TestElders: each is told once, at its age, unless it went before; and with nobody left there is no timer.
func TestElders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, all := newElders(time.Second), [4]aging{}
		for i := range all {
			all[i].start = time.Now()
			l.add(&all[i].elder, &all[i])
			<-time.After(300 * time.Millisecond)
		}
		l.remove(&all[1].elder) // in the middle, of age in 100 ms
		l.remove(&all[1].elder)
		<-time.After(10 * time.Second)
		synctest.Wait()
		for i, want := range [][]time.Duration{{time.Second}, nil, {time.Second}, {time.Second}} {
			if !slices.Equal(all[i].at, want) {
				t.Errorf("number %d was told at %v, want %v", i, all[i].at, want)
			}
		}
		if l.first != nil || l.last != nil || l.ticks {
			t.Errorf("nobody waits, and yet %+v", l)
		}
	})
}

// TestEldersTurns: those of age at once are told a few at a time.
func TestEldersTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, all := newElders(time.Second), make([]aging, 2*elderTurn+1)
		for i := range all {
			all[i].start = time.Now()
			l.add(&all[i].elder, &all[i])
		}
		<-time.After(time.Minute)
		synctest.Wait()
		for i := range all {
			want := []time.Duration{time.Second + time.Duration(i/elderTurn)*elderPause}
			if !slices.Equal(all[i].at, want) {
				t.Fatalf("number %d was told at %v, want %v", i, all[i].at, want)
			}
		}
	})
}

// TestEldersStop: at the end all are told, and nobody waits any more.
func TestEldersStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a, b := newElders(time.Second), aging{start: time.Now()}, aging{}
		l.add(&a.elder, &a)
		l.stop()
		if l.add(&b.elder, &b) || len(a.at) != 1 || len(b.at) != 0 {
			t.Errorf("told %v and %v", a.at, b.at)
		}
		l.remove(&b.elder)
		<-time.After(time.Minute)
		synctest.Wait()
		if len(a.at) != 1 {
			t.Errorf("told %v", a.at)
		}
	})
}

// TestHandshakeTimeout: a SYN-ACK that is never acknowledged is given up, and with it the slot and the host's socket.
func TestHandshakeTimeout(t *testing.T) {
	o := newOutside(t)
	b := newBench(t, withDial(o.dial))
	c := b.newClient(1000)
	c.syn()
	h := o.accept(t)
	h.SetDeadline(time.Now().Add(2 * packetWait))
	l := &b.gw.answers
	l.mu.Lock()
	since := l.first.since
	l.mu.Unlock()
	l.tick(since.Add(handshakeTimeout - 1))
	if n := b.gw.handshakes.inFlight(); n != 1 {
		t.Fatalf("%d handshakes are in flight before the time", n)
	}
	l.tick(since.Add(handshakeTimeout))
	waitFor(t, func() bool { return b.gw.handshakes.inFlight() == 0 && b.gw.Flows() == 0 })
	if _, err := h.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the outside is still connected: %v", err)
	}
}
