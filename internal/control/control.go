package control

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/usernet/usernet/internal/datapath"
)

// ErrClosed is the cause of every error after Close.
var ErrClosed = errors.New("control is closed")

// Config is what a Control is made of.
type Config struct {
	DNS DNS
	// Datapath says how to start the process, or to adopt it where it has a Socket. Its Event is control's; use
	// Event below.
	Datapath datapath.Config
	// Log receives state changes; nil discards them.
	Log *slog.Logger

	// StateChanged, when not nil, is called by the supervisor after each change. It must not block and not
	// call the Control.
	StateChanged func(State)
	// Event, when not nil, is given the datapath's events. It must not block and not call the Control.
	Event func(datapath.Event)

	fallenGrace time.Duration // 0 means the usual one
	claimGrace  time.Duration // 0 means the usual one
	renewCrowd  int           // 0 means the usual one, and the usual delay
	renewDelay  time.Duration
}

func (c *Config) grace() time.Duration {
	if c.fallenGrace > 0 {
		return c.fallenGrace
	}
	return fallenGrace
}

// DNS says whom the Networks' resolvers ask for what they do not know.
type DNS struct {
	// Servers are the upstreams; empty means those of ResolvConf, followed as it changes.
	Servers []netip.AddrPort
	// ResolvConf is the host's file; empty means /etc/resolv.conf.
	ResolvConf string
}

// Control is the control side of one datapath process and of all Networks in it. Its methods are safe
// for concurrent use.
type Control struct {
	cfg    Config
	log    *slog.Logger
	cancel context.CancelFunc
	ops    chan op
	ready  chan struct{}  // closed at the first Running
	done   chan struct{}  // closed when everything is released
	wg     sync.WaitGroup // the supervisor

	// mu guards what follows; nothing is called while it is held.
	mu       sync.Mutex
	state    State
	err      error // why Failed
	restarts int
	hello    datapath.Hello
	pid      int
}

// Start begins to start the datapath and returns; Ready waits for it. Requests made meanwhile wait
// for it too. The end of ctx is a Close that nobody waits for.
func Start(ctx context.Context, cfg Config) (*Control, error) {
	if len(cfg.Datapath.Args) == 0 {
		return nil, errors.New("start control: the arguments of the datapath are missing")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &Control{
		cfg: cfg, log: cfg.Log, cancel: cancel,
		ops: make(chan op), ready: make(chan struct{}), done: make(chan struct{}),
	}
	c.wg.Go(newSupervisor(ctx, c).run)
	return c, nil
}

// Ready waits until the datapath runs for the first time. Its error says why it never will.
func (c *Control) Ready(ctx context.Context) error {
	select {
	case <-c.ready:
		return nil
	case <-c.done:
		return c.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Status is what a Control says of itself.
type Status struct {
	State State
	// PID is the datapath's process, 0 when there is none.
	PID int
	// Restarts counts the datapaths after the first.
	Restarts int
	// Hello is what the running datapath, or the one before, said of its isolation.
	Hello datapath.Hello
}

// Status returns how things stand, without waiting for anything.
func (c *Control) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Status{State: c.state, PID: c.pid, Restarts: c.restarts, Hello: c.hello}
}

// Done is closed when the Control can no longer work: Failed or Closed, with everything released.
func (c *Control) Done() <-chan struct{} { return c.done }

// Err says why it can no longer work; nil while it can.
func (c *Control) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.state {
	case Failed:
		return c.err
	case Closed:
		return ErrClosed
	}
	return nil
}

// Close ends the datapath and what it forwards and waits until they are gone. One with a Socket that has Endpoints
// is left to the next Control instead. Close is safe to call more than once.
func (c *Control) Close() error {
	c.cancel()
	c.wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// op is one piece of work for the supervisor.
type op struct {
	run   func(*supervisor) error
	reply chan error
}

// do has the supervisor run f and returns its error.
func (c *Control) do(f func(*supervisor) error) error {
	o := op{run: f, reply: make(chan error, 1)}
	select {
	case c.ops <- o:
	case <-c.done:
		return c.Err()
	}
	return <-o.reply // the supervisor answers every op it takes
}
