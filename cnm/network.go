package cnm

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/usernet/usernet/cnm/driver"
	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/cnm/ipam"
	"github.com/usernet/usernet/stack/spec"
)

// networkState is how far a Network is.
//
//	creating ──► active ──► removing
//
// A Network that is not active cannot be found, but its name is taken.
type networkState uint8

const (
	creating networkState = iota
	active
	removing
)

// network is one Network. What has no word on it does not change once it is active.
type network struct {
	id      string
	created time.Time
	conf    NetworkConfig // as it was asked for, with what its driver fills in
	subnets []Subnet      // the real ones
	ipam    ipam.Driver
	pools   []string      // of the subnets, as ipam calls them
	drv     driver.Driver // nil for a config-only Network
	seg     driver.Segment
	// spec is the driver's, for the datapath; without one (none, host, config-only) the Network has no legs.
	spec    spec.Network
	plumbed bool
	// names means that Endpoints resolve each other's names, and that the resolver is at 127.0.0.11.
	names bool

	state     networkState         // guarded by Controller.mu
	endpoints map[string]*endpoint // by id; guarded by Controller.mu
	claims    map[string]bool      // names of Endpoints that are being made; guarded by Controller.mu

	// wire is held while the datapath is told of this Network. It is taken after a Sandbox's op and before
	// Controller.mu.
	wire     sync.Mutex
	attached int // Endpoints the datapath has; the Network is there while there are any
}

// predefined reports whether a Network of that name is always there.
func predefined(name string) bool {
	return name == "bridge" || name == "host" || name == "none"
}

// findLocked finds an active Network: by its whole id, its name, the beginning of its id, in that order.
func (c *Controller) findLocked(ref string) (*network, error) {
	if n, ok := c.networks[ref]; ok && n.state == active {
		return n, nil
	}
	if n, ok := c.names[ref]; ok && n.state == active {
		return n, nil
	}
	var found []*network
	for id, n := range c.networks {
		if ref != "" && strings.HasPrefix(id, ref) && n.state == active {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 0:
		return nil, fault.New(fault.NotFound, "network %s not found", ref)
	case 1:
		return found[0], nil
	}
	return nil, fault.New(fault.Invalid, "network %s is ambiguous (%d matches found based on ID prefix)", ref, len(found))
}

// find is findLocked for those who hold no lock.
func (c *Controller) find(ref string) (*network, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.findLocked(ref)
}

// Network finds a Network.
func (c *Controller) Network(ref string) (NetworkInfo, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.findLocked(ref)
	if err != nil {
		return NetworkInfo{}, err
	}
	return c.infoLocked(n), nil
}

// Networks returns all, by name.
func (c *Controller) Networks() []NetworkInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []NetworkInfo
	for _, n := range c.names {
		if n.state == active {
			all = append(all, c.infoLocked(n))
		}
	}
	slices.SortFunc(all, func(a, b NetworkInfo) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// infoLocked is a snapshot.
func (c *Controller) infoLocked(n *network) NetworkInfo {
	info := NetworkInfo{ID: n.id, Created: n.created, NetworkConfig: n.conf, Subnets: slices.Clone(n.subnets)}
	info.Options, info.Labels = maps.Clone(n.conf.Options), maps.Clone(n.conf.Labels)
	for _, ep := range n.endpoints {
		info.Endpoints = append(info.Endpoints, ep.infoLocked())
	}
	slices.SortFunc(info.Endpoints, func(a, b EndpointInfo) int {
		return cmp.Or(strings.Compare(a.SandboxName, b.SandboxName), strings.Compare(a.ID, b.ID))
	})
	n.usage(&info)
	return info
}
