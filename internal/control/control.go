package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"

	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

var (
	// ErrClosed is the cause of every error after Close.
	ErrClosed = errors.New("control is closed")
	// ErrNotPublished is the cause when Unpublish names a port that is not published.
	ErrNotPublished = errors.New("it is not published")
)

// Config is what a Control is made of.
type Config struct {
	Network spec.Network
	DNS     DNS
	// Datapath says how to start the process. Its Event is control's; use Event below.
	Datapath datapath.Config
	// Capture, when not nil, receives everything that passes the switch in pcap form. It stays the
	// caller's and must be open until Close.
	Capture *os.File
	// Log receives state changes; nil discards them.
	Log *slog.Logger

	// StateChanged, when not nil, is called by the supervisor after each change. It must not block and not
	// call the Control.
	StateChanged func(State)
	// Event, when not nil, is given the datapath's events. It must not block and not call the Control.
	Event func(datapath.Event)
}

// DNS says what the Network's resolver answers from.
type DNS struct {
	// Servers are the upstreams; empty means those of ResolvConf, followed as it changes.
	Servers []netip.AddrPort
	// ResolvConf is the host's file; empty means /etc/resolv.conf.
	ResolvConf string
	// Hosts are names answered without asking anyone.
	Hosts map[string][]netip.Addr
}

// Control is one Sandbox's control side. Its methods are safe for concurrent use.
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
	ports    []portfwd.Spec
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

// Attach gives the Network an Endpoint on a TAP. Control duplicates tapFile, which stays the
// caller's. An error means that the datapath refused it and nothing changed; a datapath that dies
// meanwhile is not an error, its successor gets the Endpoint.
func (c *Control) Attach(ep spec.Endpoint, tapFile *os.File, info tap.Info) error {
	dup, err := duplicate(tapFile)
	if err != nil {
		return fmt.Errorf("attach endpoint %s: duplicate its TAP: %w", ep.ID, err)
	}
	err = c.do(func(s *supervisor) error { return s.attach(ep, dup, info) })
	if err != nil {
		dup.Close()
		return fmt.Errorf("attach endpoint %s: %w", ep.ID, err)
	}
	return nil
}

// Detach takes an Endpoint away and closes its TAP. Its ports stay bound for the next Endpoint.
func (c *Control) Detach(id string) error {
	if err := c.do(func(s *supervisor) error { return s.detach(id) }); err != nil {
		return fmt.Errorf("detach endpoint %s: %w", id, err)
	}
	return nil
}

// Publish binds what specs ask for, all or nothing, and forwards it to the Endpoint that was
// attached first, or will be. It returns what was bound, with the real ports and addresses.
// A port in use is an error that wraps syscall.EADDRINUSE.
func (c *Control) Publish(specs []portfwd.Spec) ([]portfwd.Spec, error) {
	ls, err := portfwd.Listen(specs, c.cfg.Network.Subnet6.IsValid())
	if err != nil {
		return nil, err
	}
	if err := c.do(func(s *supervisor) error { return s.publish(ls) }); err != nil {
		for _, l := range ls {
			l.File.Close()
		}
		return nil, fmt.Errorf("publish ports: %w", err)
	}
	bound := make([]portfwd.Spec, len(ls))
	for i, l := range ls {
		bound[i] = l.Spec
	}
	return bound, nil
}

// Unpublish ends ports. A Spec without an address stands for all addresses its port is bound to,
// one without a container port for any. One that is not published is an error, and then none is ended.
func (c *Control) Unpublish(specs []portfwd.Spec) error {
	return c.do(func(s *supervisor) error { return s.unpublish(specs) })
}

// Ports returns what is published, in the order it was.
func (c *Control) Ports() []portfwd.Spec {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]portfwd.Spec(nil), c.ports...)
}

// Stats asks the datapath for its counters. They start anew with each datapath.
func (c *Control) Stats(ctx context.Context) (spec.Stats, error) {
	var st spec.Stats
	err := c.do(func(s *supervisor) (err error) {
		st, err = s.stats(ctx)
		return err
	})
	return st, err
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

// Close ends the datapath and the published ports and waits until they are gone. It is safe to
// call more than once.
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
