package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/sys"
)

// Files of a container that somebody else made.
//
// # Theory of operation
//
// The container sees its files at paths below its own root, which /proc/PID/root leads to. It may be hostile
// and change what is there at any time, so nothing is looked at by one call and used by another. One openat2
// resolves the path: from that root, never above it, through no symbolic link. It gives a descriptor without the
// right to do anything (O_PATH), so that not even the opening of a device or of a FIFO has an effect; that is
// looked at, and only a regular file is opened, by that descriptor. What then is written is a file that
// the container reaches, in place, so that all its processes see it.
//
// A file that is missing is made, as podman makes no resolv.conf for a container without a network; the kernel makes
// it only where nothing at all is.
//
// The helper does this as root of the container's user namespace: it can write what that root can, and nothing else.
//
// A file that is the host's own, as in a mount namespace with the host's /etc, is never written, nor is one made in
// a directory of the host's.

// toWrite resolves a path of which no part is a symbolic link.
const toWrite = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// openBelow opens a regular file at path below root; resolve is of openat2(2).
func openBelow(root *os.File, path string, flags int, resolve uint64) (*os.File, error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolve}
	fd, err := unix.Openat2(int(root.Fd()), strings.TrimLeft(path, "/"), how)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	var on unix.Statfs_t
	if err := errors.Join(unix.Fstat(fd, &st), unix.Fstatfs(fd, &on)); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	// Files of these file systems are switches, not files.
	if st.Mode&unix.S_IFMT != unix.S_IFREG || on.Type == unix.PROC_SUPER_MAGIC || on.Type == unix.SYSFS_MAGIC {
		return nil, &os.PathError{Op: "open", Path: path, Err: errors.New("it is not an ordinary file")}
	}
	// The number is that of a descriptor of ours, so this link leads to nothing but what was looked at.
	f, err := os.OpenFile(fdPath(fd), flags|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: errors.Unwrap(err)}
	}
	return f, nil
}

// createBelow makes a file at path below root, which does not exist.
func createBelow(root *os.File, path string) (*os.File, error) {
	fd, err := unix.Openat2(int(root.Fd()), strings.TrimLeft(path, "/"), &unix.OpenHow{
		Flags: unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_CLOEXEC, Mode: 0o644, Resolve: toWrite,
	})
	if err != nil {
		return nil, &os.PathError{Op: "create", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	if err := f.Chmod(0o644); err != nil { // whatever the umask
		f.Close()
		return nil, err
	}
	return f, nil
}

// writeBelow gives files below root other content: all that can be. The error is that of each other.
func writeBelow(root *os.File, files []plumb.File) error {
	if root == nil {
		return errors.New("message change has no root")
	}
	var errs []error
	for _, f := range files {
		to, err := openBelow(root, f.Path, os.O_WRONLY, toWrite)
		if errors.Is(err, fs.ErrNotExist) {
			to, err = createBelow(root, f.Path)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if err := errors.Join(rewrite(to, f.Content), to.Close()); err != nil {
			errs = append(errs, fmt.Errorf("write %s: %w", f.Path, err))
		}
	}
	return errors.Join(errs...)
}

// openRoot opens the root directory of the process behind pidfd.
func openRoot(pid, pidfd int) (*os.File, error) {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	if ended(pidfd) {
		f.Close()
		return nil, fmt.Errorf("process %d: %w", pid, unix.ESRCH)
	}
	return f, nil
}

// ended reports whether the process behind pidfd has.
func ended(pidfd int) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
	return err == nil && n == 1
}

// ownFilesRoot is the root of a container that has files of its own, else an error that says why nothing is to be
// written there.
func (ns *namespaces) ownFilesRoot(files []plumb.File) (*os.File, error) {
	if ns.pid == 0 {
		return nil, errors.New("it was given by a path, which has no files")
	}
	root, err := openRoot(ns.pid, ns.pidfd)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := notTheHosts(root, f.Path); err != nil {
			root.Close()
			return nil, err
		}
	}
	return root, nil
}

// notTheHosts refuses a path below root that leads to what it leads to on the host: a file or, where there is none,
// a directory to make it in.
func notTheHosts(root *os.File, path string) error {
	for _, p := range []string{path, filepath.Dir(path)} {
		fd, err := unix.Openat2(int(root.Fd()), "."+p, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: toWrite})
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return &os.PathError{Op: "open", Path: p, Err: err}
		}
		f := os.NewFile(uintptr(fd), p)
		own, err := sys.SameFile(f, p)
		f.Close()
		if own {
			return fmt.Errorf("%s is the host's", p)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the host has none
		}
		return err
	}
	return &os.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
}

// writeFiles has a helper write files into the container, where it has files of its own. That it cannot be
// done is no failure of the network: it is told, with what to do instead.
func (ns *namespaces) writeFiles(change func(file *os.File) error, files []plumb.File, log *slog.Logger) {
	root, err := ns.ownFilesRoot(files)
	if err == nil {
		err = change(root)
		root.Close()
	}
	if err != nil {
		var paths []string
		for _, f := range files {
			paths = append(paths, f.Path)
		}
		log.Info("files in the namespace not written; set them by hand", "files", paths, "namespace", ns.name, "cause", err)
	}
}
