package gateway

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"github.com/usernet/usernet/stack/l2"
)

// count is how many bursts are held.
func (q *burstQuota) count() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.all
}

// fill takes all bursts that o may have.
func (q *burstQuota) fill(o owner) (all []*burst) {
	for b := q.take(o); b != nil; b = q.take(o) {
		all = append(all, b)
	}
	return all
}

// stalled is a flow whose container does not read while its host sends content, and which therefore holds a burst.
func stalled(t *testing.T, content []byte) (w *world, c *gonet.TCPConn, h *net.TCPConn) {
	t.Helper()
	o := newOutside(t)
	w = newWorld(t, withDial(o.dial))
	c, h = pair(t, w, o, outside4)
	go func() {
		h.Write(content) // ends with the test, at the latest
		h.CloseWrite()
	}()
	waitFor(t, func() bool { return w.gw.cfg.Shared.bursts.count() == 1 && w.gw.Flows() == 1 })
	return w, c, h
}

// testStream is more than all buffers on its way hold.
func testStream() []byte {
	b := make([]byte, 24<<20)
	for i, r := 0, rand.New(rand.NewPCG(1, 2)); i < len(b); i += 2 {
		n := r.Uint32()
		b[i], b[i+1] = byte(n), byte(n>>8)
	}
	return b
}

// TestBurstKeepsWhatFindsNoRoom: a container that begins to read late gets all bytes in order, then the end; and the
// burst is given back.
func TestBurstKeepsWhatFindsNoRoom(t *testing.T) {
	want := testStream()
	w, c, _ := stalled(t, want)
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %d bytes, %v; want %d, the same: %v", len(got), err, len(want), bytes.Equal(got, want))
	}
	c.Close()
	waitFor(t, func() bool { return w.gw.Flows() == 0 })
	if n := w.gw.cfg.Shared.bursts.count(); n != 0 {
		t.Errorf("%d bursts are held when no flow is left", n)
	}
}

// TestBurstIsDroppedByReset: a flow that is reset gives its burst back.
func TestBurstIsDroppedByReset(t *testing.T) {
	for _, by := range []string{"container", "host", "gateway"} {
		w, c, h := stalled(t, testStream())
		switch by {
		case "container":
			c.Close() // with what it has not read: RST
		case "host":
			reset(h)
			if _, err := io.Copy(io.Discard, c); err == nil { // what came before goes on first
				t.Error("the container sees an end, not a reset")
			}
		case "gateway":
			onlyFlow(t, w.gw).work(newsKill)
		}
		waitFor(t, func() bool { return w.gw.Flows() == 0 })
		if n := w.gw.cfg.Shared.bursts.count(); n != 0 {
			t.Errorf("reset by the %s: %d bursts are held when no flow is left", by, n)
		}
	}
}

// TestWithoutBurst: a flow that gets none relays all the same.
func TestWithoutBurst(t *testing.T) {
	o := newOutside(t)
	w := newWorld(t, withDial(o.dial))
	q := &w.gw.cfg.Shared.bursts
	for i := range maxBursts {
		q.fill(owner{w.gw, l2.MAC{5: byte(i)}})
	}
	if q.take(owner{w.gw, containerMAC}) != nil {
		t.Fatal("there are bursts left")
	}
	c, h := pair(t, w, o, outside4)
	transfer(t, 4<<20, h, c, func() { h.CloseWrite() })
	if n := q.count(); n != maxBursts {
		t.Errorf("%d bursts are counted, were %d", n, maxBursts)
	}
}

// TestBurstsAreShared: containers that give none back, in one Network or several, leave some for the next one, and what they had
// is everybody's when they have given it back.
func TestBurstsAreShared(t *testing.T) {
	var q burstQuota
	networks := []*Gateway{new(Gateway), new(Gateway)}
	held := make(map[owner][]*burst)
	for i, want := range []int{maxBursts / 2, maxBursts / 4, maxBursts / 8} {
		o := owner{networks[i%2], l2.MAC{5: byte(i / 2)}}
		held[o] = q.fill(o)
		if got := len(held[o]); got != want {
			t.Errorf("container %d gets %d bursts, want %d", i, got, want)
		}
	}
	for o, all := range held {
		for _, b := range all {
			q.release(o, b)
		}
	}
	if q.count() != 0 || len(q.held) != 0 {
		t.Errorf("%d bursts of %d containers are counted when all are given back", q.count(), len(q.held))
	}
	if n := len(q.fill(owner{})); n != maxBursts/2 {
		t.Errorf("a container that is alone gets %d bursts, want %d", n, maxBursts/2)
	}
}

// TestSlowContainer: a container whose readers never read takes no burst from its neighbour.
func TestSlowContainer(t *testing.T) {
	w, _, _ := stalled(t, testStream())
	q := &w.gw.cfg.Shared.bursts
	slow := onlyFlow(t, w.gw).container()
	q.fill(slow)
	if q.take(slow) != nil || q.take(owner{w.gw, l2.MAC{5: 1}}) == nil {
		t.Error("a flow of another container gets no burst, or one of the slow container another one")
	}
}
