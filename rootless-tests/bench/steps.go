package main

import (
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/usernet/usernet/rootless-tests/bench/load"
	"github.com/usernet/usernet/rootless-tests/bench/report"
)

const (
	// parallelConnects keep a connection in the making at each step of a path that has a few.
	parallelConnects = 16
	// settle is how long the last datagrams of a flood may be on their way.
	settle = 100 * time.Millisecond
)

// A measurement is of one sandbox, for window. It returns no values where a subject does not do it.
type measurement func(m *meter, s *sandbox, window time.Duration) (map[report.Measure]float64, error)

// A step measures one thing on all sandboxes.
type step struct {
	name string
	run  measurement
	// fails is what is recorded as not measured.
	fails report.Measure
	// turns is how often it is measured in a round; they share the window.
	turns int
}

// tripTurns is how often a round trip is measured in a round, for so much less time each. How long it takes is decided by which CPUs the
// kernel has put its ends and the process between them on, and there they stay for as long as one of them runs again and
// again: 40 or 130 µs for the same program. Many short windows, in turns, see more of the cases than one long one.
//
// Each begins with tripWarm, because after a pause the kernel keeps all on one CPU for some 60 ms, whatever carries the bytes. A median over
// both is that of the part in which there are more trips, so who is faster later would have the higher one. The
// first 50 ms have a row of their own, for which the turn before must be forgotten: half of it is after 32 ms.
const (
	tripTurns = 5
	tripPause = 150 * time.Millisecond
	tripWarm  = 150 * time.Millisecond
)

var steps = []step{
	{"stream up", stream(outwards, false, 1, report.StreamUp, report.CPUUp), report.StreamUp, 1},
	{"stream down", stream(outwards, true, 1, report.StreamDown, report.CPUDown), report.StreamDown, 1},
	{"4 streams up", stream(outwards, false, 4, report.Streams4Up, ""), report.Streams4Up, 1},
	{"4 streams down", stream(outwards, true, 4, report.Streams4Down, ""), report.Streams4Down, 1},
	{"16 streams up", fairStreams(false, report.Streams16Up, report.Unfair16Up), report.Streams16Up, 1},
	{"16 streams down", fairStreams(true, report.Streams16Down, report.Unfair16Down), report.Streams16Down, 1},
	{"round trip", roundTrip(outwards, report.RoundTrip, report.RoundTripP99, report.RoundTripEarly), report.RoundTrip, tripTurns},
	{"connect", connect, report.Connect, tripTurns},
	{"connections", connections, report.Connects, 1},
	{"UDP round trip", udpTrip, report.UDPTrip, tripTurns},
	{"UDP 1 B", flood(1, report.UDPSmall, report.UDPSmallLoss), report.UDPSmall, 1},
	{"UDP 1400 B", flood(1400, report.UDPLarge, report.UDPLargeLoss), report.UDPLarge, 1},
	{"UDP 1 Gbit/s", pacedFlood, report.UDPPacedLoss, 1},
	{"published up", publishedStream(fromLoopback, false, report.PublishedUp), report.PublishedUp, 1},
	{"published down", publishedStream(fromLoopback, true, report.PublishedDown), report.PublishedDown, 1},
	{"published up from elsewhere", publishedStream(fromElsewhere, false, report.FarUp), report.FarUp, 1},
	{"published down to elsewhere", publishedStream(fromElsewhere, true, report.FarDown), report.FarDown, 1},
	{"published round trip", publishedTrip, report.PublishedTrip, tripTurns},
	{"network stream", stream(across, false, 1, report.Across, report.AcrossCPU), report.Across, 1},
	{"network 4 streams", stream(across, false, 4, report.Across4, ""), report.Across4, 1},
	{"network round trip", roundTrip(across, report.AcrossTrip, report.AcrossTripP99, report.AcrossTripEarly), report.AcrossTrip, tripTurns},
	{"names", localNames, report.LocalNames, 1},
	{"names at a pace", pacedNames, report.PacedNamesP99, 1},
}

// networkSteps are those that need neighbours.
func networkSteps() (names []string) {
	for _, st := range steps {
		if slices.ContainsFunc(report.NetworkDefinitions, func(d report.Definition) bool { return d.Measure == st.fails }) {
			names = append(names, st.name)
		}
	}
	return names
}

const (
	bitsPerByte = 8
	giga        = 1e9
)

// Ways are from a sandbox's agent to a server; a sandbox that does not have one has an invalid address.
func outwards(s *sandbox) netip.AddrPort { return s.out.tcp }
func across(s *sandbox) netip.AddrPort   { return s.across }

// These are from the host to a sandbox.
func fromLoopback(s *sandbox) netip.AddrPort  { return s.in }
func fromElsewhere(s *sandbox) netip.AddrPort { return s.far }

func stream(way func(*sandbox) netip.AddrPort, down bool, n int, rate, cpu report.Measure) measurement {
	return func(m *meter, s *sandbox, window time.Duration) (map[report.Measure]float64, error) {
		if !way(s).IsValid() {
			return nil, nil
		}
		before, err := cpuSeconds(s.pids)
		if err != nil {
			return nil, err
		}
		r, err := s.inside.Do(load.Request{Op: load.Stream, To: way(s), Down: down, Streams: n, Warm: m.warm, Window: window})
		if err != nil {
			return nil, err
		}
		values := map[report.Measure]float64{rate: r.Rate * bitsPerByte / giga}
		after, err := cpuSeconds(s.pids)
		if err == nil && cpu != "" && len(s.pids) > 0 {
			values[cpu] = (after - before) / (float64(r.Total) / giga)
		}
		return values, err
	}
}

