package gateway

import (
	"io"
	"net"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// longPath is a round-trip time from one continent to the next.
const longPath = 100 * time.Millisecond

// containerWindow is the largest window that the container of a long path offers. Linux offers 3 MiB, since 6.18 up to 16.
const containerWindow = 6 << 20

// lengthen makes w's wire a long path, and the container's stack one that fills it.
func (w *world) lengthen(rtt time.Duration) {
	w.toContainer.stretch(rtt / 2)
	w.toGateway.stretch(rtt / 2)
	rcv := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: 2 * containerWindow, Max: 2 * containerWindow}
	snd := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: 16 << 20, Max: 16 << 20}
	for _, o := range []tcpip.SettableTransportProtocolOption{&rcv, &snd} {
		if err := w.c.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			w.t.Fatal(err)
		}
	}
}

// asLinux makes the container's stack recover from losses as Linux does, or nearly: SACK, cubic, and a loss at the end of a
// burst found soon.
func (w *world) asLinux() {
	sack := tcpip.TCPSACKEnabled(true)
	cc := tcpip.CongestionControlOption("cubic")
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &cc} {
		if err := w.c.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			w.t.Fatal(err)
		}
	}
	w.setMinRTO(w.c, minRTO)
}

func (w *world) setMinRTO(s *gvstack.Stack, d time.Duration) {
	rto := tcpip.TCPMinRTOOption(d)
	if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, &rto); err != nil {
		w.t.Fatal(err)
	}
}

// TestWanted: which buffers grow, and how far.
func TestWanted(t *testing.T) {
	for _, tc := range []struct {
		name        string
		size, usual int64
		took, rtt   time.Duration
		want        int64
	}{
		{"began among thousands", minBuffer, maxBuffer, 0, 0, maxBuffer},
		{"bounded by the window", maxBuffer, maxBuffer, 8 * longPath, longPath, 4 * maxBuffer},
		{"send buffer", maxSend, maxSend, 2 * longPath, longPath, 4 * maxSend},
		{"no further", longBuffer / 2, maxBuffer, 8 * longPath, longPath, longBuffer},
		{"the most there is", longBuffer, maxBuffer, 8 * longPath, longPath, longBuffer},
		{"bounded by something else", maxBuffer, maxBuffer, 17 * longPath, longPath, maxBuffer},
		{"short path", maxBuffer, maxBuffer, 8 * time.Millisecond, time.Millisecond, maxBuffer},
		{"first look", maxBuffer, maxBuffer, 0, longPath, maxBuffer},
		{"unknown path", maxBuffer, maxBuffer, time.Second, 0, maxBuffer},
	} {
		if got := wanted(tc.size, tc.usual, tc.took, tc.rtt); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}

// endless writes to one end of a connection until it is closed.
func endless(to net.Conn) {
	for buf := make([]byte, 1<<20); ; {
		if _, err := to.Write(buf); err != nil {
			return
		}
	}
}

// TestLongPathGrows: a stream on a long path gets more to buffer while it goes on, in the direction it goes.
func TestLongPathGrows(t *testing.T) {
	t.Parallel()
	for _, down := range []bool{false, true} {
		t.Run(map[bool]string{false: "up", true: "down"}[down], func(t *testing.T) {
			t.Parallel()
			o := newOutside(t)
			w := newWorld(t, withDial(o.dial))
			w.asLinux()
			w.lengthen(longPath)
			c, h := pair(t, w, o, outside4)
			var from, to net.Conn = c, h
			if down {
				from, to = h, c
			}
			options := onlyFlow(t, w.gw).ep.SocketOptions()
			grows, stays := options.GetReceiveBufferSize, options.GetSendBufferSize
			if down {
				grows, stays = stays, grows
			}
			first, before := grows(), stays()
			c.SetDeadline(time.Time{})
			h.SetDeadline(time.Time{})
			go endless(from)
			go io.Copy(io.Discard, to)
			waitFor(t, func() bool { return grows() > first })
			if stays() != before {
				t.Errorf("the idle direction's buffer grew from %d to %d", before, stays())
			}
		})
	}
}

// BenchmarkLongPath tells what a stream carries on a wire of 100 ms without other limits once it has grown, and how much that is of what the
// windows allow: half of longBuffer up, what the container offers down.
func BenchmarkLongPath(b *testing.B) {
	for _, down := range []bool{false, true} {
		b.Run(map[bool]string{false: "up", true: "down"}[down], func(b *testing.B) {
			o := newOutside(b)
			w := newWorld(b, withDial(o.dial))
			w.asLinux()
			w.lengthen(longPath)
			c, h := pair(b, w, o, outside4)
			var from, to net.Conn = c, h
			bound := float64(longBuffer / 2)
			if down {
				from, to, bound = h, c, containerWindow
			}
			from.SetDeadline(time.Time{})
			to.SetDeadline(time.Time{})
			go endless(from)
			if _, err := io.CopyN(io.Discard, to, 64<<20); err != nil { // it grows meanwhile
				b.Fatal(err)
			}
			const each = 16 << 20
			b.SetBytes(each)
			for b.Loop() {
				if _, err := io.CopyN(io.Discard, to, each); err != nil {
					b.Fatal(err)
				}
			}
			perTrip := each * float64(b.N) / b.Elapsed().Seconds() * longPath.Seconds()
			b.ReportMetric(100*perTrip/bound, "%ofWindow")
		})
	}
}
