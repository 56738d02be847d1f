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
	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/internal/trim"
	"github.com/usernet/usernet/internal/wire"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

const (
	// maxSandboxes bounds the connections; each takes a descriptor here, and one more per TAP and socket.
	maxSandboxes = 8192
	// helloTimeout is how long a connection may take to begin.
	helloTimeout = 10 * time.Second
	// joinTimeout bounds a join or rejoin; thousands of sockets take seconds.
	joinTimeout = 30 * time.Second
	// goodbyeTimeout bounds what a daemon that ends says to all at once.
	goodbyeTimeout = time.Second
	// acceptPause is how long to wait when no descriptor is left for another connection.
	acceptPause = 100 * time.Millisecond
)

// Controller is what stands behind the socket; Of makes one of a *cnm.Controller.
type Controller interface {
	Join(ctx context.Context, s cnm.SandboxConfig, ns cnm.Namespace) (Sandbox, cnm.Joined, error)
	// Rejoin owns the sockets of ls when it succeeds.
	Rejoin(ctx context.Context, s cnm.SandboxConfig, r cnm.Rejoin, ls []portfwd.Listener, ns cnm.Namespace) (Sandbox, error)
	// Endpoints returns those of a sandbox, none when there is no such sandbox.
	Endpoints(sandbox string) []cnm.EndpointInfo
}

// Sandbox is a *cnm.Sandbox.
type Sandbox interface {
	Attach(endpointID string, dev *os.File, info tap.Info) error
	Started(pid int)
	Publish(specs []portfwd.Spec) ([]portfwd.Spec, error)
	Unpublish(specs []portfwd.Spec) error
	Ports() []portfwd.Spec
	Stats(ctx context.Context) (spec.Stats, error)
	Close() error
}

// Of makes a Controller of c.
func Of(c *cnm.Controller) Controller { return controller{c} }

type controller struct{ *cnm.Controller }

func (c controller) Join(ctx context.Context, s cnm.SandboxConfig, ns cnm.Namespace) (Sandbox, cnm.Joined, error) {
	sb, j, err := c.Controller.Join(ctx, s, ns)
	if err != nil {
		return nil, j, err // not a nil *cnm.Sandbox in an interface
	}
	return sb, j, nil
}

func (c controller) Rejoin(ctx context.Context, s cnm.SandboxConfig, r cnm.Rejoin, ls []portfwd.Listener, ns cnm.Namespace) (Sandbox, error) {
	sb, err := c.Controller.Rejoin(ctx, s, r, ls, ns)
	if err != nil {
		return nil, err
	}
	return sb, nil
}

func (c controller) Endpoints(sandbox string) []cnm.EndpointInfo {
	s, err := c.Sandbox(sandbox)
	if err != nil {
		return nil
	}
	return s.Endpoints
}

// ServerOptions are what a Server may be given.
type ServerOptions struct {
	// Log takes joins, ends and broken connections; nil discards them.
	Log *slog.Logger
	// Changed, when not nil, is told how many connections there are. It must not block.
	Changed func(connections int)
}

// Server is the daemon's side.
type Server struct {
	ctl     Controller
	uid     int // of this process, and of whom it serves
	log     *slog.Logger
	changed func(int)

	// mu guards what follows; only changed is called while it is held.
	mu       sync.Mutex
	closing  bool
	sessions map[*session]struct{}
	names    map[string]*session // by the sandbox's id, of which there is one connection
	poller   *wire.Poller        // made by the first session; closed after the last

	turns turns
	wg    sync.WaitGroup // of sessions, until their end
}

// NewServer makes a Server. Shutdown ends it.
func NewServer(c Controller, o ServerOptions) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func(int) {}
	}
	return &Server{
		ctl: c, uid: os.Geteuid(), log: o.Log, changed: o.Changed,
		sessions: make(map[*session]struct{}), names: make(map[string]*session),
		turns: newTurns(),
	}
}

