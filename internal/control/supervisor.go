package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/stack/spec"
)

var errRestarting = errors.New("the datapath is being restarted; try again")

// supervisor owns the process and what it should hold. All its fields belong to the goroutine of run.
type supervisor struct {
	c    *Control
	log  *slog.Logger
	ctx  context.Context   // ends with Close
	proc *datapath.Process // nil between two processes
	want want

	unclaimed unclaimed
	restarts  restarts
	fallen    fallen
	renewal   renewal
	watching  bool // both watchers have been started
	adopted   bool // an earlier process was looked for

	upstreams chan []netip.AddrPort // the latest, from watchUpstreams
	changed   chan struct{}         // the host changed, from watchHost
	wg        sync.WaitGroup        // both watchers
}

func newSupervisor(ctx context.Context, c *Control) *supervisor {
	s := &supervisor{
		c: c, log: c.log, ctx: ctx, want: newWant(),
		upstreams: make(chan []netip.AddrPort, 1),
		changed:   make(chan struct{}, 1),
		fallen:    newFallen(),
		unclaimed: newUnclaimed(),
		renewal:   newRenewal(&c.cfg),
	}
	s.want.upstreams = c.cfg.DNS.Servers
	return s
}

// run is the life of a Control.
func (s *supervisor) run() {
	defer s.end()
	err := s.launch()
	if s.ctx.Err() != nil {
		return
	}
	if err != nil {
		s.c.fail(err)
		return
	}
	close(s.c.ready)
	for {
		s.c.setState(Running)
		s.serve()
		if s.ctx.Err() != nil {
			return
		}
		s.c.setState(Restarting)
		if !s.replace() {
			return
		}
	}
}

// replace launches until a process has everything, which is true, or the Control is closed.
func (s *supervisor) replace() bool {
	for {
		s.retire()
		wait := s.restarts.next(time.Now())
		s.log.Info("restarting datapath", "in", wait)
		if !s.pause(wait) {
			return false
		}
		s.c.countRestart()
		err := s.launch()
		switch {
		case s.ctx.Err() != nil:
			return false
		case err == nil:
			return true
		}
		s.log.Error("restart datapath", "err", err)
	}
}

// launch makes sure of a process and sends it everything that is wanted.
func (s *supervisor) launch() error {
	began := time.Now()
	cfg := s.c.cfg.Datapath
	cfg.Event = s.event
	p := s.adopt(cfg)
	if p == nil {
		var err error
		if p, err = datapath.Start(cfg); err != nil {
			return err
		}
	}
	s.proc = p
	// The process needs a millisecond or two to isolate itself. What control has to do anyway is done meanwhile.
	s.watch()
	h, err := p.Hello(s.ctx)
	if err != nil {
		return fmt.Errorf("start datapath: %w", errors.Join(err, p.Err()))
	}
	// What this one refuses although an earlier one took it (the TAP of a container that has ended) stays
	// wanted: its owner will say when it is not.
	refused := func(r datapath.Request, err *datapath.RefusedError) { s.logRefusal(r, err) }
	if err := p.DoAll(s.ctx, s.want.requests(), refused); err != nil {
		return fmt.Errorf("start datapath: %w", err)
	}
	s.tellAll(s.unclaimed.DropGone())
	// An adopted one has carried what is in it.
	s.renewal.started(max(s.want.attached, s.unclaimed.Len()), len(s.want.networks))
	s.c.setProcess(p.PID(), h)
	s.log.Info("datapath runs", "pid", p.PID(), "took", time.Since(began), "weakened", h.Confine.Weakened())
	return nil
}

// serve works until the process ends or the Control is closed.
func (s *supervisor) serve() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.proc.Done():
			s.log.Error("datapath ended", "pid", s.proc.PID(), "err", s.proc.Err())
			return
		case o := <-s.c.ops:
			o.reply <- o.run(s)
		case u := <-s.upstreams:
			s.setUpstreams(u)
		case <-s.changed:
			s.log.Info("host addresses or routes changed")
			s.tell(datapath.HostChanged())
		case e := <-s.fallen.news:
			s.fell(e)
		case <-s.fallen.timer.C:
			s.warnFallen()
		case <-s.unclaimed.timer.C:
			s.dropUnclaimed()
		case <-s.renewal.timer.C:
			s.renew()
		}
	}
}

// pause serves without a process for as long as wait, and reports false when the Control is closed.
func (s *supervisor) pause(wait time.Duration) bool {
	t := time.NewTimer(wait)
	defer t.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return false
		case <-t.C:
			return true
		case o := <-s.c.ops:
			o.reply <- o.run(s)
		case u := <-s.upstreams:
			s.setUpstreams(u)
		}
	}
}

// send asks for one thing, unless an adopted process has it already. Its error is that of ask.
func (s *supervisor) send(r datapath.Request) error {
	before, there := s.unclaimed.Claim(r)
	s.tellAll(before)
	if there {
		return nil
	}
	return s.ask(r)
}

// ask asks for one thing. Its error is a refusal or ErrClosed. Anything else that goes wrong is the
// end of this process: it is killed, the next one gets what is wanted, and the error is nil.
func (s *supervisor) ask(r datapath.Request) error {
	if s.proc == nil {
		return nil
	}
	err := s.proc.Do(s.ctx, r)
	_, refused := errors.AsType[*datapath.RefusedError](err)
	switch {
	case err == nil, refused:
		return err
	case s.ctx.Err() != nil:
		return ErrClosed
	}
	s.log.Error("datapath does not answer, killing it", "pid", s.proc.PID(), "request", r, "err", err)
	s.proc.Kill()
	return nil
}

// tell tells the datapath something that is so, whatever it answers.
func (s *supervisor) tell(r datapath.Request) {
	if err := s.send(r); err != nil && !errors.Is(err, ErrClosed) {
		s.logRefusal(r, err)
	}
}

func (s *supervisor) logRefusal(r datapath.Request, err error) {
	s.log.Warn("refused by datapath", "request", r, "err", err)
}

func (s *supervisor) stats(ctx context.Context, network string) (spec.Stats, error) {
	if _, err := s.want.network(network); err != nil {
		return spec.Stats{}, err
	}
	if s.proc == nil {
		return spec.Stats{}, errRestarting
	}
	return s.proc.Stats(ctx, network)
}

// retire makes sure that the process is gone.
func (s *supervisor) retire() {
	s.c.setProcess(0, s.c.Status().Hello)
	s.unclaimed.clear()
	if s.proc != nil {
		s.proc.Kill()
		s.proc = nil
	}
}

// end releases everything and makes the state final.
func (s *supervisor) end() {
	s.c.cancel()
	s.fallen.timer.Stop()
	s.unclaimed.timer.Stop()
	s.renewal.timer.Stop()
	switch {
	case s.proc == nil:
	case s.missed():
		s.log.Info("datapath goes on until it is adopted", "pid", s.proc.PID())
		s.proc.Leave()
	default:
		if err := s.proc.Close(); err != nil {
			s.log.Warn("close datapath", "err", err)
		}
		if path := s.c.cfg.Datapath.Socket; path != "" {
			_ = os.Remove(path) // the next datapath would
		}
	}
	s.want.close()
	s.wg.Wait()
	s.c.setProcess(0, s.c.Status().Hello)
	s.c.finish()
}
