package control

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/internal/trim"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// The methods of this file change what is wanted. An error means that the datapath refused it, or that it makes
// no sense, and nothing changed. A datapath that dies meanwhile is not an error: its successor
// gets what is wanted. Files are duplicated and stay the caller's.

// Reserve says that prefixes belong to Networks, whether those are in the datapath or not: no container gets there
// through a gateway. A prefix that is reserved twice is released twice.
func (c *Control) Reserve(prefixes ...netip.Prefix) error {
	if err := c.do(func(s *supervisor) error { return s.reserve(prefixes) }); err != nil {
		return fmt.Errorf("reserve prefixes: %w", err)
	}
	return nil
}

// Release takes back Reserve.
func (c *Control) Release(prefixes ...netip.Prefix) error {
	if err := c.do(func(s *supervisor) error { return s.release(prefixes) }); err != nil {
		return fmt.Errorf("release prefixes: %w", err)
	}
	return nil
}

// Shrink lets go of the room that Networks took which have gone.
func (c *Control) Shrink() {
	_ = c.do(func(s *supervisor) error { // fails when it is closed
		s.want.reserved, s.want.networks = trim.Map(s.want.reserved), trim.Map(s.want.networks)
		return nil
	})
}

// AddNetwork makes a Network; hosts are names its DNS knows beside its Endpoints.
func (c *Control) AddNetwork(n spec.Network, hosts map[string][]netip.Addr) error {
	hosts = maps.Clone(hosts)
	if err := c.do(func(s *supervisor) error { return s.addNetwork(n, hosts) }); err != nil {
		return fmt.Errorf("add network %s: %w", n.ID, err)
	}
	return nil
}

// RemoveNetwork ends a Network that has no Endpoints.
func (c *Control) RemoveNetwork(id string) error {
	if err := c.do(func(s *supervisor) error { return s.removeNetwork(id) }); err != nil {
		return fmt.Errorf("remove network %s: %w", id, err)
	}
	return nil
}

// Capture has everything that passes the switch of a Network written to f in pcap form, also by the datapaths to
// come.
func (c *Control) Capture(network string, f *os.File) error {
	kept, err := sys.Keep(f)
	if err != nil {
		return fmt.Errorf("capture network %s: %w", network, err)
	}
	if err := c.do(func(s *supervisor) error { return s.capture(network, kept) }); err != nil {
		kept.Close()
		return fmt.Errorf("capture network %s: %w", network, err)
	}
	return nil
}

// Attach gives a Network an Endpoint on a TAP.
func (c *Control) Attach(network string, ep spec.Endpoint, dev *os.File, info tap.Info) error {
	kept, err := sys.Keep(dev)
	if err != nil {
		return fmt.Errorf("attach endpoint %s: %w", ep.ID, err)
	}
	e := &endpoint{spec: ep, tap: kept, info: info}
	if err := c.do(func(s *supervisor) error { return s.attach(network, e) }); err != nil {
		kept.Close()
		return fmt.Errorf("attach endpoint %s: %w", ep.ID, err)
	}
	return nil
}

// Update changes Names, Resolver and Accept of an attached Endpoint; whatever else ep says is ignored.
func (c *Control) Update(network string, ep spec.Endpoint) error {
	if err := c.do(func(s *supervisor) error { return s.update(network, ep) }); err != nil {
		return fmt.Errorf("update endpoint %s: %w", ep.ID, err)
	}
	return nil
}

// Detach takes an Endpoint away, closes its TAP and ends what is published of it.
func (c *Control) Detach(network, endpoint string) error {
	if err := c.do(func(s *supervisor) error { return s.detach(network, endpoint) }); err != nil {
		return fmt.Errorf("detach endpoint %s: %w", endpoint, err)
	}
	return nil
}

// Publish forwards bound sockets to an attached Endpoint: all or none.
func (c *Control) Publish(network, endpoint string, ls []portfwd.Listener) error {
	kept, err := keepListeners(ls)
	if err == nil {
		err = c.do(func(s *supervisor) error { return s.publish(network, endpoint, kept) })
	}
	if err != nil {
		closeListeners(kept)
		return fmt.Errorf("publish ports: %w", err)
	}
	return nil
}

// keepListeners duplicates ls; with its error it returns what is to be closed.
func keepListeners(ls []portfwd.Listener) (kept []portfwd.Listener, err error) {
	for _, l := range ls {
		if l.File, err = sys.Keep(l.File); err != nil {
			return kept, err
		}
		kept = append(kept, l)
	}
	return kept, nil
}

func closeListeners(ls []portfwd.Listener) {
	for _, l := range ls {
		l.File.Close()
	}
}

// Unpublish ends what Publish began, by the Specs of its Listeners. One that is not published is an
// error, and then none is ended.
func (c *Control) Unpublish(network, endpoint string, specs []portfwd.Spec) error {
	specs = slices.Clone(specs)
	if err := c.do(func(s *supervisor) error { return s.unpublish(network, endpoint, specs) }); err != nil {
		return fmt.Errorf("unpublish ports: %w", err)
	}
	return nil
}

// Stats asks the datapath for the counters of a Network. They start anew with each datapath.
func (c *Control) Stats(ctx context.Context, network string) (spec.Stats, error) {
	var st spec.Stats
	err := c.do(func(s *supervisor) (err error) {
		st, err = s.stats(ctx, network)
		return err
	})
	if err != nil {
		return spec.Stats{}, fmt.Errorf("ask for counters of network %s: %w", network, err)
	}
	return st, nil
}
