package control

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// ErrNotPublished is the cause when Unpublish names a port that is not published.
var ErrNotPublished = errors.New("it is not published")

// PrivateConfig is the one Network of a sandbox that needs no daemon, and its one Endpoint.
type PrivateConfig struct {
	Network  spec.Network
	Endpoint spec.Endpoint
	// Hosts are names the Network's DNS answers without asking anyone.
	Hosts map[string][]netip.Addr
	// Publish are ports to bind at the start.
	Publish []portfwd.Spec
	// Splice has clients on the host's loopback connected to published TCP ports from inside the sandbox, as soon as
	// WantSockets was answered. They appear with the sandbox's own address then, instead of the gateway's.
	Splice bool
	// Capture, when not nil, receives everything that passes the switch in pcap form; it stays the caller's.
	Capture *os.File
}

// Private is a Control with one Network for one sandbox. It binds the ports it publishes itself. Its methods are
// safe for concurrent use.
//
// Ports are bound before there is an Endpoint to forward them to, so that CMD never starts when one is in
// use. Until Attach they wait; from then on they are the Endpoint's.
type Private struct {
	c       *Control
	cfg     PrivateConfig
	added   chan struct{}  // closed when the datapath has the Network, or refused it
	err     error          // why it refused; written before added is closed
	wg      sync.WaitGroup // add
	waiting []portfwd.Listener
	there   bool                // the Endpoint is attached; like waiting it is the supervisor's, and Close's after its end
	wants   chan []plumb.Socket // nil when none are ever wanted; of one element
	asked   sync.Once           // for sockets

	// mu guards what follows; nothing is called while it is held.
	mu    sync.Mutex
	ports []portfwd.Spec // in the order they were published
}

// StartPrivate binds the ports, begins to start the datapath and returns; Attach waits for it.
func StartPrivate(ctx context.Context, cfg Config, of PrivateConfig) (*Private, error) {
	p := &Private{cfg: of, added: make(chan struct{})}
	if of.Splice {
		p.wants = make(chan []plumb.Socket, 1)
	}
	if len(of.Publish) > 0 {
		var err error
		if p.waiting, err = p.listen(of.Publish); err != nil {
			return nil, err
		}
		p.ports = specsOf(p.waiting)
	}
	var err error
	if p.c, err = Start(ctx, cfg); err != nil {
		closeListeners(p.waiting)
		return nil, err
	}
	p.wg.Go(p.add)
	return p, nil
}

// add makes the Network while the sandbox is being made. Its end is that of the Control at the latest.
func (p *Private) add() {
	defer close(p.added)
	p.err = p.c.AddNetwork(p.cfg.Network, p.cfg.Hosts)
	if p.err == nil && p.cfg.Capture != nil {
		p.err = p.c.Capture(p.cfg.Network.ID, p.cfg.Capture)
	}
}

func (p *Private) listen(specs []portfwd.Spec) ([]portfwd.Listener, error) {
	return portfwd.Listen(specs, p.cfg.Network.Subnet6.IsValid())
}

// Attach gives the Endpoint its TAP, which stays the caller's, and forwards the ports to it.
func (p *Private) Attach(endpointID string, dev *os.File, info tap.Info) error {
	if endpointID != p.cfg.Endpoint.ID {
		return fmt.Errorf("attach endpoint %s: the sandbox has but %s", endpointID, p.cfg.Endpoint.ID)
	}
	<-p.added
	if p.err != nil {
		return p.err
	}
	kept, err := sys.Keep(dev)
	if err != nil {
		return fmt.Errorf("attach endpoint %s: %w", endpointID, err)
	}
	e := &endpoint{spec: p.cfg.Endpoint, tap: kept, info: info}
	if e.spec.MAC.IsZero() {
		// Nobody chose one. With the device's, the Endpoint can be reached before it has sent anything.
		e.spec.MAC = info.MAC
	}
	owned := false
	err = p.c.do(func(s *supervisor) (err error) {
		if err = s.attach(p.cfg.Network.ID, e); err != nil {
			return err
		}
		owned = true
		if err = s.publish(p.cfg.Network.ID, endpointID, p.waiting); err != nil {
			return errors.Join(err, s.detach(p.cfg.Network.ID, endpointID))
		}
		p.waiting, p.there = nil, true
		p.askSockets(p.Ports())
		return nil
	})
	if err != nil {
		if !owned {
			kept.Close()
		}
		return fmt.Errorf("attach endpoint %s: %w", endpointID, err)
	}
	return nil
}

