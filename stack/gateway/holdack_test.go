package gateway

import (
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/usernet/usernet/internal/packettest"
)

// noTimer is a timer that never fires: the test says when there is a tick.
type noTimer struct{}

func (noTimer) Reset(time.Duration) bool { return true }
func (noTimer) Stop() bool               { return true }

// newHoldBench is a bench with one connection, whose held ACKs go out at the test's ticks only.
func newHoldBench(t *testing.T) (*bench, *outside) {
	o := newOutside(t)
	b := newBench(t, withDial(o.dial))
	// Nothing is sent twice, however long a busy machine takes to acknowledge it.
	rto := tcpip.TCPMinRTOOption(time.Minute)
	if err := stackOf(b.t, b.gw).SetTransportProtocolOption(tcp.ProtocolNumber, &rto); err != nil {
		t.Fatal(err)
	}
	b.gw.acks.mu.Lock()
	b.gw.acks.timer = noTimer{}
	b.gw.acks.mu.Unlock()
	return b, o
}

// holds waits until so many ACKs are held.
func (b *bench) holds(n int) {
	b.t.Helper()
	waitFor(b.t, func() bool {
		b.gw.acks.mu.Lock()
		defer b.gw.acks.mu.Unlock()
		return b.gw.acks.held == n
	})
}

// first is the next packet of a connection, whatever it is.
func (c *client) first() segment {
	c.b.t.Helper()
	return c.next("packet", func(segment) bool { return true })
}

// TestACKWaitsForAnswer: a request and the container's FIN are acknowledged by the answer, and by the FIN of the outside.
func TestACKWaitsForAnswer(t *testing.T) {
	b, o := newHoldBench(t)
	c, h := b.connect(o)
	for range 3 {
		c.write([]byte("request"))
		readFull(t, h, "request")
		b.holds(1)
		if _, err := h.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		if p := c.first(); string(p.Payload) != "answer" || p.Ack != c.seq {
			t.Fatalf("the first packet is %v, want the answer that acknowledges %d", p, c.seq)
		}
		c.ack += uint32(len("answer"))
		b.holds(0)
	}
	c.send(packettest.ACK|packettest.FIN, nil)
	b.holds(1)
	h.Close()
	if p := c.first(); p.Flags&packettest.FIN == 0 || p.Ack != c.seq {
		t.Fatalf("the first packet is %v, want a FIN that acknowledges %d", p, c.seq)
	}
}

// TestACKGoesAlone: an ACK that nothing carries goes out at the second tick, and those of the connection's next segments at once.
func TestACKGoesAlone(t *testing.T) {
	b, o := newHoldBench(t)
	c, _ := b.connect(o)
	c.write([]byte("x"))
	b.holds(1)
	b.gw.acks.tick()
	b.nothing("an ACK", c.mine)
	b.gw.acks.tick()
	if p := c.first(); p.Ack != c.seq || len(p.Payload) > 0 {
		t.Fatalf("the first packet is %v, want the ACK of %d", p, c.seq)
	}
	for range ackRefrain {
		c.write([]byte("y"))
		c.acked(c.seq)
	}
	c.write([]byte("z"))
	b.holds(1)
}

// TestACKAtOnce: what is not to wait for an answer does not.
func TestACKAtOnce(t *testing.T) {
	t.Run("second segment", func(t *testing.T) {
		b, o := newHoldBench(t)
		c, _ := b.connect(o)
		c.write([]byte("x"))
		b.holds(1)
		c.write([]byte("y"))
		c.acked(c.seq)
		b.holds(0)
	})
	t.Run("full segment", func(t *testing.T) {
		b, o := newHoldBench(t)
		c, _ := b.connect(o)
		c.write([]byte(strings.Repeat("x", ackPayload+1)))
		c.acked(c.seq)
	})
	t.Run("another connection in the slot", func(t *testing.T) {
		b, o := newHoldBench(t)
		one, two := b.newClient(1000), b.newClient(1001)
		one.open(o)
		two.open(o)
		one.write([]byte("x"))
		b.holds(1)
		two.write([]byte("x"))
		one.acked(one.seq)
		b.holds(1)
	})
}

// TestACKOfTimer: the timer runs while there is something for it.
func TestACKOfTimer(t *testing.T) {
	o := newOutside(t)
	b := newBench(t, withDial(o.dial))
	c, _ := b.connect(o)
	c.write([]byte("x"))
	c.acked(c.seq)
	waitFor(t, func() bool {
		b.gw.acks.mu.Lock()
		defer b.gw.acks.mu.Unlock()
		return !b.gw.acks.ticks
	})
}
