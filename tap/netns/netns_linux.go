// Package netns opens, enters and configures network namespaces.
//
// Namespace is for a process inside: it gives the namespace the addresses, routes and settings of its
// Links, at the start and as they come and go, by netlink and by a few files of /proc/sys. Configure is on
// the way of every start of a sandbox, so it waits for nothing: addresses are added without duplicate
// address detection, which would take a second, as the network has handed them out. SetRoutes has the
// theory of the resolver's address (route_linux.go).
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"github.com/usernet/usernet/internal/sys"
)

// Open opens the network namespace at path: /proc/PID/ns/net or a bind mount of such a file. It
// refuses everything else, without touching what is there, and the namespace this process is in:
// configuring that one would change the host.
func Open(path string) (*os.File, error) {
	f, err := sys.OpenNamespace(path, sys.NetNamespace)
	switch {
	case errors.Is(err, sys.ErrNotNamespace):
		return nil, fmt.Errorf("open network namespace %s: it is not one; give a path such as /proc/PID/ns/net", path)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("open network namespace %s: %w; has the process ended?", path, err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("open network namespace %s: %w; it belongs to another user", path, err)
	case err != nil:
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	own, err := sys.SameFile(f, "/proc/self/ns/net")
	if err == nil && own {
		err = errors.New("it is the one this process is in")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return f, nil
}

// Do runs fn in the namespace ns, on a thread of its own that ends with fn, and waits for it. The
// caller needs CAP_SYS_ADMIN in the user namespace that owns ns and in its own.
func Do(ns *os.File, fn func() error) error {
	done := make(chan error)
	go func() {
		// Never unlocked: the thread is in another namespace for good, so it ends with the goroutine.
		runtime.LockOSThread()
		if err := sys.SetNS(ns, sys.NetNamespace); err != nil {
			done <- fmt.Errorf("enter network namespace %s: %w", ns.Name(), err)
			return
		}
		done <- fn()
	}()
	return <-done
}
