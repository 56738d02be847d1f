package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
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

// meter measures sandboxes and keeps the result.
type meter struct {
	options
	builder   builder
	host      *load.Remote // the server on the host's loopback
	client    *load.Remote // the client of published ports
	sandboxes []*sandbox
	result    *report.Result
}

// A step measures one thing on one sandbox. It returns no values where a subject does not do it.
type step struct {
	name string
	run  func(m *meter, s *sandbox) (map[report.Measure]float64, error)
	// fails is what is recorded as not measured.
	fails report.Measure
}

var steps = []step{
	{"stream up", stream(false, 1, report.StreamUp, report.CPUUp), report.StreamUp},
	{"stream down", stream(true, 1, report.StreamDown, report.CPUDown), report.StreamDown},
	{"4 streams up", stream(false, 4, report.Streams4Up, ""), report.Streams4Up},
	{"4 streams down", stream(true, 4, report.Streams4Down, ""), report.Streams4Down},
	{"round trip", roundTrip, report.RoundTrip},
	{"connect", connect, report.Connect},
	{"connections", connections, report.Connects},
	{"UDP round trip", udpTrip, report.UDPTrip},
	{"UDP 1 B", flood(1, report.UDPSmall, report.UDPSmallLoss), report.UDPSmall},
	{"UDP 1400 B", flood(1400, report.UDPLarge, report.UDPLargeLoss), report.UDPLarge},
	{"published up", publishedStream(false, report.PublishedUp), report.PublishedUp},
	{"published down", publishedStream(true, report.PublishedDown), report.PublishedDown},
	{"published round trip", publishedTrip, report.PublishedTrip},
}

// The other two are not in rounds: they have sandboxes of their own.
const (
	idleStep    = "idle connections"
	startUpStep = "start-up"
)

// stepNames are what --only knows.
func stepNames() (names []string) {
	for _, st := range steps {
		names = append(names, st.name)
	}
	return append(names, idleStep, startUpStep)
}

// measureAll is the last of the bench's steps: it measures and writes the result to resultFD.
func measureAll(dir string, args []string) error {
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
		return err
	}
	m := &meter{options: o, builder: builder{dir: dir}, result: newResult(o, dir)}
	if err := m.startHost(); err != nil {
		return err
	}
	m.rounds()
	if slices.Contains(o.only, idleStep) {
		m.measureIdle()
	}
	if slices.Contains(o.only, startUpStep) {
		progress(startUpStep)
		m.measureStartUps(o.startUps)
	}
	m.compareTool()
	progress("")
	return m.result.Write(os.NewFile(resultFD, "result"))
}

// startHost starts the server on loopback, and the client of published ports.
func (m *meter) startHost() (err error) {
	agents := []**load.Remote{&m.host, &m.client}
	for _, a := range agents {
		if _, *a, err = launchAgent(exec.Command(m.builder.program("bench"), agentRole)); err != nil {
			return err
		}
	}
	r, err := m.host.Do(load.Request{Op: load.Listen})
	m.builder.server = r.Ports
	return err
}

func (m *meter) wants(s report.Subject) bool { return slices.Contains(m.subjects, s) }

// rounds sets every sandbox up and measures all of them in turns.
func (m *meter) rounds() {
	for _, subject := range m.subjects {
		mtus := m.mtus
		if !subject.HasMTU() {
			mtus = []int{0}
		}
		for _, mtu := range mtus {
			s, err := m.builder.build(subject, mtu)
			if err != nil {
				m.result.Fail(subject, mtu, report.StreamUp, err.Error())
				continue
			}
			defer s.stop()
			m.sandboxes = append(m.sandboxes, s)
		}
	}
	for round := range m.repeat {
		for _, st := range steps {
			if !slices.Contains(m.only, st.name) {
				continue
			}
			progress(fmt.Sprintf("round %d of %d: %s", round+1, m.repeat, st.name))
			for i := range m.sandboxes {
				m.take(st, m.sandboxes[(i+round)%len(m.sandboxes)])
			}
		}
	}
	m.sandboxes = nil
}

func (m *meter) take(st step, s *sandbox) {
	values, err := st.run(m, s)
	if err != nil {
		m.result.Fail(s.subject, s.mtu, st.fails, err.Error()+s.messages())
	}
	for measure, v := range values {
		m.result.Add(s.subject, s.mtu, measure, v)
	}
}

// progress shows on the terminal what is being done; the empty string ends it.
func progress(what string) {
	fmt.Fprintf(os.Stderr, "\r\x1b[K%s", what)
}

const (
	bitsPerByte = 8
	giga        = 1e9
)

