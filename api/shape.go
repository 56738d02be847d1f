package api

import (
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
)

// Here the newest answers become those of the version that the client speaks. A field of an outer
// struct hides the one of the same name in what it embeds; that is how fields are replaced and, when nil, left out.

// network is a Network as it is inspected.
func (v Version) network(n network.Inspect) any {
	if n.Containers == nil {
		n.Containers = map[string]network.EndpointResource{}
	}
	if v >= versionTrimmed {
		return n
	}
	n.Status = nil
	if v >= versionEnableIPv4 {
		return n
	}
	return struct {
		network.Inspect
		EnableIPv4 *bool `json:",omitempty"`
	}{Inspect: n}
}

// listedNetwork is a Network as one of many.
func (v Version) listedNetwork(n network.Inspect) any {
	switch {
	case v >= versionTrimmed:
		return network.Summary{Network: n.Network}
	case v >= versionListBrief:
		n.Containers, n.Services = nil, nil
	}
	return v.network(n)
}

// addressWithPrefix is an element of lists that are always empty.
type addressWithPrefix struct {
	Addr      string
	PrefixLen int
}

// defaultBridge are the settings that described the only network there was before there were several.
type defaultBridge struct {
	Bridge                 string
	HairpinMode            bool
	LinkLocalIPv6Address   string
	LinkLocalIPv6PrefixLen int
	SecondaryIPAddresses   []addressWithPrefix
	SecondaryIPv6Addresses []addressWithPrefix
	EndpointID             string
	Gateway                netip.Addr
	GlobalIPv6Address      netip.Addr
	GlobalIPv6PrefixLen    int
	IPAddress              netip.Addr
	IPPrefixLen            int
	IPv6Gateway            netip.Addr
	MacAddress             network.HardwareAddr
}

type fullSettings struct {
	container.NetworkSettings
	defaultBridge
}

// container is a container as it is inspected. It changes the aliases in c.
func (v Version) container(c container.InspectResponse) any {
	if c.NetworkSettings == nil {
		return c
	}
	v.aliases(c.ID, c.NetworkSettings.Networks)
	if v >= versionTrimmed {
		return c
	}
	full := fullSettings{NetworkSettings: *c.NetworkSettings}
	if e := c.NetworkSettings.Networks[network.NetworkBridge]; e != nil {
		full.defaultBridge = defaultBridge{
			EndpointID: e.EndpointID, Gateway: e.Gateway, IPAddress: e.IPAddress, IPPrefixLen: e.IPPrefixLen,
			IPv6Gateway: e.IPv6Gateway, GlobalIPv6Address: e.GlobalIPv6Address, GlobalIPv6PrefixLen: e.GlobalIPv6PrefixLen,
			MacAddress: e.MacAddress,
		}
	}
	return struct {
		container.InspectResponse
		NetworkSettings fullSettings
	}{c, full}
}

// aliases adds the short id to those of user-defined networks, where old clients look for it.
func (v Version) aliases(id string, networks map[string]*network.EndpointSettings) {
	if v >= versionAliases || len(id) < shortID {
		return
	}
	for name, e := range networks {
		if e != nil && !predefined(name) && !slices.Contains(e.Aliases, id[:shortID]) {
			e.Aliases = append(slices.Clone(e.Aliases), id[:shortID])
		}
	}
}

// shortID is the length of an id that people are shown.
const shortID = 12

// listedContainer is a container as one of many.
func (v Version) listedContainer(c container.Summary) any {
	if c.NetworkSettings != nil {
		v.aliases(c.ID, c.NetworkSettings.Networks)
	}
	return c
}

// event is an event with what it was before there was an Actor.
func (v Version) event(m events.Message) any {
	if v >= versionTrimmed || m.Type != events.ContainerEventType {
		return m
	}
	return struct {
		Status string `json:"status,omitempty"`
		ID     string `json:"id,omitempty"`
		From   string `json:"from,omitempty"`
		events.Message
	}{string(m.Action), m.Actor.ID, m.Actor.Attributes["image"], m}
}
