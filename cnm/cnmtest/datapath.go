// Package cnmtest has what stands in for the world around a cnm.Controller in tests: a datapath, a sandbox's
// namespaces, a store, all in memory. Each holds the Controller to the contract of what it stands for, and keeps
// what it was told in the open.
package cnmtest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// Datapath is a cnm.Datapath. It refuses what the real one refuses.
type Datapath struct {
	// Fail, when not nil, is asked before each call, by the name of its method, and may refuse it.
	Fail func(method string) error

	mu       sync.Mutex
	reserved map[netip.Prefix]bool
	networks map[string]*Network
}

// Network is one that the Datapath has.
type Network struct {
	Spec      spec.Network
	Hosts     map[string][]netip.Addr
	Endpoints map[string]spec.Endpoint
	Ports     map[portfwd.Spec]string // endpoint by socket
}

// NewDatapath makes one without Networks.
func NewDatapath() *Datapath {
	return &Datapath{reserved: make(map[netip.Prefix]bool), networks: make(map[string]*Network)}
}

// do runs f, with the lock held, unless the call is refused.
func (d *Datapath) do(method string, f func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.Fail != nil {
		if err := d.Fail(method); err != nil {
			return err
		}
	}
	return f()
}

// Network returns a copy of a Network, nil if there is none.
func (d *Datapath) Network(id string) *Network {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.networks[id]
	if n == nil {
		return nil
	}
	return &Network{Spec: n.Spec, Hosts: n.Hosts, Endpoints: maps.Clone(n.Endpoints), Ports: maps.Clone(n.Ports)}
}

// Networks are the ids of those there are.
func (d *Datapath) Networks() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.networks))
}

// Reserved are the prefixes that are.
func (d *Datapath) Reserved() []netip.Prefix {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.SortedFunc(maps.Keys(d.reserved), netip.Prefix.Compare)
}

func (d *Datapath) Reserve(prefixes ...netip.Prefix) error {
	return d.do("Reserve", func() error {
		for _, p := range prefixes {
			if d.reserved[p] {
				return fmt.Errorf("%s is reserved twice", p)
			}
		}
		for _, p := range prefixes {
			d.reserved[p] = true
		}
		return nil
	})
}

func (d *Datapath) Release(prefixes ...netip.Prefix) error {
	return d.do("Release", func() error {
		for _, p := range prefixes {
			if !d.reserved[p] {
				return fmt.Errorf("%s is not reserved", p)
			}
			delete(d.reserved, p)
		}
		return nil
	})
}

func (d *Datapath) AddNetwork(n spec.Network, hosts map[string][]netip.Addr) error {
	return d.do("AddNetwork", func() error {
		if d.networks[n.ID] != nil {
			return fmt.Errorf("network %s exists", n.ID)
		}
		d.networks[n.ID] = &Network{Spec: n, Hosts: hosts, Endpoints: make(map[string]spec.Endpoint), Ports: make(map[portfwd.Spec]string)}
		return nil
	})
}

func (d *Datapath) RemoveNetwork(id string) error {
	return d.do("RemoveNetwork", func() error {
		n := d.networks[id]
		if n == nil || len(n.Endpoints) > 0 || len(n.Ports) > 0 {
			return fmt.Errorf("network %s: not there, or in use", id)
		}
		delete(d.networks, id)
		return nil
	})
}

func (d *Datapath) Attach(network string, ep spec.Endpoint, dev *os.File, _ tap.Info) error {
	return d.do("Attach", func() error {
		n := d.networks[network]
		if n == nil || dev == nil {
			return fmt.Errorf("attach to network %s: no network or no TAP", network)
		}
		macs := map[l2.MAC]bool{n.Spec.GatewayMAC: true}
		addrs := map[netip.Addr]bool{n.Spec.Gateway4: true, n.Spec.Gateway6: true}
		for _, o := range n.Endpoints {
			macs[o.MAC] = true
			for _, a := range o.Addrs {
				addrs[a] = true
			}
		}
		if _, twice := n.Endpoints[ep.ID]; twice || macs[ep.MAC] {
			return fmt.Errorf("endpoint %s or its MAC address is there already", ep.ID)
		}
		for _, a := range ep.Addrs {
			if addrs[a] {
				return fmt.Errorf("address %s is there already", a)
			}
		}
		n.Endpoints[ep.ID] = ep
		return nil
	})
}

func (d *Datapath) Update(network string, ep spec.Endpoint) error {
	return d.do("Update", func() error {
		n := d.networks[network]
		if n == nil {
			return fmt.Errorf("network %s is not there", network)
		}
		if _, ok := n.Endpoints[ep.ID]; !ok {
			return fmt.Errorf("endpoint %s is not there", ep.ID)
		}
		n.Endpoints[ep.ID] = ep
		return nil
	})
}

func (d *Datapath) Detach(network, endpoint string) error {
	return d.do("Detach", func() error {
		n := d.networks[network]
		if n == nil {
			return fmt.Errorf("network %s is not there", network)
		}
		if _, ok := n.Endpoints[endpoint]; !ok {
			return fmt.Errorf("endpoint %s is not there", endpoint)
		}
		delete(n.Endpoints, endpoint)
		return nil
	})
}

func (d *Datapath) Publish(network, endpoint string, ls []portfwd.Listener) error {
	return d.do("Publish", func() error {
		n := d.networks[network]
		if n == nil {
			return fmt.Errorf("network %s is not there", network)
		}
		if _, ok := n.Endpoints[endpoint]; !ok {
			return fmt.Errorf("endpoint %s is not there", endpoint)
		}
		for _, l := range ls {
			if _, twice := n.Ports[l.Spec]; twice {
				return fmt.Errorf("port %s is published already", l.Spec)
			}
		}
		for _, l := range ls {
			n.Ports[l.Spec] = endpoint
		}
		return nil
	})
}

func (d *Datapath) Unpublish(network, endpoint string, specs []portfwd.Spec) error {
	return d.do("Unpublish", func() error {
		n := d.networks[network]
		if n == nil {
			return fmt.Errorf("network %s is not there", network)
		}
		for _, s := range specs {
			if n.Ports[s] != endpoint {
				return fmt.Errorf("port %s is not that of endpoint %s", s, endpoint)
			}
		}
		for _, s := range specs {
			delete(n.Ports, s)
		}
		return nil
	})
}

func (d *Datapath) Stats(_ context.Context, network string) (s spec.Stats, err error) {
	err = d.do("Stats", func() error {
		n := d.networks[network]
		if n == nil {
			return fmt.Errorf("network %s is not there", network)
		}
		s.Endpoints, s.Ports = len(n.Endpoints), len(n.Ports)
		return nil
	})
	return s, err
}
