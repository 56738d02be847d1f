package gateway

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// # Theory of operation
//
// A stream carries at most a window in each round trip, and what it may buffer bounds its window: towards us netstack offers half
// of the receive buffer, towards the container a send buffer holds what is not acknowledged yet. What a flow begins with
// (bufferSize) fills every path there is between a container and its gateway on one host, a few hundred microseconds, and
// is far too little for one of 100 ms, where it would be 10 MiB/s. To give all flows what the longest path needs would
// multiply what slow readers can make us hold.
//
// So a flow shows what it needs. Each direction counts what it moves and, each time that is twice its buffer, looks how
// long it took:
//
//   - a flow that began with little, because there were thousands, gets what one among few has: it is busy, and the
//     thousands may be idle;
//   - on a long path, a flow that has moved an eighth of its buffer or more in each round trip is bounded by the window or soon will
//     be, and gets four times as much, up to longBuffer.
//
// What a flow gets is taken from a budget of the whole process (growBudget) and given back when the flow ends; when too little is
// left, it stays as it is and asks again after as much. A reader that is slow moves little, and never grows.
//
// The round-trip time is netstack's: of the handshake, and then of each segment that the container acknowledges. On a short
// path it is mostly what our own buffers hold up, hence the bound of longRTT.
//
// Measured on a wire of 100 ms without other limits (BenchmarkLongPath), once grown: 10.5 → 62 MiB/s up, 9.7 → 50 down.

const (
	// busyBytes is what a flow with a small buffer has moved when it is worth the buffers of a busy one.
	busyBytes = 1 << 20
	// longRTT is a round-trip time that no path within a host has, nor one on which maxBuffer would bound a stream: 100 MiB/s.
	longRTT = 10 * time.Millisecond
	// paceTrips is in how many round trips a flow that needs more moves twice what it may buffer.
	paceTrips = 16
)

// tuning is what a flow knows of its needs.
type tuning struct {
	up, down pace
	grown    int64 // bytes of growBudget it has taken
}

// pace is how much a direction has moved since some time.
type pace struct {
	moved int64
	since time.Time // zero: not looked at yet
}

// add counts n bytes and reports whether there are enough now to look at the time.
func (p *pace) add(n int, enough int64) (look bool) {
	p.moved += int64(n)
	return p.moved >= enough
}

// restart begins to count and returns how long it took since the last time; zero when that is not known.
func (p *pace) restart(now time.Time) (took time.Duration) {
	if !p.since.IsZero() {
		took = now.Sub(p.since)
	}
	p.moved, p.since = 0, now
	return took
}

// grow counts what the flow has moved and gives it larger buffers if it needs them. f.mu is held.
func (f *flow) grow(up, down int) {
	if f.over || up == 0 && down == 0 {
		return
	}
	o, t := f.ep.SocketOptions(), &f.tuning
	if size := o.GetReceiveBufferSize(); t.up.add(up, enoughFor(size, maxBuffer)) {
		if to := wanted(size, maxBuffer, t.up.restart(time.Now()), f.rtt()); f.take(to - size) {
			o.SetReceiveBufferSize(to, true)
		}
	}
	if size := o.GetSendBufferSize(); t.down.add(down, enoughFor(size, maxSend)) {
		if to := wanted(size, maxSend, t.down.restart(time.Now()), f.rtt()); f.take(to - size) {
			o.SetSendBufferSize(to, true)
		}
	}
}

// rtt is the round-trip time of the container's side; zero when it is not known.
func (f *flow) rtt() time.Duration {
	var info tcpip.TCPInfoOption
	if f.ep.GetSockOpt(&info) != nil {
		return 0
	}
	return info.RTT
}

// enoughFor is how much a direction with a buffer of size moves between looks; usual is what it has among few flows.
func enoughFor(size, usual int64) int64 {
	if size < usual {
		return busyBytes
	}
	return 2 * size
}

// wanted is the buffer for a direction that has moved what enoughFor says in that time; took and rtt are zero when not known.
func wanted(size, usual int64, took, rtt time.Duration) int64 {
	switch {
	case size < usual:
		return usual
	case size >= longBuffer, took == 0, rtt < longRTT, took > paceTrips*rtt:
		return size
	}
	return min(4*size, longBuffer)
}

// take takes what a buffer is to grow by from the budget, if there is so much left.
func (f *flow) take(more int64) bool {
	if more == 0 {
		return false
	}
	grown := &f.g.cfg.Shared.grown
	if grown.Add(more) > growBudget {
		grown.Add(-more)
		return false
	}
	f.tuning.grown += more
	return true
}

// ungrow gives back what a flow that is over has taken.
func (f *flow) ungrow() { f.g.cfg.Shared.grown.Add(-f.tuning.grown) }
