package sys

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OpenNamespace opens the namespace of kind (CLONE_NEWNET and the like) at path, a file of nsfs such
// as /proc/PID/ns/net or a bind mount of one. It never hangs and has no side effect on what is
// there instead: the path is only looked up (O_PATH), and opened for real when it is a namespace.
func OpenNamespace(path string, kind int) (*os.File, error) {
	p, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(p)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(p, &fs); err != nil {
		return nil, err
	}
	if fs.Type != unix.NSFS_MAGIC {
		return nil, ErrNotNamespace
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", p), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	got, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err == nil && got != kind {
		err = ErrNotNamespace
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// ErrNotNamespace says that a file is no namespace of the kind wanted.
var ErrNotNamespace = errors.New("not a namespace of this kind")

// SameFile reports whether f is the file at path; for namespaces, whether they are one.
func SameFile(f *os.File, path string) (bool, error) {
	a, err := f.Stat()
	if err != nil {
		return false, err
	}
	b, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	return os.SameFile(a, b), nil
}

// SetNS moves the calling thread into the namespace ns of kind.
func SetNS(ns *os.File, kind int) error {
	var err error
	if cerr := controlFD(ns, func(fd int) { err = unix.Setns(fd, kind) }); cerr != nil {
		return cerr
	}
	return err
}

// NetNamespace is the kind of network namespaces.
const NetNamespace = unix.CLONE_NEWNET