// Publish binds what specs ask for, all or nothing, and forwards it to the Endpoint. It returns what was
// bound, with the real ports and addresses. A port in use is an error that wraps syscall.EADDRINUSE.
func (p *Private) Publish(specs []portfwd.Spec) ([]portfwd.Spec, error) {
	ls, err := p.listen(specs)
	if err != nil {
		return nil, err
	}
	if err := p.serve(ls); err != nil {
		closeListeners(ls)
		return nil, err
	}
	return specsOf(ls), nil
}

// PublishSockets forwards sockets that somebody else has made, such as those of Reverse Specs, which are made inside the
// sandbox: all or none. The files stay the caller's. Unpublish ends them.
func (p *Private) PublishSockets(ls []portfwd.Listener) error {
	kept, err := keepListeners(ls)
	if err == nil {
		err = p.serve(kept)
	}
	if err != nil {
		closeListeners(kept)
	}
	return err
}

// serve owns ls when it succeeds.
func (p *Private) serve(ls []portfwd.Listener) error {
	err := p.c.do(func(s *supervisor) error {
		if !p.there {
			p.waiting = append(p.waiting, ls...)
		} else if err := s.publish(p.cfg.Network.ID, p.cfg.Endpoint.ID, ls); err != nil {
			return err
		}
		p.setPorts(append(p.Ports(), specsOf(ls)...))
		if p.there {
			p.askSockets(specsOf(ls))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("publish ports: %w", err)
	}
	return nil
}

// Unpublish ends ports. A Spec without an address stands for all addresses its port is bound to,
// one without a container port for any. One that is not published is an error, and then none is ended.
func (p *Private) Unpublish(specs []portfwd.Spec) error {
	return p.c.do(func(s *supervisor) error {
		ports := p.Ports()
		var gone []portfwd.Spec
		for _, q := range specs {
			n := len(gone)
			for _, b := range ports {
				if matches(q, b) {
					gone = append(gone, b)
				}
			}
			if len(gone) == n {
				return fmt.Errorf("unpublish %s: %w; usernet port ls shows what is", q, ErrNotPublished)
			}
		}
		isGone := func(b portfwd.Spec) bool { return slices.Contains(gone, b) }
		if p.there {
			if err := s.unpublish(p.cfg.Network.ID, p.cfg.Endpoint.ID, gone); err != nil {
				return fmt.Errorf("unpublish ports: %w", err)
			}
		}
		p.waiting = slices.DeleteFunc(p.waiting, func(l portfwd.Listener) bool {
			if isGone(l.Spec) {
				l.File.Close()
				return true
			}
			return false
		})
		p.setPorts(slices.DeleteFunc(ports, isGone))
		return nil
	})
}

// matches reports whether q stands for the bound port s.
func matches(q, s portfwd.Spec) bool {
	return q.Proto == s.Proto && q.HostPort == s.HostPort && q.Reverse == s.Reverse &&
		(!q.HostIP.IsValid() || q.HostIP == s.HostIP) && (q.Port == 0 || q.Port == s.Port)
}

func specsOf(ls []portfwd.Listener) []portfwd.Spec {
	specs := make([]portfwd.Spec, len(ls))
	for i, l := range ls {
		specs[i] = l.Spec
	}
	return specs
}

func (p *Private) setPorts(specs []portfwd.Spec) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ports = specs
}

// Ports returns what is published, in the order it was.
func (p *Private) Ports() []portfwd.Spec {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.ports)
}

// Stats asks the datapath for its counters. They start anew with each datapath.
func (p *Private) Stats(ctx context.Context) (spec.Stats, error) {
	return p.c.Stats(ctx, p.cfg.Network.ID)
}

// Status returns how things stand, without waiting for anything.
func (p *Private) Status() Status { return p.c.Status() }

// Done is closed when the Private can no longer work; Err says why.
func (p *Private) Done() <-chan struct{} { return p.c.Done() }

// Err says why it can no longer work; nil while it can.
func (p *Private) Err() error { return p.c.Err() }

// Close ends the datapath and the published ports and waits until they are gone. It is safe to
// call more than once.
func (p *Private) Close() error {
	err := p.c.Close()
	p.wg.Wait()
	closeListeners(p.waiting)
	p.setPorts(nil)
	return err
}
