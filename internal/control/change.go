package control

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
)

// Every change below follows one order: what makes no sense is refused here, then the datapath is asked, and what it
// takes is wanted from then on. What is no longer wanted is forgotten whatever the datapath says.

func (s *supervisor) reserve(prefixes []netip.Prefix) error {
	var fresh []netip.Prefix
	for i, p := range prefixes {
		switch {
		case !p.IsValid():
			return errors.New("an invalid prefix is among them")
		case s.want.reserved[p] == 0 && !slices.Contains(prefixes[:i], p):
			fresh = append(fresh, p)
		}
	}
	for _, r := range datapath.Reserve(s.unclaimed.Unreserved(fresh)) {
		if err := s.send(r); err != nil {
			return err
		}
	}
	for _, p := range prefixes {
		s.want.reserved[p]++
	}
	return nil
}

func (s *supervisor) release(prefixes []netip.Prefix) error {
	times := make(map[netip.Prefix]int)
	for _, p := range prefixes {
		if times[p]++; times[p] > s.want.reserved[p] {
			return fmt.Errorf("%s: it is not reserved", p)
		}
	}
	var gone []netip.Prefix
	for p, n := range times {
		if s.want.reserved[p] -= n; s.want.reserved[p] == 0 {
			delete(s.want.reserved, p)
			gone = append(gone, p)
		}
	}
	for _, r := range datapath.Release(gone) {
		s.tell(r)
	}
	return nil
}

func (s *supervisor) addNetwork(spec spec.Network, hosts map[string][]netip.Addr) error {
	switch {
	case spec.ID == "":
		return errors.New("it has no id")
	case s.want.networks[spec.ID] != nil:
		return errors.New("it is there already")
	}
	if err := s.send(datapath.AddNetwork(spec, hosts)); err != nil {
		return err
	}
	s.want.networks[spec.ID] = &network{spec: spec, hosts: hosts, endpoints: make(map[string]*endpoint)}
	s.renewal.networks(len(s.want.networks))
	return nil
}

func (s *supervisor) removeNetwork(id string) error {
	n, err := s.want.network(id)
	if err != nil {
		return err
	}
	if len(n.endpoints) > 0 {
		return fmt.Errorf("it has %d endpoints; detach them first", len(n.endpoints))
	}
	delete(s.want.networks, id)
	s.tell(datapath.RemoveNetwork(id))
	if n.capture != nil {
		n.capture.Close()
	}
	s.renewal.networks(len(s.want.networks))
	return nil
}

// capture owns f when it succeeds.
func (s *supervisor) capture(network string, f *os.File) error {
	n, err := s.want.network(network)
	if err != nil {
		return err
	}
	if err := s.send(datapath.Capture(network, f, false)); err != nil {
		return err
	}
	if n.capture != nil {
		n.capture.Close()
	}
	n.capture, n.captured = f, s.proc != nil
	return nil
}

// attach owns e when it succeeds.
func (s *supervisor) attach(network string, e *endpoint) error {
	n, err := s.want.network(network)
	if err != nil {
		return err
	}
	if n.endpoints[e.spec.ID] != nil {
		return errors.New("it is attached already")
	}
	if err := s.send(datapath.Attach(network, e.spec, e.tap, e.info)); err != nil {
		return err
	}
	e.ports = make(map[string]portfwd.Listener)
	n.endpoints[e.spec.ID] = e
	s.want.attached++
	s.renewal.attached(s.want.attached)
	return nil
}

func (s *supervisor) update(network string, to spec.Endpoint) error {
	e, err := s.want.endpoint(network, to.ID)
	if err != nil {
		return err
	}
	ep := e.spec
	ep.Names, ep.Resolver, ep.Accept = to.Names, to.Resolver, to.Accept
	if err := s.send(datapath.Update(network, ep)); err != nil {
		return err
	}
	e.spec = ep
	return nil
}

func (s *supervisor) detach(network, id string) error {
	e, err := s.want.endpoint(network, id)
	if err != nil {
		return err
	}
	for port := range e.ports {
		s.tell(datapath.Unpublish(network, port))
	}
	delete(s.want.networks[network].endpoints, id)
	s.want.attached--
	s.tell(datapath.Detach(network, id))
	e.close()
	return nil
}

// publish owns the sockets of ls when it succeeds.
func (s *supervisor) publish(network, id string, ls []portfwd.Listener) error {
	e, err := s.want.endpoint(network, id)
	if err != nil {
		return fmt.Errorf("endpoint %s: %w", id, err)
	}
	for i, l := range ls {
		port := portID(l.Spec)
		if _, ok := e.ports[port]; ok {
			err = errors.New("it is published already")
		} else {
			err = s.send(datapath.Publish(network, port, l.Spec, l.File, id))
		}
		if err == nil {
			e.ports[port] = l
			continue
		}
		for _, l := range ls[:i] {
			delete(e.ports, portID(l.Spec))
			s.tell(datapath.Unpublish(network, portID(l.Spec)))
		}
		return fmt.Errorf("%s: %w", port, err)
	}
	return nil
}

// sockets owns what of files the datapath takes, and returns how many of them, from the first on.
func (s *supervisor) sockets(network, id string, files []*os.File) (taken int, err error) {
	e, err := s.want.endpoint(network, id)
	if err != nil {
		return 0, fmt.Errorf("endpoint %s: %w", id, err)
	}
	for i, f := range files {
		if err := s.send(datapath.Socket(network, id, f)); err != nil {
			return i, err
		}
		e.sockets = append(e.sockets, f)
	}
	return len(files), nil
}

func (s *supervisor) unpublish(network, id string, specs []portfwd.Spec) error {
	e, err := s.want.endpoint(network, id)
	if err != nil {
		return fmt.Errorf("endpoint %s: %w", id, err)
	}
	for _, q := range specs {
		if _, ok := e.ports[portID(q)]; !ok {
			return fmt.Errorf("%s: it is not published", portID(q))
		}
	}
	for _, q := range specs {
		port := portID(q)
		l, ok := e.ports[port]
		if !ok {
			continue // named twice
		}
		delete(e.ports, port)
		s.tell(datapath.Unpublish(network, port))
		l.File.Close()
	}
	return nil
}

func (s *supervisor) setUpstreams(u []netip.AddrPort) {
	if slices.Equal(u, s.want.upstreams) {
		return
	}
	s.log.Info("dns upstreams changed", "upstreams", u)
	s.want.upstreams = u
	s.tell(datapath.SetUpstreams(u))
}
