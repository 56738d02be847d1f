package cnm

import (
	"errors"
	"net/netip"

	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/cnm/ipam"
)

// The subnets of a Network and the addresses in them, as the address driver gives them out.

// takeSubnets takes those that are wanted, and one of each family that is on and has none.
func (c *Controller) takeSubnets(n *network, want []Subnet, undo *undo) error {
	if err := c.step("subnets"); err != nil {
		return err
	}
	name := n.conf.IPAM.Driver
	if n.conf.Driver == "null" || n.conf.Driver == "host" {
		name = "null"
	}
	d, err := c.cfg.IPAM.Get(name)
	if err != nil {
		return err
	}
	n.ipam = d
	gw4, gw6, err := n.drv.Gateways(c.forDriver(n))
	if err != nil {
		return err
	}
	for _, f := range []struct{ on, v6, gateway bool }{{*n.conf.EnableIPv4, false, gw4}, {*n.conf.EnableIPv6, true, gw6}} {
		if !f.on {
			continue
		}
		asked := ofFamily(want, f.v6)
		if len(asked) == 0 {
			asked = []Subnet{{}}
		}
		for _, s := range asked {
			if err := n.takeSubnet(s, f.v6, f.gateway, undo); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeSubnet takes one with its gateway and its auxiliary addresses.
func (n *network) takeSubnet(s Subnet, v6, gateway bool, undo *undo) error {
	got, err := ipam.RequestSubnet(n.ipam, ipam.SubnetRequest{
		PoolRequest: ipam.PoolRequest{Prefix: s.Prefix, Range: s.Range, V6: v6},
		Gateway:     s.Gateway, NoGateway: !gateway, Aux: s.Aux,
	})
	if err != nil {
		return err
	}
	undo.add(func() { n.ipam.ReleasePool(got.ID) })
	if got.Prefix.Bits() == 0 {
		return nil // the null driver's
	}
	n.subnets = append(n.subnets, Subnet{Prefix: got.Prefix, Range: got.Range, Gateway: got.Gateway, Aux: got.Aux})
	n.pools = append(n.pools, got.ID)
	return nil
}

// ofFamily are the subnets of one family.
func ofFamily(all []Subnet, v6 bool) (of []Subnet) {
	for _, s := range all {
		if s.Prefix.IsValid() && s.Prefix.Addr().Is6() == v6 || !s.Prefix.IsValid() && !v6 {
			of = append(of, s)
		}
	}
	return of
}

func prefixes(subnets []Subnet) []netip.Prefix {
	ps := make([]netip.Prefix, len(subnets))
	for i, s := range subnets {
		ps[i] = s.Prefix
	}
	return ps
}

// releaseSubnets gives them back.
func (c *Controller) releaseSubnets(n *network) {
	for _, id := range n.pools {
		if err := n.ipam.ReleasePool(id); err != nil {
			c.log.Warn("subnet not released", "network", n.conf.Name, "pool", id, "err", err)
		}
	}
}

// takeAddress takes the wanted address, or the first free one of the family's subnets. The result is not
// valid when the Network has no subnet of the family.
func (n *network) takeAddress(v6 bool, want netip.Addr) (netip.Prefix, error) {
	var err error
	for i, s := range n.subnets {
		if s.Prefix.Addr().Is6() != v6 || want.IsValid() && !s.Prefix.Contains(want) {
			continue
		}
		var p netip.Prefix
		if p, err = n.ipam.RequestAddress(n.pools[i], want); err == nil || !errors.Is(err, ipam.ErrNoAddresses) {
			return p, err
		}
	}
	if err == nil && want.IsValid() {
		err = fault.New(fault.Invalid, "no configured subnet contains IP address %s", want)
	}
	return netip.Prefix{}, err
}

// freeAddress makes one free. It takes no lock but the address driver's.
func (n *network) freeAddress(a netip.Addr) {
	for i, s := range n.subnets {
		if s.Prefix.Contains(a) {
			n.ipam.ReleaseAddress(n.pools[i], a) // it was taken, so there is nothing to fail
		}
	}
}

// usage counts addresses by subnet.
func (n *network) usage(info *NetworkInfo) {
	info.InUse, info.Free = make(map[netip.Prefix]uint64), make(map[netip.Prefix]uint64)
	for i, s := range n.subnets {
		if u, err := n.ipam.Usage(n.pools[i]); err == nil {
			info.InUse[s.Prefix], info.Free[s.Prefix] = u.InUse, u.Free
		}
	}
}
