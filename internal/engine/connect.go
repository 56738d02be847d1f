package engine

import (
	"context"
	"net/netip"

	"github.com/moby/moby/api/types/network"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/stack/l2"
)

// NetworkConnect implements api.Backend.
func (e *Engine) NetworkConnect(ctx context.Context, ref string, r network.ConnectRequest) error {
	n, err := e.c.Network(ref)
	if err != nil {
		return err
	}
	c, err := e.find(ctx, r.Container)
	if err != nil {
		return err
	}
	if err := connectable(n.Name, c); err != nil {
		return err
	}
	cfg := cnm.EndpointConfig{}
	if r.EndpointConfig != nil {
		if cfg, err = endpointConfig(*r.EndpointConfig); err != nil {
			return err
		}
	}
	cfg.Network = n.ID
	return e.c.Connect(ctx, c.ID, cfg)
}

// connectable refuses what the mode of a container or of a Network does not allow, in Docker's words.
func connectable(networkName string, c found) error {
	switch mode := c.mode(); {
	case mode == network.NetworkHost || isContainerMode(mode):
		return fault.New(fault.Invalid, "container sharing network namespace with another container or host cannot be connected to any other network")
	case networkName == network.NetworkHost:
		return fault.New(fault.Invalid, "cannot connect container to host network - container must be created in host network mode")
	case mode == network.NetworkNone || networkName == network.NetworkNone:
		return fault.New(fault.Invalid, "container cannot be connected to multiple networks with one of the networks in private (none) mode")
	case c.joined == nil && mode == privateMode:
		return fault.New(fault.Invalid, "container %s has a private network, which no other can be added to; start it with --network NAME", c.Name)
	case c.joined == nil:
		return notYet(c)
	}
	return nil
}

// notYet is said of a container whose shim has not found this daemon since the last one ended.
func notYet(c found) error {
	return fault.New(fault.Unavailable, "container %s is not connected to this daemon yet; try again", c.Name)
}

// NetworkDisconnect implements api.Backend. With Force the container need not exist: the Endpoint goes by its name.
func (e *Engine) NetworkDisconnect(ctx context.Context, ref string, r network.DisconnectRequest) error {
	n, err := e.c.Network(ref)
	if err != nil {
		return err
	}
	c, err := e.find(ctx, r.Container)
	switch {
	case err != nil && r.Force && fault.KindOf(err) == fault.NotFound:
		return e.c.Disconnect(ctx, n.ID, r.Container, true)
	case err != nil:
		return err
	case n.Name == network.NetworkHost && c.mode() == network.NetworkHost:
		return fault.New(fault.Invalid, "cannot disconnect container from host network - container was created in host network mode")
	case n.Name == network.NetworkNone && c.mode() == network.NetworkNone:
		return fault.New(fault.Invalid, "cannot disconnect container from none network - container was created without a network")
	case c.joined == nil && !c.entry.Joined():
		return fault.New(fault.Internal, "container %s is not connected to network %s", c.ID, n.Name)
	case c.joined == nil && !r.Force:
		return notYet(c)
	case c.joined == nil:
		return e.c.Disconnect(ctx, n.ID, c.Name, true)
	}
	return e.c.Disconnect(ctx, n.ID, c.ID, r.Force)
}

// endpointConfig reads what a client asks of an Endpoint; what an Endpoint was given is not for the client to say.
func endpointConfig(s network.EndpointSettings) (cnm.EndpointConfig, error) {
	e := cnm.EndpointConfig{Aliases: s.Aliases, Links: s.Links, DriverOpts: s.DriverOpts, GwPriority: s.GwPriority}
	if len(s.MacAddress) > 0 {
		if len(s.MacAddress) != len(e.MAC) {
			return e, fault.New(fault.Invalid, "invalid endpoint settings:\ninvalid MAC address: %s", s.MacAddress)
		}
		e.MAC = l2.MAC(s.MacAddress)
	}
	if s.IPAMConfig == nil {
		return e, nil
	}
	e.IPv4, e.IPv6, e.LinkLocal = s.IPAMConfig.IPv4Address, s.IPAMConfig.IPv6Address, s.IPAMConfig.LinkLocalIPs
	for _, a := range append([]netip.Addr{e.IPv4, e.IPv6}, e.LinkLocal...) {
		if a.Zone() != "" {
			return e, fault.New(fault.Invalid, "invalid endpoint settings:\ninvalid IPv6 address: %s", a)
		}
	}
	return e, nil
}

// endpointSettings is an Endpoint as it is shown on its container.
func endpointSettings(ep cnm.EndpointInfo) *network.EndpointSettings {
	s := &network.EndpointSettings{
		Links: ep.Config.Links, Aliases: ep.Config.Aliases, DriverOpts: ep.Config.DriverOpts, GwPriority: ep.Config.GwPriority,
		NetworkID: ep.NetworkID, EndpointID: ep.ID, MacAddress: hardware(ep.MAC), Gateway: ep.Gateway4, IPv6Gateway: ep.Gateway6,
		DNSNames: ep.Names,
	}
	if c := ep.Config; c.IPv4.IsValid() || c.IPv6.IsValid() || len(c.LinkLocal) > 0 {
		s.IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: c.IPv4, IPv6Address: c.IPv6, LinkLocalIPs: c.LinkLocal}
	}
	if ep.Addr4.IsValid() {
		s.IPAddress, s.IPPrefixLen = ep.Addr4.Addr(), ep.Addr4.Bits()
	}
	if ep.Addr6.IsValid() {
		s.GlobalIPv6Address, s.GlobalIPv6PrefixLen = ep.Addr6.Addr(), ep.Addr6.Bits()
	}
	return s
}

// hardware is a MAC address as the API has it, nothing for the zero one.
func hardware(m l2.MAC) network.HardwareAddr {
	if m == (l2.MAC{}) {
		return nil
	}
	return m[:]
}