// fairStreams is 16 at once: as many as make each wait for the others, and few enough that each has a window.
func fairStreams(down bool, rate, unfair report.Measure) measurement {
	return func(m *meter, s *sandbox, window time.Duration) (map[report.Measure]float64, error) {
		if !s.out.tcp.IsValid() {
			return nil, nil
		}
		r, err := s.inside.Do(load.Request{Op: load.Stream, To: s.out.tcp, Down: down, Streams: 16, Warm: m.warm, Window: window})
		if err != nil {
			return nil, err
		}
		return map[report.Measure]float64{rate: r.Rate * bitsPerByte / giga, unfair: 100 * r.Unfair}, nil
	}
}

func roundTrip(way func(*sandbox) netip.AddrPort, p50, p99, early report.Measure) measurement {
	return func(m *meter, s *sandbox, window time.Duration) (map[report.Measure]float64, error) {
		if !way(s).IsValid() {
			return nil, nil
		}
		time.Sleep(tripPause)
		r, err := s.inside.Do(load.Request{Op: load.RoundTrip, To: way(s), Warm: tripWarm, Window: window})
		if err != nil {
			return nil, err
		}
		return map[report.Measure]float64{p50: r.P50, p99: r.P99, early: r.Early}, nil
	}
}

func connect(m *meter, s *sandbox, window time.Duration) (map[report.Measure]float64, error) {
	if !s.out.tcp.IsValid() {
		return nil, nil
	}
	r, err := s.inside.Do(load.Request{Op: load.Connect, To: s.out.tcp, Streams: 1, Window: window})
	if err != nil {
		return nil, err
	}
	return map[report.Measure]float64{report.Connect: r.P50}, nil
}

func connections(m *meter, s *sandbox, window time.Duration) (map[report.Measure]float64, error) {
	if !s.out.tcp.IsValid() {
		return nil, nil
	}
	r, err := s.inside.Do(load.Request{Op: load.Connect, To: s.out.tcp, Streams: parallelConnects, Window: window})
	if err != nil {
		return nil, err
	}
	return map[report.Measure]float64{report.Connects: r.Rate}, nil
}

func udpTrip(m *meter, s *sandbox, window time.Duration) (map[report.Measure]float64, error) {
	if !s.out.udpEcho.IsValid() {
		return nil, nil
	}
	time.Sleep(tripPause)
	r, err := s.inside.Do(load.Request{Op: load.UDPTrip, To: s.out.udpEcho, Warm: tripWarm, Window: window})
	if err != nil {
		return nil, err
	}
	return map[report.Measure]float64{report.UDPTrip: r.P50, report.UDPTripEarly: r.Early}, nil
}

// flood sends as fast as the container can: what a path delivers when it is offered more than it carries.
func flood(size int, delivered, lost report.Measure) measurement {
	return func(m *meter, s *sandbox, window time.Duration) (map[report.Measure]float64, error) {
		if !s.out.udpSink.IsValid() {
			return nil, nil
		}
		rate, part, err := m.datagrams(s, size, 0, window)
		if err != nil {
			return nil, err
		}
		return map[report.Measure]float64{delivered: rate / 1000, lost: 100 * part}, nil
	}
}

// pacedFlood is 1 Gbit/s in datagrams of 1400 bytes, as iperf3 --udp --bitrate 1G sends them.
func pacedFlood(m *meter, s *sandbox, window time.Duration) (map[report.Measure]float64, error) {
	if !s.out.udpSink.IsValid() {
		return nil, nil
	}
	const size, bytesPerSecond = 1400, giga / bitsPerByte
	_, part, err := m.datagrams(s, size, int(bytesPerSecond)/size, window)
	if err != nil {
		return nil, err
	}
	return map[report.Measure]float64{report.UDPPacedLoss: 100 * part}, nil
}

// datagrams floods the sink: how many arrive each second, and which part does not.
func (m *meter) datagrams(s *sandbox, size, perSecond int, window time.Duration) (rate, lost float64, err error) {
	if _, err := m.host.Do(load.Request{Op: load.FloodCount}); err != nil { // forget what others left
		return 0, 0, err
	}
	r, err := s.inside.Do(load.Request{Op: load.Flood, To: s.out.udpSink, Size: size, PerSecond: perSecond, Window: window})
	if err != nil {
		return 0, 0, err
	}
	time.Sleep(settle)
	n, err := m.host.Do(load.Request{Op: load.FloodCount})
	return float64(n.Total) / r.Elapsed.Seconds(), math.Max(0, 1-float64(n.Total)/float64(r.Total)), err
}

func publishedStream(way func(*sandbox) netip.AddrPort, down bool, rate report.Measure) measurement {
	return func(m *meter, s *sandbox, window time.Duration) (map[report.Measure]float64, error) {
		if !way(s).IsValid() {
			return nil, nil
		}
		r, err := m.client.Do(load.Request{Op: load.Stream, To: way(s), Down: down, Warm: m.warm, Window: window})
		if err != nil {
			return nil, err
		}
		return map[report.Measure]float64{rate: r.Rate * bitsPerByte / giga}, nil
	}
}

func publishedTrip(m *meter, s *sandbox, window time.Duration) (map[report.Measure]float64, error) {
	if !s.in.IsValid() {
		return nil, nil
	}
	trip, err := m.client.Do(load.Request{Op: load.RoundTrip, To: s.in, Warm: tripWarm, Window: window})
	if err != nil {
		return nil, err
	}
	dial, err := m.client.Do(load.Request{Op: load.Connect, To: s.in, Streams: 1, Window: window})
	if err != nil {
		return nil, err
	}
	return map[report.Measure]float64{report.PublishedTrip: trip.P50, report.PublishedDial: dial.P50}, nil
}
