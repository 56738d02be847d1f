package control

import (
	"errors"
	"fmt"
	"os"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/portfwd"
)

// Sockets made inside a sandbox.
//
// Two unconnected TCP sockets of a family are all that a datapath needs to connect from inside (portfwd.Inside). They
// are asked for when the first TCP port is published, so that a sandbox without any has nothing made in it and is
// not slower to start; they are kept here beside the TAP, so that the next datapath has them too.

// WantSockets receives once what sockets are to be made in the sandbox's network namespace. Whoever can have them made
// answers with UseSockets. It is nil when none are ever wanted.
func (p *Private) WantSockets() <-chan []plumb.Socket { return p.wants }

// askSockets asks for sockets when there is a port among specs that uses them.
func (p *Private) askSockets(specs []portfwd.Spec) {
	if p.wants == nil {
		return
	}
	for _, s := range specs {
		if s.Proto == portfwd.TCP && !s.Reverse {
			p.asked.Do(func() { p.wants <- p.sockets() })
			return
		}
	}
}

// sockets are a pair for each family of the Network.
func (p *Private) sockets() []plumb.Socket {
	var wanted []plumb.Socket
	if p.cfg.Network.Subnet4.IsValid() {
		wanted = append(wanted, plumb.Socket{Network: plumb.TCP4}, plumb.Socket{Network: plumb.TCP4})
	}
	if p.cfg.Network.Subnet6.IsValid() {
		wanted = append(wanted, plumb.Socket{Network: plumb.TCP6}, plumb.Socket{Network: plumb.TCP6})
	}
	return wanted
}

// UseSockets gives the datapath what WantSockets asked for, and owns files from now on. They may be anything: the
// datapath refuses what it cannot use, which is an error, and clients are then served through the gateway. At the end of p
// nobody needs them any more, which is none.
func (p *Private) UseSockets(files []*os.File) error {
	defer closeFiles(files)
	kept, err := keepFiles(files)
	taken := 0
	if err == nil {
		err = p.c.do(func(s *supervisor) (err error) {
			taken, err = s.sockets(p.cfg.Network.ID, p.cfg.Endpoint.ID, kept)
			return err
		})
	}
	closeFiles(kept[taken:])
	if err != nil && !errors.Is(err, ErrClosed) {
		return fmt.Errorf("use sockets of the sandbox: %w", err)
	}
	return nil
}

// keepFiles duplicates files; with its error it returns what is to be closed.
func keepFiles(files []*os.File) (kept []*os.File, err error) {
	for _, f := range files {
		k, err := sys.Keep(f)
		if err != nil {
			return kept, errors.Join(errors.New("duplicate a descriptor"), err)
		}
		kept = append(kept, k)
	}
	return kept, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
