package gateway

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

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
	waitFor(t, func() bool { return w.gw.cfg.Shared.bursts.n.Load() == 1 && w.gw.Flows() == 1 })
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
	if n := w.gw.cfg.Shared.bursts.n.Load(); n != 0 {
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
		if n := w.gw.cfg.Shared.bursts.n.Load(); n != 0 {
			t.Errorf("reset by the %s: %d bursts are held when no flow is left", by, n)
		}
	}
}

// TestWithoutBurst: a flow that gets none relays all the same.
func TestWithoutBurst(t *testing.T) {
	o := newOutside(t)
	w := newWorld(t, withDial(o.dial))
	w.gw.cfg.Shared.bursts.n.Store(maxBursts)
	c, h := pair(t, w, o, outside4)
	transfer(t, 4<<20, h, c, func() { h.CloseWrite() })
	if n := w.gw.cfg.Shared.bursts.n.Load(); n != maxBursts {
		t.Errorf("%d bursts are counted, were %d", n, maxBursts)
	}
}
