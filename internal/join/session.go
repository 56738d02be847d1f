package join

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/portfwd"
)

// session is one connection: a sandbox, once it has joined. One goroutine reads, one handles.
type session struct {
	s   *Server
	l   *link
	pid int
	log *slog.Logger
	// ctx ends with the connection, and with it what the Controller does for it.
	ctx    context.Context
	cancel context.CancelFunc
	legs   chan struct{} // holds one: the legs changed

	id string // of the sandbox, set once by Server.name

	// What follows is the handler's.
	sandbox  Sandbox            // nil before it has joined and after it has left
	answered bool               // the shim knows that it has joined
	kept     []portfwd.Listener // what came before a rejoin
}

func newSession(s *Server, c *net.UnixConn, pid int) (*session, error) {
	l, err := newLink(c)
	if err != nil {
		return nil, err
	}
	return newSessionOn(s, l, pid), nil
}

func newSessionOn(s *Server, l *link, pid int) *session {
	ctx, cancel := context.WithCancel(context.Background())
	return &session{
		s: s, l: l, pid: pid, log: s.log.With("pid", pid),
		ctx: ctx, cancel: cancel, legs: make(chan struct{}, 1),
	}
}

// run handles requests until the connection ends, and then ends the sandbox.
func (ss *session) run() {
	var wg sync.WaitGroup
	wg.Go(func() {
		ss.l.read()
		ss.cancel()
	})
	if err := ss.l.conn.SetReceiveDeadline(time.Now().Add(helloTimeout)); err != nil {
		ss.l.fail(err)
	}
	for more := true; more; {
		select {
		case r, ok := <-ss.l.queue:
			if more = ok; ok {
				ss.handle(r)
			}
		case <-ss.legs:
			if ss.answered {
				ss.tellLegs()
			}
		}
	}
	wg.Wait()
	ss.finish()
}

// finish frees what the sandbox had, unless it is to outlive this daemon.
func (ss *session) finish() {
	closeListeners(ss.kept)
	if ss.sandbox == nil {
		if err := ss.l.cause(); errors.Is(err, os.ErrDeadlineExceeded) {
			ss.log.Warn("connection ended: it did not join")
		}
		return
	}
	if ss.answered && ss.s.ending() {
		return
	}
	if err := ss.sandbox.Close(); err != nil {
		ss.log.Warn("sandbox not freed", "err", err)
	}
	ss.log.Info("sandbox ended", "cause", ss.l.cause())
}

// handle answers one request.
func (ss *session) handle(r request) {
	defer r.close()
	if ss.ctx.Err() != nil {
		return // nobody waits
	}
	v, err := ss.answer(&r)
	if err := ss.l.reply(r.message, v, err); err != nil && !errors.Is(err, ErrGone) {
		ss.l.fail(fmt.Errorf("answer %s: %w", r.Kind, err))
	}
	switch {
	case err == nil && (r.Kind == kindJoin || r.Kind == kindRejoin):
		ss.answered = true
		ss.tellLegsAfter(r.Kind)
	case err != nil && ss.sandbox == nil && r.Kind != kindLeave:
		// What could not join has nothing more to say.
		ss.l.fail(err)
	}
}

func (ss *session) answer(r *request) (any, error) {
	switch r.Kind {
	case kindJoin:
		return ss.join(r)
	case kindKept:
		return nil, ss.takeKept(r)
	case kindRejoin:
		return nil, ss.rejoin(r)
	}
	if ss.sandbox == nil {
		return nil, fault.New(fault.Invalid, "%s: the sandbox has not joined", r.Kind)
	}
	switch r.Kind {
	case kindAttach:
		return nil, ss.attach(r)
	case kindStarted:
		b, err := body[pidBody](r.message)
		if err == nil {
			ss.sandbox.Started(b.PID)
		}
		return nil, err
	case kindPublish:
		b, err := body[portsBody](r.message)
		if err != nil {
			return nil, err
		}
		bound, err := ss.sandbox.Publish(b.Ports)
		return portsBody{bound}, err
	case kindUnpublish:
		b, err := body[portsBody](r.message)
		if err != nil {
			return nil, err
		}
		return nil, ss.sandbox.Unpublish(b.Ports)
	case kindPorts:
		return portsBody{ss.sandbox.Ports()}, nil
	case kindStats:
		ctx, cancel := context.WithTimeout(ss.ctx, RequestTimeout)
		defer cancel()
		return ss.sandbox.Stats(ctx)
	case kindLeave:
		err := ss.sandbox.Close()
		ss.sandbox = nil
		ss.s.unname(ss)
		ss.log.Info("sandbox left")
		return nil, err
	}
	return nil, fault.New(fault.Invalid, "unknown request %q", r.Kind)
}

