package cnm

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/cnm/store"
)

// What survives, and how it comes back.
//
// The store has two buckets. Networks hold what was asked and the subnets that were chosen; at start
// each is made again with just those. Leases hold who has which addresses. At start the lease of a sandbox
// that does not live is deleted (FT-12: all of them, after a reboot). That of one that lives becomes an
// orphan: an Endpoint without a sandbox, whose addresses nobody else gets, until its shim comes with Rejoin,
// or it dies too, or somebody disconnects it by force. The default bridge, none and host are made if they are
// not there; the default bridge follows the daemon's settings unless a sandbox lives on it.

// restore reads the store and makes what must be there.
func (c *Controller) restore() error {
	records, err := c.readNetworks()
	if err != nil {
		return err
	}
	leases, err := c.readLeases()
	if err != nil {
		return err
	}
	used := make(map[string]bool)
	for _, l := range leases {
		used[l.Network] = true
	}
	// Sorted, so that what cannot be had twice goes to the same Network at each start.
	ids := make([]string, 0, len(records))
	for id := range records {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int { return records[a].Created.Compare(records[b].Created) })
	for _, id := range ids {
		r := records[id]
		if r.Config.Name == "bridge" && !used[id] {
			continue
		}
		if err := c.remake(id, r); err != nil {
			c.log.Error("network not restored", "network", r.Config.Name, "err", err)
		}
	}
	if err := c.makePredefined(records); err != nil {
		return err
	}
	for id, l := range leases {
		if err := c.adoptLease(id, l); err != nil {
			c.log.Error("lease not restored", "container", l.Name, "err", err)
		}
	}
	return nil
}

