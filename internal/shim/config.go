package shim

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"

	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
	"github.com/usernet/usernet/tap/netns"
)

// The words that select a role of this package when they are the first argument of the re-executed binary.
const (
	InitRole = "__init" // Init
	TapRole  = "__tap"  // Tap
)

// Exit codes of a sandbox that are not CMD's own, as env(1), chroot(1) and Docker have them.
const (
	ExitFailure       = 125 // usernet itself failed
	ExitNotExecutable = 126 // CMD was found but cannot be executed
	ExitNotFound      = 127 // CMD was not found
	exitSignal        = 128 // plus the number of the signal that ended CMD
)

// IDMap says which users exist inside a sandbox.
type IDMap string

// The maps.
const (
	// MapRoot maps the caller to root and nobody else: one entry, no help from the system needed.
	MapRoot IDMap = "root"
	// MapKeep maps the caller to itself and nobody else. CMD has no capabilities.
	MapKeep IDMap = "keep"
	// MapAuto maps the caller to root and its subordinate ids to 1 and up, by newuidmap. When the
	// caller is root, every id it has is mapped to itself.
	MapAuto IDMap = "auto"
)

// ParseIDMap reads the value of --map.
func ParseIDMap(s string) (IDMap, error) {
	switch m := IDMap(s); m {
	case MapRoot, MapKeep, MapAuto:
		return m, nil
	}
	return "", fmt.Errorf("unknown map %q; use root, keep or auto", s)
}

// NetworkMode says what network a sandbox gets.
type NetworkMode string

// The modes.
const (
	// NetworkPrivate is an own network namespace behind a private Network.
	NetworkPrivate NetworkMode = "private"
	// NetworkNone is an own network namespace with nothing but lo.
	NetworkNone NetworkMode = "none"
	// NetworkHost is the caller's network namespace.
	NetworkHost NetworkMode = "host"
)

// Config describes one sandbox. It is inert: nothing is asked of the kernel before Run.
type Config struct {
	// Command is CMD and its arguments.
	Command []string
	// Env is CMD's whole environment.
	Env []string
	// Dir is CMD's working directory; empty means the caller's.
	Dir string

	Map     IDMap
	Network NetworkMode
	// Hostname is the sandbox's own; empty leaves the host's.
	Hostname string
	// Files are laid over files of the host, for the sandbox only.
	Files []File

	// Link is the interface of NetworkPrivate.
	Link Link
	// Endpoint is what control is told of it.
	Endpoint spec.Endpoint
	// Publish are the ports to bind before CMD starts.
	Publish []portfwd.Spec
	// Start brings up control and the datapath; for NetworkPrivate only. It runs while init sets
	// the sandbox up, and ctx ends when the sandbox does.
	Start func(ctx context.Context, init int) (Network, error)

	// Stdio are CMD's descriptors 0, 1 and 2.
	Stdio [3]*os.File
	// Exe is the binary re-executed as init; empty means the running one.
	Exe string
	// Log takes state changes; nil discards them.
	Log *slog.Logger
	// InitLog says what init, a process of its own, logs to standard error.
	InitLog LogOptions
}

// LogOptions describe a log that another process is to write to standard error. The zero value
// discards all.
type LogOptions struct {
	On    bool       `json:"on,omitempty"`
	Level slog.Level `json:"level,omitempty"`
	JSON  bool       `json:"json,omitempty"`
}

func (o LogOptions) logger() *slog.Logger {
	h := &slog.HandlerOptions{Level: o.Level}
	switch {
	case !o.On:
		return slog.New(slog.DiscardHandler)
	case o.JSON:
		return slog.New(slog.NewJSONHandler(os.Stderr, h)).With("role", "init")
	}
	return slog.New(slog.NewTextHandler(os.Stderr, h)).With("role", "init")
}

// Link is an interface inside a sandbox and how it is addressed. An invalid address is left out.
type Link struct {
	Name     string       `json:"name"`
	MTU      int          `json:"mtu"`
	MAC      l2.MAC       `json:"mac,omitzero"`
	Addr4    netip.Prefix `json:"addr4,omitzero"` // with the length of its subnet
	Addr6    netip.Prefix `json:"addr6,omitzero"`
	Gateway4 netip.Addr   `json:"gateway4,omitzero"`
	Gateway6 netip.Addr   `json:"gateway6,omitzero"`
}

// configure makes the link what it says, in the calling process's network namespace.
func (l *Link) configure(log *slog.Logger) error {
	return netns.Configure(netns.Config{
		Name: l.Name, MTU: l.MTU, MAC: l.MAC, Addr4: l.Addr4, Addr6: l.Addr6,
		Gateway4: l.Gateway4, Gateway6: l.Gateway6, Log: log,
	})
}

// File is one file of the sandbox that hides the host's of the same name.
type File struct {
	Path    string `json:"path"` // absolute
	Content string `json:"content"`
}

// Network is what the shim asks of control. *control.Control implements it.
type Network interface {
	// Attach gives the datapath the TAP of an Endpoint. The file stays the caller's.
	Attach(ep spec.Endpoint, dev *os.File, info tap.Info) error
	// Publish binds host ports and forwards them to the Endpoint: all of them or none.
	Publish(specs []portfwd.Spec) ([]portfwd.Spec, error)
	// Done is closed when the Network can no longer work.
	Done() <-chan struct{}
	// Close frees everything and returns once the datapath is gone.
	Close() error
}
