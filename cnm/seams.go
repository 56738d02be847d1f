package cnm

import (
	"context"
	"net/netip"
	"os"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// Datapath is what moves the packets; *control.Control is one. An error means that nothing changed. What
// is wanted survives the process that does it: a Datapath that dies and comes back has all of it again.
type Datapath interface {
	// Reserve and Release say which prefixes belong to Networks: no other Network's containers get there.
	Reserve(prefixes ...netip.Prefix) error
	Release(prefixes ...netip.Prefix) error
	// AddNetwork makes a Network; hosts are names its DNS knows beside its Endpoints.
	AddNetwork(n spec.Network, hosts map[string][]netip.Addr) error
	// RemoveNetwork ends one without Endpoints.
	RemoveNetwork(id string) error
	// Attach gives an Endpoint its TAP, which stays the caller's.
	Attach(network string, ep spec.Endpoint, dev *os.File, info tap.Info) error
	// Update changes Names, Resolver and Accept of an attached Endpoint.
	Update(network string, ep spec.Endpoint) error
	Detach(network, endpoint string) error
	// Publish forwards bound sockets, which stay the caller's, to an attached Endpoint: all or none.
	Publish(network, endpoint string, ls []portfwd.Listener) error
	// Unpublish ends what Publish began, by the Specs of its Listeners.
	Unpublish(network, endpoint string, specs []portfwd.Spec) error
	Stats(ctx context.Context, network string) (spec.Stats, error)
}

// Namespace is a sandbox's namespaces as the shim that keeps them can change them. A call returns when the change
// is made; its error means that it is not.
type Namespace interface {
	// Plug makes an interface and returns its TAP, which is the caller's to close.
	Plug(ctx context.Context, l plumb.Link) (*os.File, tap.Info, error)
	// Unplug removes the interface of an Endpoint. That there is none is no error: who asks may not know whether its
	// Plug came to anything.
	Unplug(ctx context.Context, endpointID string) error
	SetRoutes(ctx context.Context, r plumb.Routes) error
	// SetFiles replaces the content of files that were given at the start.
	SetFiles(ctx context.Context, files []plumb.File) error
	// Keep gives the shim duplicates of sockets to keep, in place of earlier ones: they survive this daemon.
	Keep(ctx context.Context, ls []portfwd.Listener) error
}