func (c *Controller) readNetworks() (map[string]networkRecord, error) {
	all := make(map[string]networkRecord)
	err := c.cfg.Store.Each(store.Networks, func(id string, raw []byte) error {
		var r networkRecord
		if err := json.Unmarshal(raw, &r); err != nil || r.Config.Name == "" || r.Config.EnableIPv4 == nil || r.Config.EnableIPv6 == nil {
			c.log.Error("network not restored: its record cannot be read", "id", id, "err", err)
			return nil
		}
		all[id] = r
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the networks: %w", err)
	}
	return all, nil
}

// readLeases returns the leases of living sandboxes and deletes the others.
func (c *Controller) readLeases() (map[string]lease, error) {
	live := make(map[string]lease)
	var dead []string
	err := c.cfg.Store.Each(store.Endpoints, func(id string, raw []byte) error {
		var l lease
		if err := json.Unmarshal(raw, &l); err == nil && c.cfg.Alive(l.Sandbox) {
			live[id] = l
		} else {
			dead = append(dead, id)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the leases: %w", err)
	}
	for _, id := range dead {
		if err := c.cfg.Store.Delete(store.Endpoints, id); err != nil {
			return nil, fmt.Errorf("delete the lease of a sandbox that is gone: %w", err)
		}
	}
	return live, nil
}

// remake makes a Network as it was.
func (c *Controller) remake(id string, r networkRecord) (err error) {
	n := c.newNetwork(id, r.Config)
	n.created = r.Created
	var undo undo
	defer undo.unless(&err)
	if err := c.claimRestored(n); err != nil {
		return err
	}
	undo.add(func() { c.release(n) })
	if err := c.assemble(c.ctx, n, r.Subnets, &undo); err != nil {
		return err
	}
	n.state = active
	return nil
}

// claimRestored is claimName for one that was there before, whatever became of its configuration network.
func (c *Controller) claimRestored(n *network) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.names[n.conf.Name] != nil {
		return fault.New(fault.Conflict, "network with name %s already exists", n.conf.Name)
	}
	c.networks[n.id], c.names[n.conf.Name] = n, n
	return nil
}

// makePredefined makes bridge, host and none where they are missing, with the ids they had.
func (c *Controller) makePredefined(records map[string]networkRecord) error {
	for _, conf := range []NetworkConfig{c.defaultBridge(), {Name: "host", Driver: "host"}, {Name: "none", Driver: "null"}} {
		if c.names[conf.Name] != nil {
			continue
		}
		id, created := newID(), c.cfg.Now()
		var had []Subnet
		for i, r := range records {
			if r.Config.Name == conf.Name {
				id, created, had = i, r.Created, r.Subnets
			}
		}
		conf, err := c.complete(conf)
		if err != nil {
			return fmt.Errorf("make network %s: %w", conf.Name, err)
		}
		if err = c.makeLike(id, created, conf, had); err != nil {
			return fmt.Errorf("make network %s: %w", conf.Name, err)
		}
	}
	return nil
}

// makeLike makes a Network, in the subnets it had if the settings name none and they can be had.
func (c *Controller) makeLike(id string, created time.Time, conf NetworkConfig, had []Subnet) error {
	try := func(subnets []Subnet) error {
		n := c.newNetwork(id, conf)
		n.created, n.conf.IPAM.Subnets = created, subnets
		return c.make(c.ctx, n)
	}
	if len(conf.IPAM.Subnets) == 0 && len(had) > 0 && try(had) == nil {
		return nil
	}
	return try(conf.IPAM.Subnets)
}

// defaultBridge is the configuration that the daemon's settings make of the Network called bridge.
func (c *Controller) defaultBridge() NetworkConfig {
	b := c.cfg.Bridge
	mtu := b.MTU
	if mtu == 0 {
		mtu = 1500
	}
	host := "0.0.0.0"
	if c.cfg.HostIP.IsValid() {
		host = c.cfg.HostIP.String()
	}
	ipv6 := b.IPv6
	conf := NetworkConfig{Name: "bridge", Driver: "bridge", EnableIPv6: &ipv6, Options: map[string]string{
		"com.docker.network.bridge.default_bridge":       "true",
		"com.docker.network.bridge.enable_icc":           strconv.FormatBool(b.ICC == nil || *b.ICC),
		"com.docker.network.bridge.enable_ip_masquerade": strconv.FormatBool(b.Masquerade == nil || *b.Masquerade),
		"com.docker.network.bridge.host_binding_ipv4":    host,
		"com.docker.network.bridge.name":                 "docker0",
		"com.docker.network.driver.mtu":                  strconv.Itoa(mtu),
	}}
	conf.IPAM.Subnets = slices.Concat(bridgeSubnet(b.BIP, b.FixedCIDR, b.Gateway4, "DefaultGatewayIPv4"))
	if ipv6 {
		conf.IPAM.Subnets = append(conf.IPAM.Subnets, bridgeSubnet(b.BIP6, b.FixedCIDR6, b.Gateway6, "DefaultGatewayIPv6")...)
	}
	return conf
}

// bridgeSubnet is what bip, fixed-cidr and default-gateway say of one family.
func bridgeSubnet(bip, fixed netip.Prefix, gateway netip.Addr, key string) []Subnet {
	var s Subnet
	switch {
	case bip.IsValid():
		s = Subnet{Prefix: bip.Masked(), Gateway: bip.Addr(), Range: fixed}
	case fixed.IsValid():
		s = Subnet{Prefix: fixed.Masked()}
	default:
		return nil
	}
	if gateway.IsValid() && gateway != s.Gateway {
		s.Aux = map[string]netip.Addr{key: gateway}
	}
	return []Subnet{s}
}

// adoptLease makes an orphan of a lease, or deletes it when it cannot be one.
func (c *Controller) adoptLease(id string, l lease) (err error) {
	ep := &endpoint{id: id, name: l.Name, owner: l.Sandbox, conf: l.Config, link: l.Link, state: orphaned}
	n := c.networks[l.Network]
	if n == nil || !n.plumbed {
		return errors.Join(fault.New(fault.NotFound, "network %s not found", l.Network), c.cfg.Store.Delete(store.Endpoints, id))
	}
	ep.net = n
	if ep.links, err = parseLinks(l.Config.Links); err != nil {
		return err
	}
	var undo undo
	defer undo.unless(&err)
	if err := c.reclaim(ep, &undo); err != nil {
		return errors.Join(err, c.cfg.Store.Delete(store.Endpoints, id))
	}
	n.endpoints[id] = ep
	return nil
}

// reclaim takes just the addresses that an Endpoint had.
func (c *Controller) reclaim(ep *endpoint, undo *undo) error {
	n := ep.net
	for _, p := range []netip.Prefix{ep.link.Addr4, ep.link.Addr6} {
		if !p.IsValid() {
			continue
		}
		if _, err := n.takeAddress(p.Addr().Is6(), p.Addr()); err != nil {
			return err
		}
		undo.add(func() { n.freeAddress(p.Addr()) })
	}
	_, err := n.drv.CreateEndpoint(c.ctx, n.id, ep.forDriver(ep.link.MAC, ep.link.Addr4, ep.link.Addr6))
	if err == nil {
		undo.add(func() { c.unmakeLeg(ep) })
	}
	return err
}
