package resolvconf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
)

// # Theory of operation
//
// /etc/resolv.conf is replaced in many ways: written in place (Docker, by hand), renamed over (NetworkManager, resolvconf), a symlink
// that is swapped, or a symlink to a file that a daemon renames over (systemd-resolved), perhaps in a directory
// that does not exist before the daemon runs. So a watch lies on every directory through which the
// path leads to its file, symlinks included, or on the nearest one that exists, and one on the file
// itself for the case that it is a bind mount, whose writes the directory does not see.
//
// After an event the watches are laid anew first and the file is read second: a change in between is either read or wakes
// us again. An event that left the content alone is not reported.

const (
	// settle is how long the file must be quiet before it is read, since a file written in place is empty
	// for a moment, and patience how long we wait for that.
	settle   = 50 * time.Millisecond
	patience = 500 * time.Millisecond

	// maxLinks is the kernel's limit of symlinks on one path (MAXSYMLINKS).
	maxLinks = 40

	dirEvents = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
		unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | selfEvents
	selfEvents = unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_UNMOUNT
	fileEvents = unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | selfEvents
)

// Watch calls changed with the content of the file at path, and again within a second of each time it is different. A
// file that is missing or cannot be read is nil. Watch returns nil when ctx ends, and an error when the kernel
// cannot watch; changed is called on Watch's goroutine.
func Watch(ctx context.Context, path string, changed func(content []byte)) error {
	w, err := newWatcher(path)
	if err != nil {
		return err
	}
	defer w.f.Close()
	stop := context.AfterFunc(ctx, func() { w.f.Close() })
	defer stop()
	if err := w.lay(); err != nil {
		return err
	}
	last := readFile(path)
	changed(last)
	for {
		if err := w.wait(); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch %s: %w", path, err)
		}
		if err := w.lay(); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if now := readFile(path); (now == nil) != (last == nil) || !bytes.Equal(now, last) {
			last = now
			changed(now)
		}
	}
}

// watcher is one inotify instance and the watches in force.
type watcher struct {
	path string
	f    *os.File
	// names are the entries of each watched directory that matter, by watch; nil means all events matter.
	names map[int32][]string
}

func newWatcher(path string) (*watcher, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w; raise fs.inotify.max_user_instances", path, os.NewSyscallError("inotify_init1", err))
	}
	return &watcher{path: abs, f: os.NewFile(uintptr(fd), "inotify"), names: make(map[int32][]string)}, nil
}

// lay puts the watches where the path leads now and takes away those it no longer passes.
func (w *watcher) lay() error {
	next := make(map[int32][]string)
	err := w.control(func(fd int) error {
		for _, step := range steps(w.path) {
			if err := addWatch(fd, next, step); err != nil {
				return fmt.Errorf("watch %s: %w", w.path, err)
			}
		}
		for wd := range w.names {
			if _, still := next[wd]; !still {
				// It fails when the directory is gone, and then so is the watch.
				_, _ = unix.InotifyRmWatch(fd, uint32(wd))
			}
		}
		return nil
	})
	w.names = next
	return err
}

// addWatch watches one step. A directory or file that has vanished meanwhile is no error: the watch on its parent
// tells when it is back.
func addWatch(fd int, names map[int32][]string, s step) error {
	mask := uint32(dirEvents | unix.IN_ONLYDIR)
	if s.name == "" {
		mask = fileEvents
	}
	wd, err := unix.InotifyAddWatch(fd, s.dir, mask)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EACCES):
		return nil
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("%w; raise fs.inotify.max_user_watches", os.NewSyscallError("inotify_add_watch", err))
	case err != nil:
		return os.NewSyscallError("inotify_add_watch", err)
	}
	if s.name == "" {
		names[int32(wd)] = nil
	} else {
		names[int32(wd)] = append(names[int32(wd)], s.name)
	}
	return nil
}

func (w *watcher) control(do func(fd int) error) error {
	raw, err := w.f.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch %s: %w", w.path, err)
	}
	var doErr error
	if err := raw.Control(func(fd uintptr) { doErr = do(int(fd)) }); err != nil {
		return fmt.Errorf("watch %s: %w", w.path, err)
	}
	return doErr
}

// wait blocks until something on the path has changed and then been quiet.
func (w *watcher) wait() error {
	_ = w.f.SetReadDeadline(time.Time{})
	for {
		hit, err := w.read()
		if err != nil {
			return err
		}
		if hit {
			break
		}
	}
	end := time.Now().Add(patience)
	for time.Now().Before(end) {
		_ = w.f.SetReadDeadline(time.Now().Add(settle))
		if _, err := w.read(); errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

// read takes what events there are and reports whether one of them matters.
func (w *watcher) read() (hit bool, err error) {
	var buf [4096]byte
	n, err := w.f.Read(buf[:])
	if err != nil {
		return false, err
	}
	for e := range sys.InotifyEvents(buf[:n]) {
		names, known := w.names[e.Watch]
		hit = hit || e.Mask&(selfEvents|unix.IN_Q_OVERFLOW) != 0 ||
			known && (names == nil || slices.Contains(names, e.Name))
	}
	return hit, nil
}

// step is one watch: on the entry name of directory dir, or when name is empty on the file dir.
type step struct{ dir, name string }

// steps lists every place at which the path can come to lead elsewhere: the entry of each symlink on it, and of the first
// component that is missing or is the file.
func steps(path string) []step {
	var out []step
	dir, rest := "/", strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			dir = filepath.Dir(dir)
			continue
		}
		full := filepath.Join(dir, name)
		fi, err := os.Lstat(full)
		switch {
		case err != nil:
			return append(out, step{dir, name})
		case fi.Mode()&os.ModeSymlink != 0:
			out = append(out, step{dir, name})
			target, err := os.Readlink(full)
			if links++; err != nil || links > maxLinks {
				return out
			}
			if filepath.IsAbs(target) {
				dir = "/"
			}
			rest = append(strings.Split(target, "/"), rest...)
		case fi.IsDir():
			if dir != "/" {
				// That it is moved away as a whole is rare, and in / every daemon's mkdir would wake us.
				out = append(out, step{dir, name})
			}
			dir = full
		default:
			return append(out, step{dir, name}, step{full, ""})
		}
	}
	return out
}

// readFile returns at most maxFile bytes, and nil when there is no file to read; an empty file is not nil.
func readFile(path string) []byte {
	// Non-blocking, so that a FIFO in its place does not hold us.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil
	}
	return b
}
