package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// ErrUnsafe is the cause when a runtime directory exists and could be written by somebody else.
var ErrUnsafe = errors.New("unsafe runtime directory")

// sandboxesDir is where the sandboxes are in the runtime directory.
const sandboxesDir = "sandboxes"

// Dir is a user's runtime directory. It is safe for concurrent use, also by several processes.
type Dir struct {
	path string
	root *os.Root // of sandboxesDir
}

// Open finds the calling user's runtime directory and makes it if need be: $XDG_RUNTIME_DIR, or
// /run/user/UID, or /tmp. One that does not exist is passed over; one that is not safe is an error that wraps
// ErrUnsafe.
func Open() (*Dir, error) {
	uid := os.Geteuid()
	var bases []string
	if x := os.Getenv("XDG_RUNTIME_DIR"); x != "" {
		if !filepath.IsAbs(x) {
			return nil, fmt.Errorf("open runtime directory %s: %w: XDG_RUNTIME_DIR is not an absolute path", x, ErrUnsafe)
		}
		bases = append(bases, x)
	}
	bases = append(bases, fmt.Sprintf("/run/user/%d", uid))
	for _, base := range bases {
		d, err := openBase(base)
		if !errors.Is(err, fs.ErrNotExist) {
			return d, err
		}
	}
	// /tmp is everybody's and sticky, so the directory's own name must be nobody else's.
	return openIn("/tmp", fmt.Sprintf("usernet-%d", uid))
}

// openBase opens base/usernet. base itself must be this user's, or somebody could swap what is in it.
func openBase(base string) (*Dir, error) {
	fi, err := os.Lstat(base)
	if err != nil {
		return nil, fmt.Errorf("open runtime directory: %w", err)
	}
	if err := safe(base, fi); err != nil {
		return nil, err
	}
	return openIn(base, "usernet")
}

func openIn(base, name string) (*Dir, error) {
	path := filepath.Join(base, name)
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make runtime directory: %w; set XDG_RUNTIME_DIR to a directory of your own that you can write to", err)
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("open runtime directory: %w", err)
	}
	if err := safe(path, fi); err != nil {
		return nil, err
	}
	outer, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open runtime directory: %w", err)
	}
	defer outer.Close()
	// What was opened is what was looked at: in /tmp there was time to swap it.
	opened, err := outer.Stat(".")
	if err != nil || !os.SameFile(fi, opened) {
		return nil, fmt.Errorf("open runtime directory %s: %w: it was replaced meanwhile", path, ErrUnsafe)
	}
	if err := outer.Mkdir(sandboxesDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make runtime directory: %w", err)
	}
	root, err := outer.OpenRoot(sandboxesDir)
	if err != nil {
		return nil, fmt.Errorf("open runtime directory: %w", err)
	}
	return &Dir{path: path, root: root}, nil
}

// safe refuses a directory in which somebody other than this user can put things.
func safe(path string, fi fs.FileInfo) error {
	const todo = "make it a directory of your own with mode 0700, or set XDG_RUNTIME_DIR to one"
	st, ok := fi.Sys().(*syscall.Stat_t)
	var why string
	switch {
	case fi.Mode()&fs.ModeSymlink != 0:
		why = "it is a symbolic link"
	case !fi.IsDir():
		why = "it is not a directory"
	case !ok || int(st.Uid) != os.Geteuid():
		why = "it belongs to another user"
	case fi.Mode().Perm()&0o022 != 0:
		why = fmt.Sprintf("others may write to it (mode %04o)", fi.Mode().Perm())
	default:
		return nil
	}
	return fmt.Errorf("open runtime directory %s: %w: %s; %s", path, ErrUnsafe, why, todo)
}

// Path is where the directory is; the daemon's sockets are in it too.
func (d *Dir) Path() string { return d.path }

// Close lets go of the directory. Registrations go on.
func (d *Dir) Close() error { return d.root.Close() }
