package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/control"
	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/internal/shim"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// Target is the namespace that gets the Network: that of a process, or the one at a path.
type Target struct {
	PID   int
	Netns string
	// Userns is the path of the user namespace to enter; empty means the one that owns the network namespace.
	Userns string
}

// TAP is an open device in place of a Target.
type TAP struct {
	// File is non-blocking. It stays the caller's.
	File *os.File
	Info tap.Info
}

// Config says what a session is. It is inert.
type Config struct {
	// Target is where the interface is; it has no meaning with a TAP.
	Target Target
	TAP    *TAP
	// Linger says that the session goes on when the path of its namespace is gone; processes may still be in it.
	Linger bool

	Network  spec.Network
	Endpoint spec.Endpoint
	// Link is the interface to make, or with Adopt to take over. Its EndpointID is Endpoint.ID.
	Link plumb.Link
	// Routes are set with Configure only.
	Routes plumb.Routes
	// Configure says that the interface is given its addresses, and that lo is set up. Settings in /proc/sys are
	// left as they are but for the Link's Sysctls.
	Configure bool

	// Hosts are names the Network's DNS answers without asking anyone.
	Hosts map[string][]netip.Addr
	// DNS are the upstreams; empty means those of the host's resolv.conf, followed as it changes.
	DNS []netip.AddrPort
	// Publish are ports to bind at the start.
	Publish []portfwd.Spec
	// Splice is control.PrivateConfig's: clients on the host's loopback are spliced and appear with the container's own
	// address.
	Splice bool
	// Capture, when not nil, receives everything that passes the switch in pcap form; it stays the caller's.
	Capture *os.File

	// Log takes state changes; nil discards them. Level is the datapath's, which logs to Stderr; nil means os.Stderr.
	Log    *slog.Logger
	Level  slog.Level
	Stderr *os.File
}

// Session is a Network that works. Its methods are safe for concurrent use.
type Session struct {
	private    *control.Private
	attachment *shim.Attachment // nil with a TAP
	linger     bool
	end        *end
	done       chan struct{}
	stop       chan struct{}
	wg         sync.WaitGroup // watch
	once       sync.Once
	err        error // of Close
}

// Start brings the Network up and returns when it works. An error leaves nothing behind. The session ends with Close,
// which the caller owes; ctx bounds the start only.
func Start(ctx context.Context, cfg Config) (*Session, error) {
	s := &Session{linger: cfg.Linger, end: newEnd(), done: make(chan struct{}), stop: make(chan struct{})}
	var err error
	if cfg.TAP != nil {
		err = s.serve(ctx, &cfg)
	} else {
		err = s.attach(ctx, &cfg)
	}
	if err != nil {
		return nil, err
	}
	s.wg.Go(s.watch)
	return s, nil
}

// Open begins to bring up the Network of cfg, for a sandbox that is made at the same time: it is what shim.Config
// wants as Start. Target, TAP, Link, Routes and Configure have no meaning for it.
func Open(ctx context.Context, cfg Config) (*Opened, error) {
	p, err := open(ctx, &cfg, nil)
	if err != nil {
		return nil, err
	}
	return &Opened{newNetwork(p, cfg.Log), p}, nil
}

func open(ctx context.Context, cfg *Config, event func(datapath.Event)) (*control.Private, error) {
	stderr := cfg.Stderr
	if stderr == nil {
		stderr = os.Stderr
	}
	return control.StartPrivate(context.WithoutCancel(ctx), control.Config{
		DNS: control.DNS{Servers: cfg.DNS},
		Datapath: datapath.Config{
			Args: []string{"usernet", datapath.Role}, Stderr: stderr, Level: cfg.Level,
		},
		Log: cfg.Log, Event: event,
	}, control.PrivateConfig{
		Network: cfg.Network, Endpoint: cfg.Endpoint, Hosts: cfg.Hosts, Publish: cfg.Publish, Capture: cfg.Capture, Splice: cfg.Splice,
	})
}

