package datapath

import (
	"log/slog"
	"net/netip"
	"os"

	"github.com/usernet/usernet/dnsproxy"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// Backend is one live Network behind the socket; stack.Network is one. Its methods are called from
// one goroutine. A method that is given a file owns it from then on, whether it succeeds or not.
type Backend interface {
	Attach(ep spec.Endpoint, tapFile *os.File, info tap.Info) error
	// Update changes Names, Resolver and Accept of an Endpoint.
	Update(ep spec.Endpoint) error
	Detach(id string) error
	Publish(id string, s portfwd.Spec, f *os.File, endpoint string) error
	Unpublish(id string) error
	// Socket is given an unconnected TCP socket of the Endpoint's network namespace, or what somebody in there
	// says is one.
	Socket(endpoint string, f *os.File) error
	SetDNS(c dnsproxy.Config)
	HostChanged()
	Stats() spec.Stats
	Close() error
}

// Capturer is a Backend that can write what passes the switch to a file in pcap form. Capture takes
// the file over; a second call replaces the first file. When more is set, an earlier datapath has
// written the file's header and some packets already.
type Capturer interface {
	Capture(f *os.File, more bool) error
}

// Host is what all Networks of the process share: stack.Host behind a few lines of cmd/usernet. Its
// methods are called from the same goroutine as those of its Backends.
type Host interface {
	// New makes a live Network.
	New(n spec.Network, o Options) (Backend, error)
	// Reserve and Release say which prefixes belong to Networks, this process's or not: no
	// container gets there through a gateway. After an error nothing has changed.
	Reserve(prefixes ...netip.Prefix) error
	Release(prefixes ...netip.Prefix) error
}

// Options is what a Backend gets from its process.
type Options struct {
	Log *slog.Logger
	// EndpointDown tells control that the TAP of an Endpoint is gone. It never blocks.
	EndpointDown func(id string, cause error)
}

// NewHost makes the Host, once, after the process has confined itself.
type NewHost func(log *slog.Logger) Host
