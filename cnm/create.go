package cnm

import (
	"context"
	"fmt"
	"maps"
	"strconv"

	"github.com/usernet/usernet/cnm/driver"
	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/cnm/ipam"
)

// How a Network comes to be, in Docker's order (LC2): what was asked is checked; the name is taken; each subnet is
// taken, then its gateway, then the auxiliary addresses; the driver makes the Network; its prefixes are
// reserved in the datapath; it is written to the store. Only then can it be found. A failure anywhere
// takes everything back in reverse.

// Create makes a Network and returns its id and a warning.
func (c *Controller) Create(ctx context.Context, conf NetworkConfig) (id, warning string, err error) {
	// The last two are no networks, but words that stand for one where a sandbox names its own: nobody could join theirs.
	if predefined(conf.Name) || conf.Name == "default" || conf.Name == "private" {
		return "", "", fault.New(fault.Forbidden, "operation is not permitted on predefined %s network ", conf.Name)
	}
	if conf, err = c.complete(conf); err != nil {
		return "", "", err
	}
	n := c.newNetwork(newID(), conf)
	n.created = c.cfg.Now()
	if err := c.make(ctx, n); err != nil {
		return "", "", err
	}
	c.log.Info("network created", "network", n.conf.Name, "driver", n.conf.Driver, "subnets", fmt.Sprint(prefixes(n.subnets)))
	c.tellNetwork("create", n, "")
	return n.id, n.seg.Warning, nil
}

// newNetwork is a Network nobody knows of yet.
func (c *Controller) newNetwork(id string, conf NetworkConfig) *network {
	return &network{id: id, conf: conf, endpoints: make(map[string]*endpoint), claims: make(map[string]bool)}
}

// complete checks a request and fills in what it leaves out.
func (c *Controller) complete(conf NetworkConfig) (NetworkConfig, error) {
	conf.Options, conf.Labels = maps.Clone(conf.Options), maps.Clone(conf.Labels)
	err := checkNetworkName(conf.Name)
	if err != nil {
		return conf, err
	}
	if conf.ConfigFrom != "" {
		if conf, err = c.inherit(conf); err != nil {
			return conf, err
		}
	}
	if conf.ConfigOnly {
		return conf, completeConfigOnly(&conf)
	}
	if conf.Driver == "" || conf.Driver == "default" {
		conf.Driver = "bridge"
	}
	if err := c.checkScope(&conf); err != nil {
		return conf, err
	}
	for k, v := range c.cfg.NetworkOptions[conf.Driver] {
		if _, ok := conf.Options[k]; !ok {
			if conf.Options == nil {
				conf.Options = make(map[string]string)
			}
			conf.Options[k] = v
		}
	}
	if err := completeFamilies(&conf); err != nil {
		return conf, err
	}
	if conf.IPAM.Driver == "" {
		conf.IPAM.Driver = "default"
	}
	return conf, nil
}

// completeFamilies decides which families are on: by flag, else by option, else IPv4 alone.
func completeFamilies(conf *NetworkConfig) error {
	for _, f := range []struct {
		flag   **bool
		option string
		or     bool
	}{{&conf.EnableIPv4, driver.OptIPv4, true}, {&conf.EnableIPv6, driver.OptIPv6, false}} {
		if *f.flag != nil {
			continue
		}
		on := f.or
		if v, ok := conf.Options[f.option]; ok {
			var err error
			if on, err = strconv.ParseBool(v); err != nil {
				return driver.BadOption(f.option, v, err)
			}
		}
		*f.flag = &on
	}
	if !*conf.EnableIPv4 && !*conf.EnableIPv6 {
		return fault.New(fault.Invalid, "IPv4 or IPv6 must be enabled")
	}
	var asked []ipam.Settings
	for _, s := range conf.IPAM.Subnets {
		asked = append(asked, ipam.Settings{Prefix: s.Prefix, Range: s.Range, Gateway: s.Gateway, Aux: s.Aux})
	}
	return ipam.Validate(asked, *conf.EnableIPv4, *conf.EnableIPv6)
}

// checkScope refuses what a node that is no swarm's cannot have.
func (c *Controller) checkScope(conf *NetworkConfig) error {
	_, unknown := c.cfg.Drivers.Get(conf.Driver)
	switch {
	case conf.Driver == "overlay" && unknown != nil:
		return fault.New(fault.Forbidden, `This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`)
	case conf.Scope == ScopeSwarm:
		return fault.New(fault.Forbidden, "cannot create a swarm scoped network when swarm is not active")
	case conf.Scope != "" && conf.Scope != ScopeLocal && conf.Scope != ScopeGlobal:
		return fault.New(fault.Invalid, "invalid scope %q: want local, swarm or global", conf.Scope)
	case unknown != nil:
		return unknown
	case conf.Ingress && conf.Scope != ScopeGlobal:
		return fault.New(fault.Forbidden, "Ingress network can only be global scope network")
	}
	d, _ := c.cfg.Drivers.Get(conf.Driver)
	has := Scope(d.Capability().Data)
	switch {
	case conf.Scope == "":
		conf.Scope = has
	case conf.Scope == ScopeLocal && has == ScopeGlobal:
		return fault.New(fault.Forbidden, "cannot downgrade network scope for %s networks", conf.Driver)
	case conf.Scope != has:
		return fault.New(fault.Forbidden, "cannot create a %s scope network with driver %s: its networks are %s", conf.Scope, conf.Driver, has)
	}
	return nil
}

