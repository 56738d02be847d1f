package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/rootless-tests/bench/load"
	"github.com/usernet/usernet/rootless-tests/bench/report"
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

// The others are not in rounds: they have sandboxes of their own.
const (
	idleStep    = "idle connections"
	startUpStep = "start-up"
	throughStep = "through podman"
	manyStep    = "many networks"
	crowdStep   = "many containers"
)

// stepNames are what --only knows.
func stepNames() (names []string) {
	for _, st := range steps {
		names = append(names, st.name)
	}
	return append(names, throughStep, idleStep, startUpStep, manyStep, crowdStep)
}

// measureAll is the last of the bench's steps: it measures and writes the result to resultFD.
func measureAll(dir string, args []string) error {
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	// What was inherited is this process's own.
	for fd := resultFD; fd < podmanFDs+podmanPipes; fd++ {
		syscall.CloseOnExec(fd)
	}
	m := &meter{options: o, builder: builder{dir: dir}, result: newResult(o, dir)}
	m.dropMissing()
	if err := m.addThrough(); err != nil {
		return err
	}
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
	m.measureScale()
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

// wants tells whether a subject is to be measured.
func (o *options) wants(s report.Subject) bool { return slices.Contains(o.subjects, s) }

// wantsAny tells whether one of the steps is to be made.
func (o *options) wantsAny(steps []string) bool {
	return slices.ContainsFunc(steps, func(name string) bool { return slices.Contains(o.only, name) })
}

// rounds sets every sandbox up and measures all of them in turns.
func (m *meter) rounds() {
	for _, subject := range m.subjects {
		mtus := m.mtus
		if !subject.HasMTU() {
			mtus = []int{0}
		}
		if subject == report.Podman {
			mtus = nil // it has neighbours only
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
	for _, subject := range []report.Subject{report.Usernet, report.Podman} {
		if !m.wants(subject) || !m.wantsAny(networkSteps()) {
			continue
		}
		s, err := m.builder.neighbours(subject)
		if err != nil {
			m.result.Fail(subject, floorMTU, report.Across, err.Error())
			continue
		}
		defer s.stop()
		m.sandboxes = append(m.sandboxes, s)
	}
	for round := range m.repeat {
		for _, st := range steps {
			if !slices.Contains(m.only, st.name) {
				continue
			}
			progress(fmt.Sprintf("round %d of %d: %s", round+1, m.repeat, st.name))
			m.takeAll(st, round)
		}
	}
	m.sandboxes = nil
}

// takeAll measures one thing on all sandboxes, in turns that another one begins each time.
func (m *meter) takeAll(st step, round int) {
	for turn := range st.turns {
		for i := range m.sandboxes {
			m.take(st, m.sandboxes[(i+round+turn)%len(m.sandboxes)])
		}
	}
}

// enough is how often a subject may fail at a step. A failure is mostly a wait of five to fifteen seconds for what does not come; one may be
// an accident, and what failed twice would fail in every round.
const enough = 2

func (m *meter) take(st step, s *sandbox) {
	if s.failures[st.name] == enough {
		return
	}
	values, err := st.run(m, s, m.window/time.Duration(st.turns))
	if err != nil {
		if s.failures == nil {
			s.failures = map[string]int{}
		}
		why := err.Error() + s.messages()
		if s.failures[st.name]++; s.failures[st.name] == enough {
			why = fmt.Sprintf("given up after failing %d times: %s", enough, why)
		}
		m.result.Fail(s.subject, s.mtu, st.fails, why)
	}
	for measure, v := range values {
		m.result.Add(s.subject, s.mtu, measure, v)
	}
}

// onTerminal tells whether somebody watches.
var onTerminal = sync.OnceValue(func() bool {
	_, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS)
	return err == nil
})

// progress shows on a terminal what is being done; the empty string ends it.
func progress(what string) {
	if onTerminal() {
		fmt.Fprintf(os.Stderr, "\r\x1b[K%s", what)
	}
}

// measureIdle opens many connections through a fresh sandbox of each subject and weighs its process. The
// kernel's share, sockets on the host and in the container, is the same for all and not counted.
func (m *meter) measureIdle() {
	for _, subject := range m.subjects {
		if subject == report.Kernel || subject == report.Podman {
			continue // they have no process
		}
		progress(idleStep + ": " + string(subject))
		if err := m.idleOf(subject); err != nil {
			m.result.Fail(subject, 0, report.IdleBytes, err.Error())
		}
	}
}

// streamUp is the rate of one stream.
func (m *meter) streamUp(s *sandbox, warm, window time.Duration) (float64, error) {
	r, err := s.inside.Do(load.Request{Op: load.Stream, To: s.out.tcp, Warm: warm, Window: window})
	return r.Rate, err
}

// beside is what streams keep of their rate beside idle connections: those of s, where its twin has none. They take turns,
// since a machine is not the same half a minute later, and there are many short ones: how fast one is depends on which CPUs
// its threads came to run on, by a third and more, and that is drawn anew for each.
func (m *meter) beside(s, twin *sandbox) (float64, error) {
	const turns, part = 40, 5
	var alone, crowded float64
	for turn := range turns {
		for i := range 2 {
			at, sum := twin, &alone
			if (turn+i)%2 == 1 {
				at, sum = s, &crowded
			}
			rate, err := m.streamUp(at, m.warm/part, m.window/part)
			if err != nil {
				return 0, err
			}
			*sum += rate
		}
	}
	return crowded / alone, nil
}

// wakes counts how often a second the processes' threads come to run while nothing flows. What follows their start,
// such as giving memory back, is over before it is counted.
func (m *meter) wakes(s *sandbox) (float64, error) {
	const rest, window = 2 * time.Second, 2 * time.Second
	time.Sleep(rest)
	before, err := wakeUps(s.pids)
	if err != nil {
		return 0, err
	}
	time.Sleep(window)
	after, err := wakeUps(s.pids)
	return (after - before) / window.Seconds(), err
}

func (m *meter) idleOf(subject report.Subject) error {
	s, err := m.builder.build(subject, floorMTU)
	if err != nil {
		return err
	}
	defer s.stop()
	twin, err := m.builder.build(subject, floorMTU)
	if err != nil {
		return err
	}
	defer twin.stop()
	before, err := residentBytes(s.pids)
	if err != nil {
		return err
	}
	m.result.Add(subject, 0, report.Memory, before/(1<<20))
	if wakes, err := m.wakes(s); err == nil {
		m.result.Add(subject, 0, report.Wakes, wakes)
	}
	if _, err := m.streamUp(s, m.warm, m.window); err != nil {
		return err
	}
	if before, err = residentBytes(s.pids); err != nil { // with the buffers of a stream
		return err
	}
	r, opened := s.inside.Do(load.Request{Op: load.Idle, To: s.out.tcp, Count: m.idle})
	m.result.Add(subject, 0, report.IdleConnections, float64(r.Total))
	after, err := residentBytes(s.pids)
	if r.Total > 0 && err == nil {
		m.result.Add(subject, 0, report.IdleBytes, (after-before)/float64(r.Total))
	}
	if part, err := m.beside(s, twin); err == nil {
		m.result.Add(subject, 0, report.IdleBeside, part)
	}
	_, dropErr := s.inside.Do(load.Request{Op: load.Drop})
	_, hostErr := m.host.Do(load.Request{Op: load.Drop})
	return errors.Join(opened, err, dropErr, hostErr)
}
