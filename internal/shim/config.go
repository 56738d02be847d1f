package shim

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"syscall"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/tap"
)

// The words that select a role of this package when they are the first argument of the re-executed binary.
const (
	InitRole = "__init" // Init
	JoinRole = "__join" // InitJoined
	ExecRole = "__exec" // ExecInside
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
	// NetworkPrivate is an own network namespace with Links to Networks.
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
	Files []plumb.File

	// Join, when not nil, is a process in another sandbox, whose network this one shares: its user, network
	// and UTS namespaces, and copies of its files. Map, Network, Hostname, Files and Links have
	// no meaning then.
	Join *Target

	// Links are the interfaces of NetworkPrivate at the start, and Routes its routes.
	Links  []plumb.Link
	Routes plumb.Routes
	// Start brings up the Network behind Links, with its ports bound. It runs while init sets the sandbox up,
	// and ctx ends when the sandbox does. Without Links, what it returns hears of the sandbox's life and may
	// send it signals. Nil means that nobody does.
	Start func(ctx context.Context, init int) (Network, error)

	// Reap, when not nil, is called when a child of the shim has ended, which may be one that it adopted as a
	// subreaper and does not know. It must not block, nor wait for a child that it does not know to be its own.
	Reap func()

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

// Network is what the shim asks of whoever moves the packets.
type Network interface {
	// Attach gives it the TAP of a Link. The file stays the caller's.
	Attach(endpointID string, dev *os.File, info tap.Info) error
	// Started says that CMD runs; pid is a process in the sandbox's namespaces. It must not block.
	Started(pid int)
	// Changes are to be made while CMD runs, one after the other. Of those taken each gets its reply, of
	// those that are not when the sandbox ends none. It is nil when there never are any.
	Changes() <-chan Change
	// Done is closed when the Network can no longer work.
	Done() <-chan struct{}
	// Close frees everything and returns once nothing of it is left.
	Close() error
}

// Change is a change of a running sandbox. Exactly one of the first six fields is set.
type Change struct {
	Plug   *plumb.Link    // make the interface, give its TAP to Attach, then reply
	Unplug string         // remove the interface of this Endpoint, if there is one
	Routes *plumb.Routes  // in place of those there are
	Files  []plumb.File   // new content of files given at the start; for an attached namespace others are passed over
	Signal syscall.Signal // to CMD; SIGKILL ends the sandbox
	// Sockets are to be made in the network namespace. They go to Made, which owns them from then on, before the
	// reply. Who made them may be hostile: they may be anything.
	Sockets []plumb.Socket
	Made    func([]*os.File) `json:"-"`
	// Reply is buffered and gets exactly one reply. After an error nothing has changed.
	Reply chan<- error
}
