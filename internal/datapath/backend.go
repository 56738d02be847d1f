package datapath

import (
	"log/slog"
	"os"

	"github.com/usernet/usernet/dnsproxy"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// Backend is the live Network behind the socket; stack.Network is one. Its methods are called from
// one goroutine. A method that is given a file owns it from then on, whether it succeeds or not.
type Backend interface {
	Attach(ep spec.Endpoint, tapFile *os.File, info tap.Info) error
	Detach(id string) error
	Publish(id string, s portfwd.Spec, f *os.File, endpoint string) error
	Unpublish(id string) error
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

// Options is what a Backend gets from its process.
type Options struct {
	Log *slog.Logger
	// Event tells control of something it did not ask for. It never blocks.
	Event func(Event)
}

// New makes the Backend of a Network, once, when control has sent the spec.
type New func(n spec.Network, o Options) (Backend, error)
