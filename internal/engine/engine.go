package engine

import (
	"context"
	"log/slog"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/system"

	"github.com/usernet/usernet/api"
	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/internal/control/registry"
	"github.com/usernet/usernet/portfwd"
)

// Controller is what the Engine asks of a *cnm.Controller.
type Controller interface {
	Create(ctx context.Context, n cnm.NetworkConfig) (id, warning string, err error)
	Remove(ctx context.Context, ref string) error
	Prune(ctx context.Context, match func(cnm.NetworkInfo) bool) ([]string, error)
	Network(ref string) (cnm.NetworkInfo, error)
	Networks() []cnm.NetworkInfo
	Connect(ctx context.Context, sandbox string, e cnm.EndpointConfig) error
	Disconnect(ctx context.Context, network, sandbox string, force bool) error
	Sandbox(ref string) (cnm.SandboxInfo, error)
	Sandboxes() []cnm.SandboxInfo
	Subscribe(f func(cnm.Event)) (cancel func())
}

// Registry is what the Engine asks of a *registry.Dir.
type Registry interface {
	List(ctx context.Context) ([]registry.Entry, error)
	Ports(ctx context.Context, name string) ([]portfwd.Spec, error)
	Signal(ctx context.Context, name string, sig syscall.Signal) error
}

// Options are how the daemon presents itself.
type Options struct {
	Version, Commit, BuildTime string
	// StateDir is where its networks are kept.
	StateDir string
	// Drivers are the names of the network drivers, Pools what subnets are taken from.
	Drivers []string
	Pools   []system.NetworkAddressPool
	// Debug reports whether it logs everything; nil means not.
	Debug func() bool
	// Log is discarded when nil.
	Log *slog.Logger
}

// Engine implements api.Backend.
type Engine struct {
	c      Controller
	reg    Registry
	o      Options
	log    *slog.Logger
	now    func() time.Time
	events *eventLog
	stop   func() // of the subscription

	unmanaged unmanaged
}

var _ api.Backend = (*Engine)(nil)

// New returns an Engine, which keeps events until Close.
func New(c Controller, reg Registry, o Options) *Engine {
	e := &Engine{c: c, reg: reg, o: o, log: o.Log, now: time.Now, events: newEventLog()}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	e.unmanaged.ctx, e.unmanaged.cancel = context.WithCancel(context.Background())
	e.stop = c.Subscribe(func(ev cnm.Event) { e.events.add(message(ev)) })
	return e
}

// Close ends the streams of events.
func (e *Engine) Close() {
	e.stop()
	e.unmanaged.close()
	e.events.close()
}