// Serve accepts connections until l is closed, which is no error.
func (s *Server) Serve(l *net.UnixListener) error {
	for {
		c, err := l.AcceptUnix()
		switch {
		case err == nil:
			s.accept(c)
		case errors.Is(err, net.ErrClosed):
			return nil
		default:
			// Without descriptors for a moment, a daemon is no daemon to give up.
			s.log.Warn("join socket", "err", err)
			time.Sleep(acceptPause)
		}
	}
}

// accept begins a session, or refuses it.
func (s *Server) accept(c *net.UnixConn) {
	uid, pid, err := sys.Peer(c)
	if err == nil && uid != s.uid {
		// Root too: who is root can become this user.
		err = fmt.Errorf("user %d is not user %d", uid, s.uid)
	}
	joined := func() {}
	if err == nil {
		joined = sync.OnceFunc(s.turns.wait())
		err = s.begin(c, pid, joined)
	}
	if err != nil {
		joined()
		s.log.Warn("connection refused", "pid", pid, "err", err)
		c.Close()
	}
}

// begin makes a session of c, which calls joined when it has joined or never will. After an error there is none, and the caller does.
func (s *Server) begin(c *net.UnixConn, pid int, joined func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return errors.New("the daemon ends")
	}
	if len(s.sessions) >= maxSandboxes {
		return fmt.Errorf("there are %d sandboxes, as many as may be", maxSandboxes)
	}
	if s.poller == nil {
		p, err := wire.NewPoller()
		if err != nil {
			return err
		}
		s.poller = p
	}
	ss, err := newSession(s, c, pid)
	if err != nil {
		return err
	}
	ss.joined = joined
	s.sessions[ss] = struct{}{}
	s.changed(len(s.sessions))
	s.wg.Add(1)
	ss.start()
	return nil
}

func (s *Server) end(ss *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, ss)
	s.unnameLocked(ss)
	close(ss.ended)
	s.changed(len(s.sessions))
	s.wg.Done()
}

// name says which sandbox a session is, of which there is one. An earlier session whose connection has ended is waited
// for, for as long as ctx lets. One that has not is in the way, unless the same process comes back with a rejoin: it
// has given up its earlier connection, whatever that still does here.
func (s *Server) name(ctx context.Context, ss *session, id string, rejoin bool) error {
	for {
		s.mu.Lock()
		old := s.names[id]
		if old == nil {
			ss.id = id
			s.names[id] = ss
		}
		s.mu.Unlock()
		switch {
		case old == nil:
			return nil
		case old.ctx.Err() != nil:
		case rejoin && old.pid == ss.pid:
			old.l.fail(errors.New("the sandbox has another connection"))
		default:
			return fmt.Errorf("sandbox %s is here already", id)
		}
		select {
		case <-old.ended:
		case <-ctx.Done():
			return fmt.Errorf("sandbox %s: wait for the end of its last connection: %w", id, ctx.Err())
		}
	}
}

// unname gives the id of a sandbox that has left back.
func (s *Server) unname(ss *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unnameLocked(ss)
}

func (s *Server) unnameLocked(ss *session) {
	if s.names[ss.id] == ss {
		delete(s.names, ss.id)
	}
}

// Shrink lets go of the room that sandboxes took which have gone.
func (s *Server) Shrink() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions, s.names = trim.Map(s.sessions), trim.Map(s.names)
}

// ending reports whether sandboxes should outlive their connections.
func (s *Server) ending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// Shutdown ends the connections of all shims and waits. Their sandboxes are not closed: they rejoin the next daemon.
// With told the daemon ends because somebody wants none: the shims hear a goodbye, and start no other. The listener is the
// caller's to close first.
func (s *Server) Shutdown(reason string, told bool) {
	s.mu.Lock()
	s.closing = true
	all := make([]*session, 0, len(s.sessions))
	for ss := range s.sessions {
		all = append(all, ss)
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, ss := range all {
		wg.Go(func() { ss.goodbye(reason, told) })
	}
	wg.Wait()
	s.wg.Wait()
	s.closePoller()
}

// closePoller is called when no session is left, and none will come.
func (s *Server) closePoller() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.poller != nil {
		s.poller.Close()
		s.poller = nil
	}
}
