package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/usernet/usernet/internal/localhttp"
	"github.com/usernet/usernet/internal/sys"
)

// Names of the files, see the package comment.
const (
	dirLock    = ".lock"
	lockName   = "lock"
	stateName  = "state.json"
	socketName = "control.sock"
)

// Registration is a sandbox's place in the directory, its shim's to hold.
type Registration struct {
	d    *Dir
	name string
	lock *os.File

	signal func(syscall.Signal) error // nil until OnSignal
	server *http.Server               // nil until Serve
	wg     sync.WaitGroup
	once   sync.Once
	err    error // of Close
}

// Reserve takes a name, before the sandbox is started. The error wraps ErrExists when a running sandbox
// has it.
func (d *Dir) Reserve(name string) (*Registration, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	all, err := lockFile(d.root, dirLock, true)
	if err != nil {
		return nil, fmt.Errorf("register sandbox %s: %w", name, err)
	}
	defer all.Close()
	if err := d.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("register sandbox %s: %w", name, err)
	}
	lock, err := lockFile(d.root, filepath.Join(name, lockName), false)
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("register sandbox %s: %w; choose another --name, usernet ps shows which there are", name, ErrExists)
	}
	if err != nil {
		return nil, fmt.Errorf("register sandbox %s: %w", name, err)
	}
	// What a dead one of the same name has left.
	for _, file := range []string{stateName, socketName} {
		if err := d.root.RemoveAll(filepath.Join(name, file)); err != nil {
			lock.Close()
			return nil, fmt.Errorf("register sandbox %s: remove stale %s: %w", name, file, err)
		}
	}
	// Its own handle, so that the Dir may be closed.
	root, err := d.root.OpenRoot(".")
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("register sandbox %s: %w", name, err)
	}
	return &Registration{d: &Dir{d.path, root}, name: name, lock: lock}, nil
}

// OnSignal says how a client's wish to end the sandbox, or to send its command another signal, is met. It is
// called before Serve, or such a wish is refused.
func (r *Registration) OnSignal(f func(syscall.Signal) error) { r.signal = f }

// Serve shows the sandbox to others and answers their requests until Close. It is called once. e.Name is set
// to the reserved one, and e.ID made when it is empty.
func (r *Registration) Serve(e Entry, s Sandbox, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	e.Name = r.name
	if e.ID == "" {
		e.ID = NewID()
	}
	b, err := json.MarshalIndent(e, "", "\t")
	if err != nil {
		return fmt.Errorf("register sandbox %s: %w", r.name, err)
	}
	l, err := listen(r.d, r.name)
	if err != nil {
		return fmt.Errorf("register sandbox %s: %w", r.name, err)
	}
	// Last, and whole at once: who sees it finds the socket.
	state := filepath.Join(r.name, stateName)
	if err = r.d.root.WriteFile(state+".new", b, 0o600); err == nil {
		err = r.d.root.Rename(state+".new", state)
	}
	if err != nil {
		l.Close()
		return fmt.Errorf("register sandbox %s: write state: %w", r.name, err)
	}
	r.server = newServer(&api{e, s, r.signal}, log)
	r.wg.Go(func() {
		if err := r.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("control socket ended", "err", err)
		}
	})
	return nil
}

func listen(d *Dir, name string) (net.Listener, error) {
	path, done, err := d.socketPath(name)
	if err != nil {
		return nil, err
	}
	defer done()
	l, err := sys.ListenUnix("unix", path)
	if err != nil {
		return nil, err
	}
	// Close removes it by the directory.
	l.SetUnlinkOnClose(false)
	return localhttp.NewListener(l), nil
}

// socketPath is where to bind or connect to a sandbox's socket. A path too long for a socket's address goes by the
// directory's descriptor, which done closes.
func (d *Dir) socketPath(name string) (path string, done func(), err error) {
	path = filepath.Join(d.path, sandboxesDir, name, socketName)
	if len(path) <= sys.MaxSocketPath {
		return path, func() {}, nil
	}
	f, err := d.root.Open(name)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", f.Fd(), socketName), func() { f.Close() }, nil
}

// Close ends the requests under way, removes the sandbox from the directory and gives its name back. It
// is safe to call more than once.
func (r *Registration) Close() error {
	r.once.Do(func() {
		if r.server != nil {
			r.server.Close()
			r.wg.Wait()
		}
		r.err = r.d.remove(r.name, r.lock)
		r.d.Close()
	})
	return r.err
}

// remove deletes a sandbox's directory and then closes lock, which the caller holds.
func (d *Dir) remove(name string, lock *os.File) error {
	defer lock.Close()
	all, err := lockFile(d.root, dirLock, true)
	if err != nil {
		return fmt.Errorf("remove sandbox %s: %w", name, err)
	}
	defer all.Close()
	if err := d.root.RemoveAll(name); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", name, err)
	}
	return nil
}
