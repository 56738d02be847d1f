package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/usernet/usernet/internal/control/registry"
)

// Names in the runtime directory.
const (
	SocketName     = "usernet.sock"  // the API
	JoinSocketName = "join.sock"     // sandboxes
	pidName        = "daemon.pid"    // locked by the daemon, with its process id
	startLockName  = "start.lock"    // held by who starts a daemon
	datapathName   = "datapath.sock" // where the next daemon finds the datapath
)

// Paths are where a user's daemon has its files.
type Paths struct {
	Runtime string // 0700, of the registry too
	State   string // 0700
	// ConfigFile is the default one, which need not exist.
	ConfigFile string
}

// FindPaths finds the calling user's, and makes the directories: the runtime directory as the registry does,
// which refuses one that somebody else could write to (LU-04); the state below $XDG_STATE_HOME or ~/.local/state.
func FindPaths() (Paths, error) {
	d, err := registry.Open()
	if err != nil {
		return Paths{}, err
	}
	defer d.Close()
	p := Paths{Runtime: d.Path()}
	state, err := base("XDG_STATE_HOME", ".local/state")
	if err != nil {
		return Paths{}, fmt.Errorf("find state directory: %w", err)
	}
	p.State = filepath.Join(state, "usernet")
	config, err := base("XDG_CONFIG_HOME", ".config")
	if err != nil {
		return Paths{}, fmt.Errorf("find configuration: %w", err)
	}
	p.ConfigFile = filepath.Join(config, "usernet", "daemon.json")
	if err := os.MkdirAll(p.State, 0o700); err != nil {
		return Paths{}, fmt.Errorf("make state directory: %w", err)
	}
	return p, checkState(p.State)
}

// base is a directory of the XDG base directory specification.
func base(variable, inHome string) (string, error) {
	if x := os.Getenv(variable); x != "" {
		if !filepath.IsAbs(x) {
			return "", fmt.Errorf("%s is %q, not an absolute path", variable, x)
		}
		return x, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("%w; set HOME or %s", err, variable)
	}
	return filepath.Join(home, inHome), nil
}

// checkState refuses a state directory in which others can put things: what is in it is believed.
func checkState(path string) error {
	fi, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("open state directory: %w", err)
	case !ownedByUser(fi):
		err = errors.New("it belongs to another user")
	case fi.Mode().Perm()&0o022 != 0:
		err = fmt.Errorf("others may write to it (mode %04o)", fi.Mode().Perm())
	case !fi.IsDir():
		err = fs.ErrInvalid
	default:
		return nil
	}
	return fmt.Errorf("open state directory %s: %w; make it a directory of your own with mode 0700, or set XDG_STATE_HOME", path, err)
}

// Socket is where the API is.
func (p Paths) Socket() string { return filepath.Join(p.Runtime, SocketName) }

// Join is where sandboxes connect.
func (p Paths) Join() string { return filepath.Join(p.Runtime, JoinSocketName) }

// Datapath is where the next daemon finds the process that moves the packets.
func (p Paths) Datapath() string { return filepath.Join(p.Runtime, datapathName) }

// Database is where networks are kept.
func (p Paths) Database() string { return filepath.Join(p.State, "networks.db") }

// Log is where a daemon that was started on demand logs to.
func (p Paths) Log() string { return filepath.Join(p.State, "daemon.log") }

func (p Paths) pid() string       { return filepath.Join(p.Runtime, pidName) }
func (p Paths) startLock() string { return filepath.Join(p.Runtime, startLockName) }
