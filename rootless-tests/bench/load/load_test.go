package load

import (
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// pair starts an agent that listens and returns its remote with the ports.
func pair(t *testing.T) (*Remote, Ports) {
	t.Helper()
	losesAfter(t, patience)
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- Serve(inR, outW); outW.Close() }()
	t.Cleanup(func() {
		inW.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	m := NewRemote(inW, outR)
	r, err := m.Do(Request{Op: Listen})
	if err != nil {
		t.Fatal(err)
	}
	return m, r.Ports
}

// patience is for what takes microseconds, on a machine that may be busy.
const patience = 20 * time.Second

// losesAfter changes, until the test ends, when a datagram counts as lost.
func losesAfter(t *testing.T, d time.Duration) {
	before := datagramTimeout
	datagramTimeout = d
	t.Cleanup(func() { datagramTimeout = before })
}

func loopback(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}

const window = 20 * time.Millisecond

func TestStream(t *testing.T) {
	m, p := pair(t)
	for _, row := range []Request{
		{Op: Stream},
		{Op: Stream, Down: true},
		{Op: Stream, Streams: 4},
		{Op: Stream, Down: true, Streams: 4},
	} {
		row.To, row.Warm, row.Window = loopback(p.TCP), window, window
		r, err := m.Do(row)
		if err != nil {
			t.Fatal(err)
		}
		// What the window carried is a part of the whole.
		if r.Rate <= 0 || float64(r.Total) < r.Rate*window.Seconds() {
			t.Errorf("%+v: %+v", row, r)
		}
	}
}

func TestTrips(t *testing.T) {
	m, p := pair(t)
	for _, row := range []Request{
		{Op: RoundTrip, To: loopback(p.TCP)},
		{Op: Connect, To: loopback(p.TCP)},
		{Op: Connect, To: loopback(p.TCP), Streams: 4},
		{Op: UDPTrip, To: loopback(p.UDPEcho)},
		{Op: RoundTrip, To: loopback(p.TCP), Warm: window},
		{Op: UDPTrip, To: loopback(p.UDPEcho), Warm: window},
	} {
		row.Window = window
		r, err := m.Do(row)
		if err != nil {
			t.Fatal(err)
		}
		if r.P50 <= 0 || r.P99 < r.P50 || r.Lost != 0 || (row.Op != Connect) != (r.Early > 0) {
			t.Errorf("%+v: %+v", row, r)
		}
	}
}

// TestTripClock: a trip belongs to the time in which it began, and there is one in the window even if it outlasts it.
func TestTripClock(t *testing.T) {
	const ms = time.Millisecond
	begin := time.Now()
	for _, tc := range []struct {
		start, end      time.Duration
		early, measured int
		over            bool
	}{
		{0, ms, 1, 0, false},
		{earlyFor - 1, earlyFor + ms, 1, 0, false},
		{earlyFor, earlyFor + ms, 0, 0, false},
		{100*ms - 1, 300 * ms, 0, 0, false},
		{100 * ms, 101 * ms, 0, 1, false},
		{199 * ms, 200 * ms, 0, 1, true},
		{100 * ms, 300 * ms, 0, 1, true},
		{300 * ms, 301 * ms, 0, 1, true},
	} {
		var got trips
		clock := tripClock{begin, begin.Add(100 * ms), begin.Add(200 * ms)}
		over := clock.add(&got, begin.Add(tc.start), begin.Add(tc.end))
		if len(got.early) != tc.early || len(got.us) != tc.measured || over != tc.over {
			t.Errorf("%v to %v: %+v, over %v", tc.start, tc.end, got, over)
		}
	}
}

func TestFlood(t *testing.T) {
	m, p := pair(t)
	r, err := m.Do(Request{Op: Flood, To: loopback(p.UDPSink), Size: 1400, Window: window})
	if err != nil || r.Total == 0 {
		t.Fatal(r, err)
	}
	// Loopback hands a datagram over before send returns; the thread that counts them may run later.
	var arrived uint64
	for deadline := time.Now().Add(5 * time.Second); arrived == 0 && time.Now().Before(deadline); {
		n, err := m.Do(Request{Op: FloodCount})
		if err != nil {
			t.Fatal(err)
		}
		arrived += n.Total
	}
	if arrived == 0 || arrived > r.Total {
		t.Errorf("%d datagrams arrived of %d", arrived, r.Total)
	}
}

func TestIdle(t *testing.T) {
	m, p := pair(t)
	r, err := m.Do(Request{Op: Idle, To: loopback(p.TCP), Count: 100})
	if err != nil || r.Total != 100 {
		t.Fatal(r, err)
	}
	if r, err = m.Do(Request{Op: Drop}); err != nil || r.Total != 100 {
		t.Errorf("dropped %d connections, %v", r.Total, err)
	}
}

// TestErrorsAreToldAndSurvived: a refused connection is the operation's error, not the agent's end.
func TestErrorsAreToldAndSurvived(t *testing.T) {
	m, p := pair(t)
	for _, op := range []Op{Stream, RoundTrip, Connect, Idle} {
		_, err := m.Do(Request{Op: op, To: loopback(1), Count: 1, Window: window})
		if err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s to a closed port: %v", op, err)
		}
	}
	if _, err := m.Do(Request{Op: "dance"}); err == nil {
		t.Error("an unknown operation succeeds")
	}
	if _, err := m.Do(Request{Op: RoundTrip, To: loopback(p.TCP), Window: window}); err != nil {
		t.Error(err)
	}
}