// completeConfigOnly checks a Network that only holds settings for others.
func completeConfigOnly(conf *NetworkConfig) error {
	if conf.Ingress || conf.Internal || conf.Attachable || conf.Scope != "" {
		return fault.New(fault.Forbidden, "configuration network can only contain network specific fields. "+
			"Network operator fields like [ ingress | internal | attachable | scope ] are not supported.")
	}
	conf.Driver, conf.Scope = "null", ScopeLocal
	if conf.IPAM.Driver == "" {
		conf.IPAM.Driver = "default"
	}
	return completeFamilies(conf)
}

// inherit takes over the settings of a configuration network.
func (c *Controller) inherit(conf NetworkConfig) (NetworkConfig, error) {
	own := conf.IPAM
	switch {
	case conf.ConfigOnly:
		return conf, fault.New(fault.Forbidden, "a configuration network cannot depend on another configuration network")
	case own.Driver != "" && own.Driver != "default", conf.EnableIPv6 != nil && *conf.EnableIPv6, len(conf.Labels) > 0,
		len(own.Options) > 0, len(own.Subnets) > 0:
		return conf, fault.New(fault.Forbidden, "user-specified configurations are not supported if the network depends on a configuration network")
	case len(conf.Options) > 0:
		return conf, fault.New(fault.Forbidden, "network driver options are not supported if the network depends on a configuration network")
	}
	from, err := c.find(conf.ConfigFrom)
	if err != nil || !from.conf.ConfigOnly {
		return conf, fault.New(fault.NotFound, "configuration network %q does not exist", conf.ConfigFrom)
	}
	conf.ConfigFrom = from.conf.Name
	conf.EnableIPv4, conf.EnableIPv6 = from.conf.EnableIPv4, from.conf.EnableIPv6
	conf.IPAM = from.conf.IPAM
	conf.Options, conf.Labels = maps.Clone(from.conf.Options), maps.Clone(from.conf.Labels)
	return conf, nil
}

// make carries out what the head of this file says.
func (c *Controller) make(ctx context.Context, n *network) (err error) {
	var undo undo
	defer undo.unless(&err)
	if err := c.claimName(n); err != nil {
		return err
	}
	undo.add(func() { c.release(n) })
	if err := c.assemble(ctx, n, n.conf.IPAM.Subnets, &undo); err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("create network %s: %w", n.conf.Name, err)
	}
	if err := c.step("store"); err != nil {
		return err
	}
	if err := c.writeNetwork(n); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n.state = active
	return nil
}

// claimName takes the name, so that of two requests for one name the second is refused.
func (c *Controller) claimName(n *network) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.names[n.conf.Name] != nil {
		return fault.New(fault.Conflict, "network with name %s already exists", n.conf.Name)
	}
	if from := c.names[n.conf.ConfigFrom]; n.conf.ConfigFrom != "" && (from == nil || from.state != active) {
		return fault.New(fault.NotFound, "configuration network %q does not exist", n.conf.ConfigFrom)
	}
	c.networks[n.id], c.names[n.conf.Name] = n, n
	return nil
}

// release makes the name free again.
func (c *Controller) release(n *network) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.networks, n.id)
	delete(c.names, n.conf.Name)
}

// assemble takes the subnets, has the driver make the Network and reserves its prefixes.
func (c *Controller) assemble(ctx context.Context, n *network, want []Subnet, undo *undo) error {
	if n.conf.ConfigOnly {
		return nil
	}
	d, err := c.cfg.Drivers.Get(n.conf.Driver)
	if err != nil {
		return err
	}
	n.drv = d
	if err := c.takeSubnets(n, want, undo); err != nil {
		return err
	}
	if err := c.step("driver"); err != nil {
		return err
	}
	if n.seg, err = d.CreateNetwork(ctx, c.forDriver(n)); err != nil {
		return err
	}
	undo.add(func() { c.dropFromDriver(n) })
	if n.seg.Network == nil {
		return nil
	}
	n.spec, n.plumbed, n.names = *n.seg.Network, true, !n.seg.Network.NoNames
	if !n.seg.Bind.IsValid() {
		n.seg.Bind = c.cfg.HostIP
	}
	if err := c.step("reserve"); err != nil {
		return err
	}
	ps := prefixes(n.subnets)
	if err := c.cfg.Datapath.Reserve(ps...); err != nil {
		return fmt.Errorf("reserve the subnets of network %s: %w", n.conf.Name, err)
	}
	undo.add(func() { c.unreserve(n) })
	return nil
}

// forDriver is what the driver is told.
func (c *Controller) forDriver(n *network) driver.Network {
	d := driver.Network{
		ID: n.id, Name: n.conf.Name, IPv4: *n.conf.EnableIPv4, IPv6: *n.conf.EnableIPv6,
		Internal: n.conf.Internal, Options: n.conf.Options, DerivedMAC: c.cfg.Profile == Profile2010,
	}
	for _, s := range n.subnets {
		d.Subnets = append(d.Subnets, driver.Subnet{Prefix: s.Prefix, Gateway: s.Gateway, Aux: s.Aux})
	}
	return d
}

func (c *Controller) dropFromDriver(n *network) {
	if err := n.drv.DeleteNetwork(c.ctx, n.id); err != nil {
		c.log.Warn("driver keeps a network", "network", n.conf.Name, "err", err)
	}
}

func (c *Controller) unreserve(n *network) {
	if err := c.cfg.Datapath.Release(prefixes(n.subnets)...); err != nil {
		c.log.Warn("subnets stay reserved", "network", n.conf.Name, "err", err)
	}
}
