package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/tap/netns"
)

// namespaces are those of a process, or behind a path, that somebody else made.
//
// They are opened, checked, and then used by descriptor only: neither a path nor a pid can come to mean
// others meanwhile. They are not kept open longer than needed, because a mount of which a file is open
// cannot be unmounted; whoever needs them again reopens them and finds the same ones or an error.
type namespaces struct {
	name   string // for people
	path   string // of the network namespace
	userns string // path of the user namespace; empty means the one that owns the network namespace
	pid    int    // of the process they are named by; 0 when there is none
	pidfd  int    // of it; -1 when there is none

	net  *os.File // nil after release
	user *os.File // nil when it is ours, and after release

	// id is the network namespace's. While its process or one of its TAPs is there no other can come to have it.
	id os.FileInfo
}

// openNamespaces opens and checks those of a process or, when pid is 0, those at path.
func openNamespaces(pid int, path, userns string) (*namespaces, error) {
	ns := &namespaces{name: path, path: path, userns: userns, pid: pidOfPath(path), pidfd: -1}
	if pid != 0 {
		ns.name, ns.pid, ns.path = "process "+strconv.Itoa(pid), pid, fmt.Sprintf("/proc/%d/ns/net", pid)
	}
	if err := ns.open(); err != nil {
		ns.close()
		return nil, err
	}
	return ns, nil
}

func (ns *namespaces) open() (err error) {
	if ns.pid != 0 {
		// First the process, then its namespace: should the pid be reused in between, the process is
		// seen to have ended.
		if ns.pidfd, err = unix.PidfdOpen(ns.pid, 0); err != nil {
			return fmt.Errorf("process %d: %w", ns.pid, err)
		}
	}
	if err := ns.reopen(); err != nil {
		return err
	}
	if ns.id, err = ns.net.Stat(); err != nil {
		return fmt.Errorf("%s: %w", ns.name, err)
	}
	if ns.pid != 0 && ended(ns.pidfd) {
		return fmt.Errorf("process %d: %w", ns.pid, unix.ESRCH)
	}
	return nil
}

// reopen opens the network and the user namespace.
func (ns *namespaces) reopen() (err error) {
	if ns.net, err = netns.Open(ns.path); err != nil {
		return fmt.Errorf("%s: %w", ns.name, err)
	}
	if ns.id != nil {
		if now, err := ns.net.Stat(); err != nil || !os.SameFile(now, ns.id) {
			return fmt.Errorf("%s: it has another network namespace now", ns.name)
		}
	}
	if ns.user, err = openUserNamespace(ns.userns, ns.net); err != nil {
		return fmt.Errorf("%s: %w", ns.name, err)
	}
	own, err := sys.SameFile(ns.user, "/proc/self/ns/user")
	if err != nil {
		return fmt.Errorf("%s: %w", ns.name, err)
	}
	if own {
		ns.user.Close()
		ns.user = nil
	}
	return nil
}

// pidOfPath is the process that a path such as /proc/4242/ns/net speaks of, or 0. Such a path ends with
// the process; no mount or directory tells of it.
func pidOfPath(path string) int {
	rest, ok := strings.CutPrefix(filepath.Clean(path), "/proc/")
	if !ok {
		return 0
	}
	first, _, _ := strings.Cut(rest, "/")
	pid, _ := strconv.Atoi(first)
	return pid
}

// openUserNamespace opens the one at path, or the one that owns the network namespace.
func openUserNamespace(path string, net *os.File) (*os.File, error) {
	if path != "" {
		f, err := sys.OpenNamespace(path, unix.CLONE_NEWUSER)
		if err != nil {
			return nil, fmt.Errorf("open user namespace %s: %w; give a path such as /proc/PID/ns/user", path, err)
		}
		return f, nil
	}
	fd, err := unix.IoctlRetInt(int(net.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return nil, fmt.Errorf("find the user namespace of %s: %w; it belongs to another user or to the host", net.Name(), err)
	}
	return os.NewFile(uintptr(fd), "user namespace"), nil
}

func (ns *namespaces) close() {
	if ns.pidfd >= 0 {
		unix.Close(ns.pidfd)
	}
	ns.release()
}

// release closes the namespaces.
func (ns *namespaces) release() {
	if ns.net != nil {
		ns.net.Close()
	}
	if ns.user != nil {
		ns.user.Close()
	}
	ns.net, ns.user = nil, nil
}