// attach is the start with a namespace.
func (s *Session) attach(ctx context.Context, cfg *Config) (err error) {
	s.attachment, err = shim.Connect(ctx, shim.AttachConfig{
		PID: cfg.Target.PID, Netns: cfg.Target.Netns, Userns: cfg.Target.Userns,
		Links: []plumb.Link{cfg.Link}, Routes: cfg.Routes, Bare: !cfg.Configure, NoSysctls: true,
		Start: func(ctx context.Context, _ int) (shim.Network, error) {
			p, err := open(ctx, cfg, s.end.event)
			if err != nil {
				return nil, err
			}
			s.private = p
			return newNetwork(p, cfg.Log), nil
		},
		Log:       cfg.Log,
		HelperLog: shim.LogOptions{On: cfg.Log != nil, Level: cfg.Level},
	})
	return err
}

// serve is the start with a TAP.
func (s *Session) serve(ctx context.Context, cfg *Config) (err error) {
	if err := shim.CloseOnExec(); err != nil {
		return fmt.Errorf("mark inherited descriptors: %w", err)
	}
	if s.private, err = open(ctx, cfg, s.end.event); err != nil {
		return err
	}
	if err := s.private.Attach(cfg.Endpoint.ID, cfg.TAP.File, cfg.TAP.Info); err != nil {
		return errors.Join(err, s.private.Close())
	}
	return nil
}

// Publish binds what specs ask for, all or nothing, and forwards it to the namespace. It returns what was bound, with
// the real ports and addresses. A port in use is an error that wraps syscall.EADDRINUSE.
func (s *Session) Publish(specs ...portfwd.Spec) ([]portfwd.Spec, error) {
	return s.private.Publish(specs)
}

// Unpublish ends ports; see control.Private.
func (s *Session) Unpublish(specs ...portfwd.Spec) error { return s.private.Unpublish(specs) }

// Ports returns what is published, in the order it was.
func (s *Session) Ports() []portfwd.Spec { return s.private.Ports() }

// Status returns how the datapath stands.
func (s *Session) Status() control.Status { return s.private.Status() }

// Done is closed when the session can no longer work; Err says why.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err says why the session ended by itself: nil when its namespace or its TAP did, or when it has not.
func (s *Session) Err() error {
	select {
	case <-s.done:
	default:
		return nil
	}
	if err := s.private.Err(); err != nil && !errors.Is(err, control.ErrClosed) {
		return fmt.Errorf("serve network: %w", err)
	}
	return nil
}

// watch closes done at the end of whatever comes first.
func (s *Session) watch() {
	var namespace <-chan struct{}
	if s.attachment != nil && !s.linger {
		namespace = s.attachment.Ended()
	}
	select {
	case <-namespace:
	case <-s.end.gone:
	case <-s.private.Done():
	case <-s.stop:
	}
	close(s.done)
}

// Close takes the network away, with the interface unless it was adopted, and the published ports, and returns when
// nothing of it is left. It is safe to call more than once.
func (s *Session) Close() error {
	s.once.Do(func() {
		close(s.stop)
		if s.attachment != nil {
			s.err = s.attachment.Close()
		} else {
			s.err = s.private.Close()
		}
		s.wg.Wait()
	})
	return s.err
}

// network is a Private as the shim asks for it.
type network struct{ *control.Private }

func newNetwork(p *control.Private, log *slog.Logger) shim.Network {
	return shim.WithSockets(network{p}, p.WantSockets(), p.UseSockets, log)
}

// Started has nobody to tell.
func (network) Started(int) {}

// Changes of the Network itself there are none.
func (network) Changes() <-chan shim.Change { return nil }

// end is the end of the TAP, as the datapath tells of it.
type end struct {
	gone chan struct{}
	once sync.Once
}

func newEnd() *end { return &end{gone: make(chan struct{})} }

// event is called by the Control; there is one Endpoint only.
func (e *end) event(ev datapath.Event) {
	if ev.Kind == datapath.EventEndpointDown {
		e.once.Do(func() { close(e.gone) })
	}
}
