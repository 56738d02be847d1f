package engine

import (
	"context"
	"net/netip"

	"github.com/moby/moby/api/types/network"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/cnm/fault"
)

// Networks implements api.Backend.
func (e *Engine) Networks(context.Context) ([]network.Inspect, error) {
	infos := e.c.Networks()
	list := make([]network.Inspect, len(infos))
	for i, n := range infos {
		list[i] = inspected(n)
	}
	return list, nil
}

// Network implements api.Backend.
func (e *Engine) Network(ctx context.Context, ref string) (network.Inspect, error) {
	n, err := e.c.Network(ref)
	if err != nil {
		return network.Inspect{}, err
	}
	i := inspected(n)
	return i, e.addUnmanaged(ctx, i)
}

// addUnmanaged puts the containers into the Networks none and host, which the Controller has no Endpoints in.
func (e *Engine) addUnmanaged(ctx context.Context, n network.Inspect) error {
	if n.Name != network.NetworkNone && n.Name != network.NetworkHost {
		return nil
	}
	entries, err := e.reg.List(ctx)
	if err != nil {
		return err
	}
	for _, s := range entries {
		if s.Mode == n.Name {
			n.Containers[s.ID] = network.EndpointResource{Name: s.Name, EndpointID: derivedID(s.ID, n.ID)}
		}
	}
	return nil
}

// inspected is a Network as it is shown. Its map of Containers is never nil.
func inspected(n cnm.NetworkInfo) network.Inspect {
	i := network.Inspect{
		Network: network.Network{
			Name: n.Name, ID: n.ID, Created: n.Created, Scope: string(n.Scope), Driver: n.Driver,
			EnableIPv4: n.EnableIPv4 == nil || *n.EnableIPv4, EnableIPv6: n.EnableIPv6 != nil && *n.EnableIPv6,
			IPAM:     network.IPAM{Driver: n.IPAM.Driver, Options: n.IPAM.Options},
			Internal: n.Internal, Attachable: n.Attachable, Ingress: n.Ingress,
			ConfigFrom: network.ConfigReference{Network: n.ConfigFrom}, ConfigOnly: n.ConfigOnly,
			Options: orEmpty(n.Options), Labels: orEmpty(n.Labels),
		},
		Containers: make(map[string]network.EndpointResource, len(n.Endpoints)),
	}
	if len(n.Subnets) > 0 && n.Name != network.NetworkBridge {
		i.IPAM.Options = orEmpty(i.IPAM.Options) // the predefined ones have null
	}
	if i.Scope == "" {
		i.Scope = string(cnm.ScopeLocal)
	}
	if i.IPAM.Driver == "" {
		i.IPAM.Driver = network.NetworkDefault
	}
	for _, s := range n.Subnets {
		i.IPAM.Config = append(i.IPAM.Config, network.IPAMConfig{Subnet: s.Prefix, IPRange: s.Range, Gateway: s.Gateway, AuxAddress: s.Aux})
	}
	for _, ep := range n.Endpoints {
		key := ep.SandboxID
		if key == "" {
			key = "ep-" + ep.ID
		}
		i.Containers[key] = network.EndpointResource{
			Name: ep.SandboxName, EndpointID: ep.ID, MacAddress: hardware(ep.MAC), IPv4Address: ep.Addr4, IPv6Address: ep.Addr6,
		}
	}
	if len(n.InUse) > 0 {
		subnets := make(map[netip.Prefix]network.SubnetStatus, len(n.InUse))
		for p, used := range n.InUse {
			subnets[p] = network.SubnetStatus{IPsInUse: used, DynamicIPsAvailable: n.Free[p]}
		}
		i.Status = &network.Status{IPAM: network.IPAMStatus{Subnets: subnets}}
	}
	return i
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// NetworkCreate implements api.Backend.
func (e *Engine) NetworkCreate(ctx context.Context, r network.CreateRequest) (network.CreateResponse, error) {
	n := cnm.NetworkConfig{
		Name: r.Name, Driver: r.Driver, Scope: cnm.Scope(r.Scope), EnableIPv4: r.EnableIPv4, EnableIPv6: r.EnableIPv6,
		Internal: r.Internal, Attachable: r.Attachable, Ingress: r.Ingress, ConfigOnly: r.ConfigOnly,
		Options: r.Options, Labels: r.Labels,
	}
	if r.ConfigFrom != nil {
		n.ConfigFrom = r.ConfigFrom.Network
	}
	if r.IPAM != nil {
		n.IPAM = cnm.IPAMConfig{Driver: r.IPAM.Driver, Options: r.IPAM.Options}
		for _, c := range r.IPAM.Config {
			if c.Gateway.Zone() != "" {
				return network.CreateResponse{}, fault.New(fault.Invalid, "invalid network config:\ninvalid gateway %s: an address with a zone", c.Gateway)
			}
			for name, a := range c.AuxAddress {
				if a.Zone() != "" {
					return network.CreateResponse{}, fault.New(fault.Invalid, "invalid network config:\ninvalid auxiliary address %s: an address with a zone", name)
				}
			}
			n.IPAM.Subnets = append(n.IPAM.Subnets, cnm.Subnet{Prefix: c.Subnet, Range: c.IPRange, Gateway: c.Gateway, Aux: c.AuxAddress})
		}
	}
	id, warning, err := e.c.Create(ctx, n)
	return network.CreateResponse{ID: id, Warning: warning}, err
}

// NetworkRemove implements api.Backend. The Networks none and host are never removed, so their containers
// need not be asked for.
func (e *Engine) NetworkRemove(ctx context.Context, ref string) error { return e.c.Remove(ctx, ref) }

// NetworkPrune implements api.Backend.
func (e *Engine) NetworkPrune(ctx context.Context, match func(network.Inspect) bool) ([]string, error) {
	return e.c.Prune(ctx, func(n cnm.NetworkInfo) bool { return match(inspected(n)) })
}
