package shim

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/tap"
	"github.com/usernet/usernet/tap/netns"
)

// What init, and the helper of an attached namespace, do to the network namespace they are in.

// makeNetwork makes lo, the interfaces and the routes. Each TAP goes to the shim as early as possible.
func makeNetwork(c *conn, ns netns.Namespace, s *setup) error {
	if len(s.Links) == 0 && s.Routes == (plumb.Routes{}) {
		return loopbackUp()
	}
	for _, l := range s.Links {
		f, info, err := openTAP(l)
		if err != nil {
			return err
		}
		// The interface lives as long as any duplicate of its descriptor; this one outlasts the set-up.
		defer f.Close()
		if err := c.send(message{Kind: kindTAP, Endpoint: l.EndpointID, Info: &info, file: f}); err != nil {
			return err
		}
	}
	if s.Bare {
		return nil
	}
	return ns.Configure(s.Links, s.Routes)
}

// openTAP makes the TAP of a Link, or takes over the one there is.
func openTAP(l plumb.Link) (*os.File, tap.Info, error) {
	if l.Adopt {
		there, err := sys.InterfaceExists(l.Name)
		if err != nil {
			return nil, tap.Info{}, fmt.Errorf("find interface %s: %w", l.Name, err)
		}
		if there {
			f, info, err := tap.Attach(l.Name)
			// Whoever made it may set its MTU later; the Link's is what was agreed on.
			info.MTU = l.MTU
			return f, info, err
		}
	}
	return tap.Create(l.Name, l.MTU, l.MAC)
}

// loopbackUp brings up lo, the whole network of a sandbox without one.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return nil
}

// answer makes the change of m and tells the shim; setFiles is for those of files. An error says that the
// shim could not be told.
func answer(c *conn, ns netns.Namespace, m message, setFiles func([]plumb.File) error) error {
	reply := message{Kind: kindChanged, ID: m.ID}
	if m.Change != nil && len(m.Change.Sockets) > 0 {
		return answerSockets(c, reply, m.Change.Sockets)
	}
	f, info, err := makeChange(ns, m.Change, setFiles)
	if err != nil {
		reply.Error = err.Error()
	}
	if f != nil {
		defer f.Close()
		reply.Info, reply.file = &info, f
	}
	return c.send(reply)
}

// answerSockets makes sockets here and sends them.
func answerSockets(c *conn, reply message, wanted []plumb.Socket) error {
	made, err := netns.OpenSockets(wanted)
	if err != nil {
		reply.Error = err.Error()
	}
	defer closeAll(made)
	reply.sockets = made
	return c.send(reply)
}

// makeChange returns the TAP that a change makes, or nil.
func makeChange(ns netns.Namespace, ch *change, setFiles func([]plumb.File) error) (*os.File, tap.Info, error) {
	switch {
	case ch == nil:
		return nil, tap.Info{}, errors.New("message change is empty")
	case ch.Plug != nil:
		return plug(ns, *ch.Plug)
	case ch.Unplug != "":
		return nil, tap.Info{}, ns.Unplug(ch.Unplug)
	case ch.Routes != nil:
		return nil, tap.Info{}, ns.SetRoutes(ch.Routes.Was, ch.Routes.Want)
	case len(ch.Files) > 0:
		return nil, tap.Info{}, setFiles(ch.Files)
	}
	return nil, tap.Info{}, errors.New("message change asks for nothing")
}

// plug makes an interface; after an error there is none.
func plug(ns netns.Namespace, l plumb.Link) (*os.File, tap.Info, error) {
	f, info, err := openTAP(l)
	if err != nil {
		return nil, tap.Info{}, err
	}
	if err := ns.Plug(l); err != nil {
		f.Close()
		return nil, tap.Info{}, err
	}
	return f, info, nil
}
