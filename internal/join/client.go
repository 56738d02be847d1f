package join

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/internal/control"
	"github.com/usernet/usernet/internal/shim"
	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/tap"
)

// Options are what a Client may be given.
type Options struct {
	// Start starts a daemon when none answers, and returns when it does. Nil means that none can be started.
	Start func(ctx context.Context) error
	// Log takes what becomes of the connection; nil discards it.
	Log *slog.Logger

	pauses pauses // zero means the usual ones
}

// pauses say how a Client comes back.
type pauses struct {
	first, most time.Duration // between connects; each is twice the one before
	start       time.Duration // between the most frequent starts of a daemon
	refused     time.Duration // after a refusal
	gap         time.Duration // how long a request waits for a daemon
}

var usualPauses = pauses{
	first: 10 * time.Millisecond, most: time.Second, start: 5 * time.Second, refused: 10 * time.Second, gap: 5 * time.Second,
}

// Client is the shim's side of one sandbox. Its methods are safe for concurrent use.
type Client struct {
	path   string
	uid    int // of this process, and of the daemon it believes
	config cnm.SandboxConfig
	opts   Options
	log    *slog.Logger

	changes chan shim.Change
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup // keepUp
	done    chan struct{}  // closed by Close
	once    sync.Once
	slots   chan struct{} // bounds the requests of this side

	// mu guards what follows; nothing is called while it is held.
	mu       sync.Mutex
	state    control.State // Running, Restarting or Closed
	l        *link         // nil unless Running
	epoch    int           // counts the daemons that were asked, of which some may have refused
	daemons  int           // that have had the sandbox
	turned   chan struct{} // closed and replaced when state changes
	stopped  bool          // the daemon said goodbye
	pid      int           // of a process in the namespaces
	pidTold  int           // the epoch of the daemon that knows it
	legs     []cnm.RejoinEndpoint
	taps     map[string]*keptTAP
	sockets  []keptSocket
	incoming []keptSocket // the parts of the next set
	plugging string       // the Endpoint whose TAP a change brings, or empty
}

// keptTAP is a duplicate of the TAP of one leg.
type keptTAP struct {
	fd    held
	info  tap.Info
	epoch int // of the daemon that has it
}

// keptSocket is a duplicate of a published socket.
type keptSocket struct {
	spec portfwd.Spec
	fd   held
}

var _ shim.Network = (*Client)(nil)

// joinTries is how often a daemon that ends at the very moment is replaced before Dial gives up.
const joinTries = 3

// Dial joins a sandbox to its Networks at the daemon that listens on path, and starts one when none does. The
// sandbox is in them until Close.
func Dial(ctx context.Context, path string, c cnm.SandboxConfig, o Options) (*Client, cnm.Joined, error) {
	cl := newClient(path, c, o)
	ctx, cancelJoin := context.WithTimeout(ctx, joinTimeout)
	defer cancelJoin()
	for try := 1; ; try++ {
		joined, s, err := cl.join(ctx)
		if err == nil {
			cl.wg.Go(func() { cl.keepUp(s) })
			return cl, joined, nil
		}
		if try == joinTries || !away(err) || ctx.Err() != nil {
			cl.cancel()
			cl.dropKept()
			return nil, cnm.Joined{}, err
		}
	}
}

func newClient(path string, c cnm.SandboxConfig, o Options) *Client {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.pauses == (pauses{}) {
		o.pauses = usualPauses
	}
	cl := &Client{
		path: path, uid: os.Geteuid(), config: c, opts: o, log: o.Log,
		changes: make(chan shim.Change), done: make(chan struct{}), slots: make(chan struct{}, maxQueue/4),
		turned: make(chan struct{}), taps: make(map[string]*keptTAP),
	}
	cl.ctx, cl.cancel = context.WithCancel(context.Background())
	return cl
}

// away reports whether err says that there is no daemon, or that it ended.
func away(err error) bool {
	return errors.Is(err, ErrGone) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) ||
		errors.Is(err, syscall.ECONNRESET)
}

// dial connects to the daemon.
func (c *Client) dial(ctx context.Context) (*net.UnixConn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unixpacket", c.path)
	if err != nil {
		return nil, fmt.Errorf("connect to the daemon: %w", err)
	}
	u := conn.(*net.UnixConn)
	// What another user put there would get our TAPs.
	if uid, _, err := sys.Peer(u); err != nil || uid != c.uid {
		u.Close()
		return nil, errors.Join(fmt.Errorf("connect to the daemon: %s belongs to another user", c.path), err)
	}
	return u, nil
}

