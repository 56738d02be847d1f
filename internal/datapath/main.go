package datapath

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/confine"
	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/internal/wire"
)

// Role is the hidden word that selects the datapath process when it is the first argument of the re-executed
// binary.
const Role = "__datapath"

const (
	// socketFD is where the process finds its end of the socketpair; 0 and 1 are /dev/null, 2 the log.
	socketFD = 3
	// listenFD is where it finds the socket at which the next control will look for it, when there is one.
	listenFD = 4
)

// environment is all the process gets of it.
//
// One P to begin with: a goroutine hand-over stays on one thread, 51 µs for a TCP round trip instead of 67 to 83,
// and one flow is no slower. Set here rather than by runtime.GOMAXPROCS because then the runtime
// neither starts the others nor opens the cgroup files it would follow.
func environment() []string {
	env := []string{"GOMAXPROCS=1", "GOTRACEBACK=single"}
	for _, name := range []string{"TZ", "GORACE"} { // the second is the race detector's, of a build that has it
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// maxProcessors is the most CPUs that forwarding was seen to scale to (tap: BenchmarkLanes).
const maxProcessors = 16

// processorsFor is how many P the datapath may have on a machine where a process may have so many: half of them, since
// the sandbox's kernel and programs, and whoever they talk to, need as much CPU for each byte as we do. On two CPUs a second P is
// no gain for a stream and slows round trips down (docs/PERFORMANCE.md).
func processorsFor(cpus int) int { return min(max(1, cpus/2), maxProcessors) }

// flags are the role's own arguments; Main parses them.
func (c Config) flags() []string {
	f := []string{fmt.Sprintf("--log-level=%d", int(c.Level))}
	// The runtime has looked at the CPUs and at the cgroup's quota, which the datapath cannot see any more.
	if n := processorsFor(runtime.GOMAXPROCS(0)); n > 1 {
		f = append(f, fmt.Sprintf("--processors=%d", n))
	}
	if c.JSON {
		f = append(f, "--log-json")
	}
	if c.KillOnDenied || os.Getenv("USERNET_SECCOMP") == "kill" {
		f = append(f, "--kill-on-denied")
	}
	if c.Socket != "" {
		f = append(f, fmt.Sprintf("--adoptable=%s", c.wait()))
	}
	return f
}

// Main is the datapath role: args are what follows the role's word. It returns the exit code of the
// process: 0 when control ended it, 1 otherwise, after a line on stderr.
func Main(args []string, newHost NewHost) int {
	// A log that nobody reads any more must not end the network.
	signal.Ignore(syscall.SIGPIPE)
	fs := flag.NewFlagSet("datapath", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	level := fs.Int("log-level", int(slog.LevelInfo), "")
	asJSON := fs.Bool("log-json", false, "")
	kill := fs.Bool("kill-on-denied", false, "")
	adoptable := fs.Duration("adoptable", 0, "")
	processors := fs.Int("processors", 1, "")
	if err := fs.Parse(args); err != nil {
		fmt.Fprintf(os.Stderr, "datapath: %v\n", err)
		return 1
	}
	sys.LimitProcessors(*processors)
	log := newLog(slog.Level(*level), *asJSON)
	if err := run(newHost, *kill, *adoptable, log); err != nil {
		log.Error("datapath ended", "err", err)
		return 1
	}
	return 0
}

func newLog(level slog.Level, asJSON bool) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if asJSON {
		return slog.New(slog.NewJSONHandler(os.Stderr, o)).With("role", "datapath")
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o)).With("role", "datapath")
}

func run(newHost NewHost, kill bool, adoptable time.Duration, log *slog.Logger) error {
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memoryLimit)
	if kind, err := unix.GetsockoptInt(socketFD, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_SEQPACKET {
		return errors.New("open control socket: there is none; the datapath is started by usernet run, not by hand")
	}
	c, err := wire.Inherited(socketFD, MaxMessage)
	if err != nil {
		return fmt.Errorf("open control socket: %w", err)
	}
	var next func() (*wire.Conn, error)
	if adoptable > 0 {
		d, err := newDoor(listenFD, adoptable, log)
		if err != nil {
			return err
		}
		next = d.next
	}
	own, err := build()
	if err != nil {
		return err
	}
	// The zone of the log's times is read from a file, now or never.
	_, _ = time.Now().Zone()
	report, err := confine.Enter(confine.Options{Keep: socketFD + 1, KillOnDenied: kill})
	if err != nil {
		return err
	}
	s := newServer(newHost(log), own, report, log)
	err = s.live(c, next)
	// Whoever ended us waits no longer than this, and when control is gone nobody else would
	// end a process that hangs in Close.
	defer time.AfterFunc(closeTimeout, func() {
		log.Error("datapath ended", "err", "the networks did not close in time")
		os.Exit(1)
	}).Stop()
	s.close()
	return err
}
