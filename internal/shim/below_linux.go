package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/cnm/plumb"
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
// The helper does this as root of the container's user namespace: it can write what that root can, and nothing else.
//
// A file that is the host's own, as in a mount namespace with the host's /etc, is never written.

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
	var fs unix.Statfs_t
	if err := errors.Join(unix.Fstat(fd, &st), unix.Fstatfs(fd, &fs)); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	// Files of these file systems are switches, not files.
	if st.Mode&unix.S_IFMT != unix.S_IFREG || fs.Type == unix.PROC_SUPER_MAGIC || fs.Type == unix.SYSFS_MAGIC {
		return nil, &os.PathError{Op: "open", Path: path, Err: errors.New("it is not an ordinary file")}
	}
	// The number is that of a descriptor of ours, so this link leads to nothing but what was looked at.
	f, err := os.OpenFile(fdPath(fd), flags|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: errors.Unwrap(err)}
	}
	return f, nil
}

// writeBelow gives files below root other content. Those written before one that cannot be stay written.
func writeBelow(root *os.File, files []plumb.File) error {
	if root == nil {
		return errors.New("message change has no root")
	}
	for _, f := range files {
		to, err := openBelow(root, f.Path, os.O_WRONLY, toWrite)
		if err != nil {
			return err
		}
		err = rewrite(to, f.Content)
		if err = errors.Join(err, to.Close()); err != nil {
			return fmt.Errorf("write %s: %w", f.Path, err)
		}
	}
	return nil
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

// notTheHosts refuses a file below root that is the one the host has at that path.
func notTheHosts(root *os.File, path string) error {
	host, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := openBelow(root, path, os.O_RDONLY, toWrite)
	if err != nil {
		return err
	}
	defer f.Close()
	if its, err := f.Stat(); err != nil || os.SameFile(host, its) {
		return fmt.Errorf("%s is the host's", path)
	}
	return nil
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
