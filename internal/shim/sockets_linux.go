package shim

import (
	"context"
	"fmt"
	"os"

	"github.com/usernet/usernet/cnm/plumb"
)

// Namespace names an existing network namespace, and the user namespace whose rights are needed in it, as
// AttachConfig does.
type Namespace struct {
	// PID is a process in it.
	PID int
	// Netns is its path, when PID is 0.
	Netns string
	// Userns is the path of the user namespace; empty means the one that owns the network namespace.
	Userns string
	// Exe is the binary run as helper; empty means the running one.
	Exe string
}

// Sockets makes sockets inside an existing network namespace, all or none, in the order of wanted. They are
// non-blocking, close-on-exec and the caller's to close. A helper makes them, which costs a few milliseconds. The error names the namespace and, with the system's words, what cannot be had.
func Sockets(ctx context.Context, in Namespace, wanted []plumb.Socket) ([]*os.File, error) {
	ns, err := openNamespaces(in.PID, in.Netns, in.Userns)
	if err != nil {
		return nil, fmt.Errorf("make sockets in %w", err)
	}
	defer ns.close()
	m, err := ns.change(ctx, &AttachConfig{Exe: in.Exe}, change{Sockets: wanted}, nil)
	if err == nil {
		err = m.checkSockets(len(wanted))
	}
	if err != nil {
		return nil, fmt.Errorf("make sockets in %s: %w", ns.name, err)
	}
	return m.sockets, nil
}