func stream(down bool, n int, rate, cpu report.Measure) func(*meter, *sandbox) (map[report.Measure]float64, error) {
	return func(m *meter, s *sandbox) (map[report.Measure]float64, error) {
		before, err := cpuSeconds(s.pids)
		if err != nil {
			return nil, err
		}
		r, err := s.inside.Do(load.Request{Op: load.Stream, To: s.out.tcp, Down: down, Streams: n, Warm: m.warm, Window: m.window})
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

func roundTrip(m *meter, s *sandbox) (map[report.Measure]float64, error) {
	r, err := s.inside.Do(load.Request{Op: load.RoundTrip, To: s.out.tcp, Window: m.window})
	if err != nil {
		return nil, err
	}
	return map[report.Measure]float64{report.RoundTrip: r.P50, report.RoundTripP99: r.P99}, nil
}

func connect(m *meter, s *sandbox) (map[report.Measure]float64, error) {
	r, err := s.inside.Do(load.Request{Op: load.Connect, To: s.out.tcp, Streams: 1, Window: m.window})
	if err != nil {
		return nil, err
	}
	return map[report.Measure]float64{report.Connect: r.P50}, nil
}

func connections(m *meter, s *sandbox) (map[report.Measure]float64, error) {
	r, err := s.inside.Do(load.Request{Op: load.Connect, To: s.out.tcp, Streams: parallelConnects, Window: m.window})
	if err != nil {
		return nil, err
	}
	return map[report.Measure]float64{report.Connects: r.Rate}, nil
}

func udpTrip(m *meter, s *sandbox) (map[report.Measure]float64, error) {
	if !s.out.udpEcho.IsValid() {
		return nil, nil
	}
	r, err := s.inside.Do(load.Request{Op: load.UDPTrip, To: s.out.udpEcho, Window: m.window})
	if err != nil {
		return nil, err
	}
	return map[report.Measure]float64{report.UDPTrip: r.P50}, nil
}

// flood sends as fast as the container can: what a path delivers when it is offered more than it carries.
func flood(size int, delivered, lost report.Measure) func(*meter, *sandbox) (map[report.Measure]float64, error) {
	return func(m *meter, s *sandbox) (map[report.Measure]float64, error) {
		if !s.out.udpSink.IsValid() {
			return nil, nil
		}
		if _, err := m.host.Do(load.Request{Op: load.FloodCount}); err != nil { // forget what others left
			return nil, err
		}
		r, err := s.inside.Do(load.Request{Op: load.Flood, To: s.out.udpSink, Size: size, Window: m.window})
		if err != nil {
			return nil, err
		}
		time.Sleep(settle)
		n, err := m.host.Do(load.Request{Op: load.FloodCount})
		if err != nil {
			return nil, err
		}
		return map[report.Measure]float64{
			delivered: float64(n.Total) / r.Elapsed.Seconds() / 1000,
			lost:      100 * math.Max(0, 1-float64(n.Total)/float64(r.Total)),
		}, nil
	}
}

func publishedStream(down bool, rate report.Measure) func(*meter, *sandbox) (map[report.Measure]float64, error) {
	return func(m *meter, s *sandbox) (map[report.Measure]float64, error) {
		if !s.in.IsValid() {
			return nil, nil
		}
		r, err := m.client.Do(load.Request{Op: load.Stream, To: s.in, Down: down, Warm: m.warm, Window: m.window})
		if err != nil {
			return nil, err
		}
		return map[report.Measure]float64{rate: r.Rate * bitsPerByte / giga}, nil
	}
}

func publishedTrip(m *meter, s *sandbox) (map[report.Measure]float64, error) {
	if !s.in.IsValid() {
		return nil, nil
	}
	trip, err := m.client.Do(load.Request{Op: load.RoundTrip, To: s.in, Window: m.window})
	if err != nil {
		return nil, err
	}
	dial, err := m.client.Do(load.Request{Op: load.Connect, To: s.in, Streams: 1, Window: m.window})
	if err != nil {
		return nil, err
	}
	return map[report.Measure]float64{report.PublishedTrip: trip.P50, report.PublishedDial: dial.P50}, nil
}

// measureIdle opens many connections through a fresh sandbox of each subject and weighs its process. The
// kernel's share, sockets on the host and in the container, is the same for all and not counted.
func (m *meter) measureIdle() {
	for _, subject := range m.subjects {
		if subject == report.Kernel {
			continue // it has no process
		}
		progress(idleStep + ": " + string(subject))
		if err := m.idleOf(subject); err != nil {
			m.result.Fail(subject, 0, report.IdleBytes, err.Error())
		}
	}
}

func (m *meter) idleOf(subject report.Subject) error {
	s, err := m.builder.build(subject, floorMTU)
	if err != nil {
		return err
	}
	defer s.stop()
	before, err := residentBytes(s.pids)
	if err != nil {
		return err
	}
	m.result.Add(subject, 0, report.Memory, before/(1<<20))
	r, opened := s.inside.Do(load.Request{Op: load.Idle, To: s.out.tcp, Count: m.idle})
	m.result.Add(subject, 0, report.IdleConnections, float64(r.Total))
	after, err := residentBytes(s.pids)
	if r.Total > 0 && err == nil {
		m.result.Add(subject, 0, report.IdleBytes, (after-before)/float64(r.Total))
	}
	_, dropErr := s.inside.Do(load.Request{Op: load.Drop})
	_, hostErr := m.host.Do(load.Request{Op: load.Drop})
	return errors.Join(opened, err, dropErr, hostErr)
}
