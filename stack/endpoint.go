package stack

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/bridge"
	"github.com/usernet/usernet/stack/gateway"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// endpoint is an attached container.
type endpoint struct {
	spec   spec.Endpoint // Names, Resolver and Accept are guarded by Network.mu
	dev    *tap.Device
	port   *bridge.Port
	inside portfwd.Inside // connects published ports from inside the container
	reader sync.WaitGroup // runs dev until it is closed
}

// Attach gives a container the Network: f is its TAP, of which info says what it can. The Network
// owns f from now on, also when Attach fails.
func (n *Network) Attach(ep spec.Endpoint, f *os.File, info tap.Info) error {
	log := n.log.With("endpoint", ep.ID)
	dev, err := tap.Open(f, info, tap.Options{Drops: &n.drops, Alloc: gateway.Alloc, Log: log})
	if err != nil {
		f.Close()
		return fmt.Errorf("attach endpoint %s: %w", ep.ID, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.attachLocked(ep, dev); err != nil {
		dev.Close()
		return fmt.Errorf("attach endpoint %s: %w", ep.ID, err)
	}
	return nil
}

func (n *Network) attachLocked(ep spec.Endpoint, dev *tap.Device) error {
	if n.closed {
		return errors.New("network is closed")
	}
	if n.endpoints[ep.ID] != nil {
		return errors.New("already attached")
	}
	holes, err := holesOf(ep.Accept)
	if err != nil {
		return err
	}
	group := bridge.GroupNone
	if n.spec.Apart {
		group = bridge.GroupContainers
	}
	port, err := n.bridge.Attach(&recordedPort{Port: dev, n: n}, bridge.PortConfig{
		ID: ep.ID, MAC: ep.MAC, Addrs: ep.Addrs, Subnets: n.sources(), Strict: ep.Strict, VNet: dev.VNet(), Group: group,
	})
	if err != nil {
		return err
	}
	port.SetHoles(holes)
	for _, a := range ep.Addrs {
		if !ep.MAC.IsZero() {
			n.gateway.AddNeighbour(a, ep.MAC)
		}
	}
	if a := n.spec.Autoconf.Lease; a.IsValid() && !ep.Strict && !ep.MAC.IsZero() {
		n.gateway.AddNeighbour(a, ep.MAC)
	}
	n.dns.SetEndpoint(ep)
	e := &endpoint{spec: ep, dev: dev, port: port}
	n.endpoints[ep.ID] = e
	e.reader.Go(func() { n.read(e) })
	return nil
}

// holesOf reads what an Endpoint accepts.
func holesOf(accept []spec.Accept) (holes []bridge.Hole, err error) {
	for _, a := range accept {
		h := bridge.Hole{From: a.From, Port: a.Port}
		switch a.Proto {
		case "tcp":
			h.Proto = ip.TCP
		case "udp":
			h.Proto = ip.UDP
		default:
			return nil, fmt.Errorf("accept from %s: unknown protocol %q; say tcp or udp", a.From, a.Proto)
		}
		if a.Port == 0 || a.From == "" {
			return nil, fmt.Errorf("accept port %d from %q: needs a port and the id of an endpoint", a.Port, a.From)
		}
		holes = append(holes, h)
	}
	return holes, nil
}

// Update puts other Names, another Resolver and other holes (Accept) of an attached Endpoint in force. What else ep
// says must be what Attach was told; otherwise nothing changes.
func (n *Network) Update(ep spec.Endpoint) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.endpoints[ep.ID]
	if e == nil {
		return fmt.Errorf("update endpoint %s: not attached", ep.ID)
	}
	old := &e.spec
	switch {
	case ep.MAC != old.MAC:
		return fmt.Errorf("update endpoint %s: MAC %s instead of %s; detach and attach it", ep.ID, ep.MAC, old.MAC)
	case !slices.Equal(ep.Addrs, old.Addrs):
		return fmt.Errorf("update endpoint %s: addresses %v instead of %v; detach and attach it", ep.ID, ep.Addrs, old.Addrs)
	case ep.Strict != old.Strict || ep.Interface != old.Interface:
		return fmt.Errorf("update endpoint %s: another interface; detach and attach it", ep.ID)
	}
	holes, err := holesOf(ep.Accept)
	if err != nil {
		return fmt.Errorf("update endpoint %s: %w", ep.ID, err)
	}
	e.port.SetHoles(holes)
	n.dns.SetEndpoint(ep)
	old.Names, old.Resolver, old.Accept = ep.Names, ep.Resolver, ep.Accept
	return nil
}

// read runs an Endpoint's TAP until it is closed or gone.
func (n *Network) read(e *endpoint) {
	err := e.dev.Run(func(frames []l2.Frame) {
		if r := n.record.Load(); r != nil {
			r.Record(frames)
		}
		e.port.Input(frames)
	}, n.gateway.Flush)
	if err != nil && n.opts.EndpointDown != nil {
		n.opts.EndpointDown(e.spec.ID, err)
	}
}

// Socket takes over an unconnected TCP socket of the container's network namespace. With two of a family, clients on
// the host's loopback are connected to published ports from inside the container. It may be anything: it is checked,
// and closed on an error.
func (n *Network) Socket(endpointID string, f *os.File) error {
	n.mu.Lock()
	e := n.endpoints[endpointID]
	n.mu.Unlock()
	if e == nil {
		f.Close()
		return fmt.Errorf("take a socket of endpoint %s: not attached", endpointID)
	}
	return e.inside.Add(f)
}

// Detach takes a container off the Network and closes its TAP.
func (n *Network) Detach(id string) error {
	n.mu.Lock()
	e := n.endpoints[id]
	delete(n.endpoints, id)
	n.dns.RemoveEndpoint(id)
	n.mu.Unlock()
	if e == nil {
		return fmt.Errorf("detach endpoint %s: not attached", id)
	}
	return n.detach(e)
}

func (n *Network) detach(e *endpoint) error {
	err := errors.Join(e.dev.Close(), e.inside.Close())
	e.reader.Wait()
	// The neighbours go first: once the switch has freed the addresses another Endpoint may have them.
	for _, a := range e.spec.Addrs {
		n.gateway.RemoveNeighbour(a)
	}
	if a := n.spec.Autoconf.Lease; a.IsValid() && !e.spec.Strict {
		n.gateway.RemoveNeighbour(a)
	}
	n.bridge.Detach(e.port)
	return err
}
