package join

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/wire"
	"github.com/usernet/usernet/portfwd"
)

// session is one connection: a sandbox, once it has joined. It has a goroutine while there is something to receive, and its
// link another while there is something to handle.
type session struct {
	s    *Server
	l    *link
	conn *wire.Polled // l's
	pid  int
	log  *slog.Logger
	// ctx ends with the connection, and with it what the Controller does for it.
	ctx    context.Context
	cancel context.CancelFunc

	joined func()      // tells that the next may join
	late   *time.Timer // ends a connection that does not join

	id    string        // of the sandbox, set once by Server.name
	ended chan struct{} // closed by Server.end

	// What follows is the handler's.
	silent   *time.Timer        // calls joined for who says nothing; nil once something was said
	sandbox  Sandbox            // nil before it has joined and after it has left
	answered bool               // the shim knows that it is in the Networks
	kept     []portfwd.Listener // what came before a rejoin
}

// newSession takes c over, unless there is an error.
func newSession(s *Server, c wire.Socket, pid int) (*session, error) {
	conn, err := s.poller.Add(c)
	if err != nil {
		return nil, err
	}
	l, err := newLink(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ss := &session{
		s: s, l: l, conn: conn, pid: pid, log: s.log.With("pid", pid),
		ctx: ctx, cancel: cancel, ended: make(chan struct{}), joined: func() {},
	}
	ss.late = time.AfterFunc(helloTimeout, func() { l.fail(os.ErrDeadlineExceeded) })
	l.handle = ss.handle
	return ss, nil
}

// start begins to receive.
func (ss *session) start() {
	ss.silent = time.AfterFunc(turnPatience, ss.joined)
	go ss.receive()
}

// receive takes what is there and waits for more. When the connection has ended, it ends the sandbox.
func (ss *session) receive() {
	err := ss.l.drain()
	if err == nil {
		if err = ss.conn.Await(ss.receive); err == nil {
			return
		}
	}
	ss.l.end(err)
	ss.late.Stop()
	ss.cancel()
	ss.joined()
	ss.l.work.Wait()
	ss.heard()
	ss.finish()
	ss.s.end(ss)
}

// heard lets who has said something keep its turn until it has joined.
func (ss *session) heard() {
	if ss.silent != nil {
		ss.silent.Stop()
		ss.silent = nil
	}
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
	ss.heard()
	if ss.ctx.Err() != nil {
		return // nobody waits
	}
	v, err := ss.answer(&r)
	unheard := ss.l.reply(r.message, v, err)
	if unheard != nil && !errors.Is(unheard, ErrGone) {
		ss.l.fail(fmt.Errorf("answer %s: %w", r.Kind, unheard))
	}
	switch {
	case err == nil && r.Kind == kindJoin:
		// One that did not hear that it joined joins the next daemon, not rejoins: nothing of it may be left.
		ss.answered = unheard == nil
		ss.joined()
	case err == nil && r.Kind == kindRejoin:
		ss.answered = true
		ss.joined()
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
		ctx, cancel := context.WithTimeout(ss.ctx, requestTimeout)
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
func (ss *session) admit(ctx context.Context, version int, c *cnm.SandboxConfig, rejoin bool) error {
	if ss.sandbox != nil || ss.id != "" {
		return fault.New(fault.Invalid, "the sandbox has joined already")
	}
	if err := checkVersion(version); err != nil {
		return err
	}
	if ss.pid > 0 {
		c.ShimPID = ss.pid
	}
	ss.late.Stop()
	ss.log = ss.log.With("sandbox", c.Name)
	return ss.s.name(ctx, ss, c.ID, rejoin)
}

func (ss *session) join(r *request) (any, error) {
	b, err := body[joinBody](r.message)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ss.ctx, joinTimeout)
	defer cancel()
	if err := ss.admit(ctx, b.Version, &b.Config, false); err != nil {
		return nil, err
	}
	sandbox, joined, err := ss.s.ctl.Join(ctx, b.Config, &namespace{l: ss.l, legs: ss.legs})
	if err != nil {
		ss.s.unname(ss) // before the answer, after which it may try again
		return nil, err
	}
	ss.sandbox = sandbox
	ss.log.Info("sandbox joined")
	return joinedBody{joined, ss.legs(joined.Links...)}, nil
}

func (ss *session) rejoin(r *request) error {
	b, err := body[rejoinBody](r.message)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ss.ctx, joinTimeout)
	defer cancel()
	if err := ss.admit(ctx, b.Version, &b.Config, true); err != nil {
		return err
	}
	ss.sandbox, err = ss.s.ctl.Rejoin(ctx, b.Config, b.Rejoin, ss.kept, &namespace{l: ss.l, legs: ss.legs})
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
		if err := boundSocket(f, p); err != nil {
			return fmt.Errorf("take socket of %s: %w", p, err)
		}
		g, err := unpolled(f)
		if err != nil {
			return fmt.Errorf("take socket of %s: %w", p, err)
		}
		ss.kept = append(ss.kept, portfwd.Listener{Spec: p, File: g})
	}
	ss.late.Reset(helloTimeout) // each part shows that the other side is alive
	return nil
}

// legs are Links with what else the next daemon must be told of them. The shim has it with each Link, so that a daemon
// may die at any moment.
func (ss *session) legs(links ...plumb.Link) []cnm.RejoinEndpoint {
	known := ss.s.ctl.Endpoints(ss.id)
	legs := make([]cnm.RejoinEndpoint, len(links))
	for i, l := range links {
		legs[i].Link = l
		for _, e := range known {
			if e.ID == l.EndpointID {
				legs[i].NetworkID, legs[i].Config = e.NetworkID, e.Config
			}
		}
	}
	return legs
}

// goodbye ends the connection of a daemon that ends, and says so when it was told to.
func (ss *session) goodbye(reason string, told bool) {
	if told {
		timer := time.AfterFunc(goodbyeTimeout, func() { ss.l.conn.Close() })
		defer timer.Stop()
		if err := ss.l.notify(kindGoodbye, goodbyeBody{reason}); err != nil && !errors.Is(err, ErrGone) {
			ss.log.Warn("goodbye not said", "err", err)
		}
	}
	ss.l.fail(errors.New(reason))
}

func closeListeners(ls []portfwd.Listener) {
	for _, l := range ls {
		l.File.Close()
	}
}
