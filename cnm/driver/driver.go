// Package driver is the seam between the Controller, which owns names and addresses, and the drivers, which
// decide what a Network is made of.
//
// # Theory of operation
//
// The calls and their order are those of Docker's driverapi, so that a driver that stands in another process
// can be called the same way:
//
//	Register → Gateways → CreateNetwork → CreateEndpoint → Join … Leave → DeleteEndpoint → DeleteNetwork
//
// A driver moves no packets and opens no device. It answers with inert structs: a Segment says what the datapath
// makes of a Network, a Leg what a sandbox's namespaces get of an Endpoint. The Controller adds what it alone
// knows (names, resolvers, the index of the interface) and hands both on. So a driver is a function of
// options and addresses, tested as a table, and the Controller needs no case for any of them.
//
// A driver remembers its Networks and Endpoints in memory only. After a restart the Controller, which stores them,
// creates them again with the same ids and addresses.
//
// # Concurrency
//
// A driver may be called by many at a time. A call does not call back.
package driver

import (
	"context"
	"net/netip"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// Driver makes Networks of one type. An error leaves nothing behind.
type Driver interface {
	// Type is the name it is registered by.
	Type() string
	Capability() Capability
	// Gateways says which families of a Network with these options want a gateway address out of the Pool where
	// the user names none. It is asked before the Pool is.
	Gateways(n Network) (v4, v6 bool, err error)
	CreateNetwork(ctx context.Context, n Network) (Segment, error)
	DeleteNetwork(ctx context.Context, id string) error
	// CreateEndpoint completes an Endpoint with what the caller left to the driver.
	CreateEndpoint(ctx context.Context, networkID string, e Endpoint) (Endpoint, error)
	DeleteEndpoint(ctx context.Context, networkID, endpointID string) error
	// Join puts an Endpoint into a sandbox; an Endpoint is in one at most.
	Join(ctx context.Context, networkID, endpointID, sandboxID string) (Leg, error)
	Leave(ctx context.Context, networkID, endpointID string) error
}

// Scope says how far something reaches, in Docker's words.
type Scope string

// The scopes.
const (
	Local  Scope = "local"
	Global Scope = "global"
)

// Capability is what a driver says of itself when it registers.
type Capability struct {
	// Data is how far its Networks are known, Connectivity how far their containers reach each other.
	Data, Connectivity Scope
}

// Network is what a driver is told of one.
type Network struct {
	ID, Name string
	// IPv4 and IPv6 say which families are on.
	IPv4, IPv6 bool
	Internal   bool
	// Subnets are the real ones, with their gateways. They are not known yet when Gateways is asked.
	Subnets []Subnet
	// Options are -o KEY=VALUE.
	Options map[string]string
	// DerivedMAC makes MAC addresses out of IPv4 addresses, as Docker did before Engine 28.
	DerivedMAC bool
}

// Subnet is one subnet of a Network.
type Subnet struct {
	Prefix  netip.Prefix
	Gateway netip.Addr // not valid: none
	Aux     map[string]netip.Addr
}

// Segment is what a driver makes of a Network.
type Segment struct {
	// Network is for the datapath, which has no part in the Network when it is nil. Not set are those fields that
	// depend on the host's configuration: DNSSearch and Limits.
	Network *spec.Network
	// Default4 and Default6 are where the containers' default routes point; not valid: they have none here.
	Default4, Default6 netip.Addr
	// Publish4 and Publish6 say what becomes of published ports.
	Publish4, Publish6 Publish
	// Bind is the host address that ports published without one are bound to; not valid: all.
	Bind netip.Addr
	// Warning is for whoever created the Network; mostly empty.
	Warning string
}

// Publish says how the ports of a Network's containers are published in a family.
type Publish uint8

// The ways.
const (
	PublishNone Publish = iota // not at all: ignored
	PublishHost                // on the host's addresses
	PublishOpen                // as PublishHost, and all ports are reachable at the container's own address
	PublishOwn                 // at the container's own address only (gateway mode routed)
)

// Endpoint is what a driver is told of one, and what it completes.
type Endpoint struct {
	ID string
	// MAC is made up where it is zero.
	MAC          l2.MAC
	Addr4, Addr6 netip.Prefix // with the lengths of their subnets; not valid: none
	// Options are --driver-opt KEY=VALUE.
	Options map[string]string
}

// Leg is what a sandbox gets of an Endpoint.
type Leg struct {
	// Plain means that there is no interface: null has none, host has the host's.
	Plain bool
	// Name is the interface's when the user chose one; else it is Prefix and the first free number.
	Name, Prefix string
	MTU          int
	MAC          l2.MAC
	Addr4, Addr6 netip.Prefix
	// Sysctls are settings whose names have IFNAME where the interface's name belongs.
	Sysctls map[string]string
}

// Link returns a Leg as the sandbox's namespaces are told of it, under the name the interface is to have.
func (l Leg) Link(endpointID, name string) plumb.Link {
	link := plumb.Link{EndpointID: endpointID, Name: name, MTU: l.MTU, MAC: l.MAC, Addr4: l.Addr4, Addr6: l.Addr6}
	for key, value := range l.Sysctls {
		if link.Sysctls == nil {
			link.Sysctls = make(map[string]string, len(l.Sysctls))
		}
		link.Sysctls[withName(key, name)] = value
	}
	return link
}

// Endpoint returns a Leg as the datapath is told of it; names and resolver are the caller's to add.
func (l Leg) Endpoint(endpointID, name string) spec.Endpoint {
	e := spec.Endpoint{ID: endpointID, Interface: name, MAC: l.MAC, Strict: true}
	for _, p := range []netip.Prefix{l.Addr4, l.Addr6} {
		if p.IsValid() {
			e.Addrs = append(e.Addrs, p.Addr())
		}
	}
	return e
}
