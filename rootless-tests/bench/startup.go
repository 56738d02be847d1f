package main

import (
	"fmt"
	"os/exec"
	"time"

	"github.com/usernet/usernet/rootless-tests/bench/report"
)

// A starter runs `true` once in a sandbox of its subject, from nothing to gone.
type starter struct {
	subject  report.Subject
	measures []report.Measure
	run      func() error
}

// starters are what is timed. `pasta -- true` leaves its interface without an address, so there are two
// rows: what people type, and what they need.
func (b *builder) starters() []starter {
	both := []report.Measure{report.StartUp, report.StartUpNetwork}
	return []starter{
		{report.Kernel, both, func() error {
			cmd := exec.Command("true")
			cmd.SysProcAttr = namespaces()
			return cmd.Run()
		}},
		{report.Usernet, both, exec1(b.program("usernet"), "run", "--", "true")},
		{report.Slirp, both, b.startSlirpOnce},
		{report.Pasta, both[:1], exec1("pasta", "--", "true")},
		{report.Pasta, both[1:], exec1("pasta", "--config-net", "--", "true")},
	}
}

func exec1(name string, args ...string) func() error {
	return func() error {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
}

// startSlirpOnce does what a wrapper of slirp4netns does: namespaces, slirp4netns, wait for it, end both.
func (b *builder) startSlirpOnce() error {
	s := &sandbox{subject: report.Slirp}
	defer s.stop()
	holder, err := b.bare(s)
	if err != nil {
		return err
	}
	ready, _, err := startSlirp(holder.pid(), floorMTU, s.start)
	if err != nil {
		return err
	}
	defer ready.Close()
	return waitByte(ready)
}

// floorMTU is the usual one; start-up does not depend on it.
const floorMTU = 1500

// measureStartUps times n starts of each, in turns. The kernel takes a namespace down after its last process
// is gone, at the expense of whatever comes next: so who comes next changes from turn to turn.
func (m *meter) measureStartUps(n int) {
	var all []starter
	for _, s := range m.builder.starters() {
		if m.wants(s.subject) {
			all = append(all, s)
		}
	}
	// The first start of each reads the binary from the disk.
	for turn := range n + 1 {
		for i := range all {
			// Forwards, then backwards, each time from another one.
			at := (i + turn) % len(all)
			if turn%2 == 1 {
				at = len(all) - 1 - at
			}
			s := all[at]
			begin := time.Now()
			err := s.run()
			ms := float64(time.Since(begin)) / float64(time.Millisecond)
			for _, measure := range s.measures {
				switch {
				case err != nil:
					m.result.Fail(s.subject, 0, measure, err.Error())
				case turn > 0:
					m.result.Add(s.subject, 0, measure, ms)
				}
			}
		}
	}
}
