package cnm

import (
	"context"
	"os"

	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// Controller owns the Networks of one user.
type Controller struct{}

// Create makes a Network and returns its id and a warning.
func (c *Controller) Create(ctx context.Context, n NetworkConfig) (id, warning string, err error) {
	panic("cnm")
}

// Remove removes the Network that ref names: its id, its name, or the prefix of its id.
func (c *Controller) Remove(ctx context.Context, ref string) error { panic("cnm") }

// Prune removes the Networks that keep lets go of and nobody uses, and returns their names.
func (c *Controller) Prune(ctx context.Context, match func(NetworkInfo) bool) ([]string, error) {
	panic("cnm")
}

// Network finds a Network.
func (c *Controller) Network(ref string) (NetworkInfo, error) { panic("cnm") }

// Networks returns all, by name.
func (c *Controller) Networks() []NetworkInfo { panic("cnm") }

// Connect gives a running sandbox another leg.
func (c *Controller) Connect(ctx context.Context, sandbox string, e EndpointConfig) error {
	panic("cnm")
}

// Disconnect takes one away. With force it also removes the Endpoint of a sandbox that has vanished.
func (c *Controller) Disconnect(ctx context.Context, network, sandbox string, force bool) error {
	panic("cnm")
}

// Sandbox finds a sandbox by id, name, or prefix of its id.
func (c *Controller) Sandbox(ref string) (SandboxInfo, error) { panic("cnm") }

// Sandboxes returns all, the newest first.
func (c *Controller) Sandboxes() []SandboxInfo { panic("cnm") }

// Subscribe has f called for every Event until cancel is called. f must not block.
func (c *Controller) Subscribe(f func(Event)) (cancel func()) { panic("cnm") }

// Join gives a sandbox that is about to start its Endpoints, addresses and ports. Its Links then come to be
// by Attach.
func (c *Controller) Join(ctx context.Context, s SandboxConfig, ns Namespace) (*Sandbox, Joined, error) {
	panic("cnm")
}

// Rejoin takes over a sandbox that outlived an earlier Controller. ls are the sockets its shim kept.
func (c *Controller) Rejoin(ctx context.Context, s SandboxConfig, r Rejoin, ls []portfwd.Listener, ns Namespace) (*Sandbox, error) {
	panic("cnm")
}

// Sandbox is a container's network namespace with its Endpoints.
type Sandbox struct{}

// Attach hands over the TAP of a Link of Joined; the file stays the caller's.
func (s *Sandbox) Attach(endpointID string, dev *os.File, info tap.Info) error { panic("cnm") }

// Started says that the command runs; pid is a process in the sandbox's namespaces.
func (s *Sandbox) Started(pid int) { panic("cnm") }

// Publish, Unpublish, Ports and Stats are for `usernet port` and `usernet inspect`.
func (s *Sandbox) Publish(specs []portfwd.Spec) ([]portfwd.Spec, error) { panic("cnm") }
func (s *Sandbox) Unpublish(specs []portfwd.Spec) error                 { panic("cnm") }
func (s *Sandbox) Ports() []portfwd.Spec                                { panic("cnm") }
func (s *Sandbox) Stats(ctx context.Context) (spec.Stats, error)        { panic("cnm") }
func (s *Sandbox) Signal(ctx context.Context, signal int) error         { panic("cnm") }

// Close ends its Endpoints, frees addresses, names and ports: the sandbox is gone.
func (s *Sandbox) Close() error { panic("cnm") }