// join makes one attempt at being admitted.
func (c *Client) join(ctx context.Context) (cnm.Joined, *clientSession, error) {
	conn, err := c.dial(ctx)
	if err != nil && away(err) && c.opts.Start != nil {
		if err := c.opts.Start(ctx); err != nil {
			return cnm.Joined{}, nil, err
		}
		conn, err = c.dial(ctx)
	}
	if err != nil {
		return cnm.Joined{}, nil, err
	}
	s, err := c.open(conn)
	if err != nil {
		return cnm.Joined{}, nil, err
	}
	r, err := s.l.callFor(ctx, kindJoin, joinBody{Version, c.config})
	if err == nil {
		var b joinedBody
		b, err = body[joinedBody](r.message)
		r.close()
		if err == nil {
			c.mu.Lock()
			c.legs = b.Legs
			c.runLocked(s.l)
			c.mu.Unlock()
			return b.Joined, s, nil
		}
	}
	s.close()
	return cnm.Joined{}, nil, err
}

// runLocked makes l the daemon's connection.
func (c *Client) runLocked(l *link) {
	if c.state == control.Closed {
		return
	}
	c.l, c.stopped = l, false
	c.daemons++
	c.epoch = max(c.epoch, 1)
	c.turnLocked(control.Running)
}

func (c *Client) turnLocked(to control.State) {
	c.state = to
	close(c.turned)
	c.turned = make(chan struct{})
}

// keepUp is the Client's goroutine: it waits for the end of a connection and makes the next.
func (c *Client) keepUp(s *clientSession) {
	for s != nil {
		select {
		case <-s.l.done:
		case <-c.ctx.Done():
		}
		s.close()
		c.mu.Lock()
		c.l = nil
		closed := c.state == control.Closed
		if !closed {
			c.turnLocked(control.Restarting)
		}
		stopped := c.stopped
		c.mu.Unlock()
		if closed {
			return
		}
		c.log.Warn("daemon gone; the sandbox waits for the next", "told", stopped)
		s = c.reconnect()
	}
}

// reconnect returns once a daemon has the sandbox again, or nil when the Client is closed.
func (c *Client) reconnect() *clientSession {
	p := c.opts.pauses
	pause := p.first
	var started time.Time
	refused := false
	for {
		// Sandboxes that lost one daemon do not all come at once.
		timer := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-timer.C:
		case <-c.ctx.Done():
			timer.Stop()
			return nil
		}
		s, err := c.rejoin(c.ctx)
		pause = min(2*pause, p.most)
		_, no := errors.AsType[*RefusedError](err)
		switch {
		case err == nil:
			c.log.Info("daemon has the sandbox again")
			return s
		case no:
			if !refused {
				c.log.Error("daemon refuses the sandbox; it goes on without a network", "err", err)
			}
			refused, pause = true, p.refused
		case away(err) && time.Since(started) >= p.start:
			started = time.Now()
			c.startDaemon()
		default:
			c.log.Debug("no daemon yet", "err", err)
		}
	}
}

// startDaemon has a daemon started, unless the last one was told to end.
func (c *Client) startDaemon() {
	c.mu.Lock()
	stopped := c.stopped
	c.mu.Unlock()
	if stopped || c.opts.Start == nil {
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, joinTimeout)
	defer cancel()
	if err := c.opts.Start(ctx); err != nil && c.ctx.Err() == nil {
		c.log.Warn("daemon not started", "err", err)
	}
}

// Close takes the sandbox out of its Networks: the daemon frees what it had. It is safe to call more than once.
func (c *Client) Close() error {
	var err error
	c.once.Do(func() {
		c.mu.Lock()
		l := c.l
		c.turnLocked(control.Closed)
		c.mu.Unlock()
		// Changes that wait for the shim fail, so that the daemon need not wait for them.
		close(c.done)
		if l != nil {
			// Whoever starts a sandbox of the same name next finds it free.
			var r request
			r, err = l.call(context.Background(), kindLeave, nil)
			r.close()
			if away(err) {
				err = nil // it is free then too
			}
		}
		c.cancel()
		c.wg.Wait()
		c.dropKept()
	})
	return err
}

// dropKept closes every kept file.
func (c *Client) dropKept() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.taps {
		t.fd.close()
	}
	clear(c.taps)
	closeSockets(c.sockets)
	closeSockets(c.incoming)
	c.sockets, c.incoming = nil, nil
}

func closeSockets(s []keptSocket) {
	for _, k := range s {
		k.fd.close()
	}
}