func (ss *session) attach(r *request) error {
	b, err := body[attachBody](r.message)
	if err != nil {
		return err
	}
	f, err := r.file()
	if err != nil {
		return err
	}
	defer f.Close()
	return ss.sandbox.Attach(b.Endpoint, f, b.Info)
}

// admit is common to join and rejoin: one sandbox for each connection, and its process is who connected.
func (ss *session) admit(version int, c *cnm.SandboxConfig) error {
	if ss.sandbox != nil || ss.id != "" {
		return fault.New(fault.Invalid, "the sandbox has joined already")
	}
	if err := checkVersion(version); err != nil {
		return err
	}
	if ss.pid > 0 {
		c.ShimPID = ss.pid
	}
	if err := ss.s.name(ss, c.ID); err != nil {
		return err
	}
	ss.log = ss.log.With("sandbox", c.Name)
	return ss.l.conn.SetReceiveDeadline(time.Time{})
}

func (ss *session) join(r *request) (any, error) {
	b, err := body[joinBody](r.message)
	if err != nil {
		return nil, err
	}
	if err := ss.admit(b.Version, &b.Config); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ss.ctx, joinTimeout)
	defer cancel()
	sandbox, joined, err := ss.s.ctl.Join(ctx, b.Config, &namespace{l: ss.l})
	if err != nil {
		ss.s.unname(ss) // before the answer, after which it may try again
		return nil, err
	}
	ss.sandbox = sandbox
	ss.log.Info("sandbox joined")
	return joinedBody{joined, legsOf(ss.s.ctl.Endpoints(ss.id))}, nil
}

func (ss *session) rejoin(r *request) error {
	b, err := body[rejoinBody](r.message)
	if err != nil {
		return err
	}
	if err := ss.admit(b.Version, &b.Config); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ss.ctx, joinTimeout)
	defer cancel()
	ss.sandbox, err = ss.s.ctl.Rejoin(ctx, b.Config, b.Rejoin, ss.kept, &namespace{l: ss.l})
	if err != nil {
		ss.s.unname(ss)
		return err
	}
	ss.kept = nil // its own now
	ss.log.Info("sandbox rejoined")
	return nil
}

// takeKept takes a part of the sockets that a sandbox brings along.
func (ss *session) takeKept(r *request) error {
	b, err := body[socketsBody](r.message)
	switch {
	case err != nil:
		return err
	case ss.sandbox != nil:
		return fault.New(fault.Invalid, "the sandbox has joined already")
	case len(ss.kept)+len(b.Ports) > maxSockets:
		return fault.New(fault.Invalid, "take sockets: more than %d", maxSockets)
	}
	if err := checkSockets(b, len(r.files)); err != nil {
		return err
	}
	for i, f := range r.files {
		p := b.Ports[i]
		if err := boundSocket(f, p.Proto == portfwd.TCP); err != nil {
			return fmt.Errorf("take socket of %s: %w", p, err)
		}
		g, err := unpolled(f)
		if err != nil {
			return fmt.Errorf("take socket of %s: %w", p, err)
		}
		ss.kept = append(ss.kept, portfwd.Listener{Spec: p, File: g})
	}
	// Each part shows that the other side is alive.
	return ss.l.conn.SetReceiveDeadline(time.Now().Add(helloTimeout))
}

// tellLegsAfter tells a sandbox that rejoined; one that joined has them with its answer.
func (ss *session) tellLegsAfter(k kind) {
	if k == kindRejoin {
		ss.tellLegs()
	}
}

// tellLegs tells the shim what its next daemon must know.
func (ss *session) tellLegs() {
	legs := legsOf(ss.s.ctl.Endpoints(ss.id))
	if err := ss.l.notify(kindLegs, legs); err != nil && !errors.Is(err, ErrGone) {
		ss.log.Warn("legs not told", "err", err)
	}
}

func legsOf(eps []cnm.EndpointInfo) []leg {
	legs := make([]leg, len(eps))
	for i, e := range eps {
		legs[i] = leg{e.ID, e.NetworkID, e.Config}
	}
	return legs
}

// goodbye ends the connection of a daemon that ends.
func (ss *session) goodbye(reason string) {
	timer := time.AfterFunc(goodbyeTimeout, func() { ss.l.conn.Close() })
	defer timer.Stop()
	if err := ss.l.notify(kindGoodbye, goodbyeBody{reason}); err != nil && !errors.Is(err, ErrGone) {
		ss.log.Warn("goodbye not said", "err", err)
	}
	ss.l.fail(errors.New(reason))
}

func closeListeners(ls []portfwd.Listener) {
	for _, l := range ls {
		l.File.Close()
	}
}
