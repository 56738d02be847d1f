// Package plumb says what control asks of a sandbox's namespaces: interfaces, routes, files, sockets. Inert, JSON.
//
// It is a leaf, so that the shim, which does these things, and the Controller, which decides them, need not
// know each other.
package plumb

import (
	"net/netip"

	"github.com/usernet/usernet/stack/l2"
)

// Link is an interface inside a sandbox and how it is addressed. An invalid address is left out.
type Link struct {
	// EndpointID is whose leg it is.
	EndpointID string `json:"endpoint_id"`
	Name       string `json:"name"`
	MTU        int    `json:"mtu"`
	MAC        l2.MAC `json:"mac,omitzero"`
	// Adopt says that a TAP of that name which somebody else made is taken over instead of refused.
	Adopt bool         `json:"adopt,omitempty"`
	Addr4 netip.Prefix `json:"addr4,omitzero"` // with the length of its subnet
	Addr6 netip.Prefix `json:"addr6,omitzero"`
	// LinkLocal are further addresses, of 169.254.0.0/16 and fe80::/64.
	LinkLocal []netip.Prefix `json:"link_local,omitempty"`
	// Addrs are further addresses of any kind, and Routes further routes by this interface: those of a host's
	// interface that is copied.
	Addrs  []netip.Prefix `json:"addrs,omitempty"`
	Routes []Route        `json:"routes,omitempty"`
	// Down leaves the interface down: what is inside configures it.
	Down bool `json:"down,omitempty"`
	// Sysctls are settings by their names, such as net.ipv4.conf.eth0.log_martians.
	Sysctls map[string]string `json:"sysctls,omitempty"`
}

// Route is a route by a Link.
type Route struct {
	Dst netip.Prefix `json:"dst"`
	// Via is the next hop; the zero Addr means that Dst is on the link.
	Via netip.Addr `json:"via,omitzero"`
	// Src is the source address that it prefers; the zero Addr means none.
	Src    netip.Addr `json:"src,omitzero"`
	Metric int        `json:"metric,omitempty"`
}

// Routes are what a sandbox's routing depends on beside the subnets of its Links: the default routes and the
// way to the resolver. They replace what was before.
type Routes struct {
	Default4 Hop `json:"default4,omitzero"`
	Default6 Hop `json:"default6,omitzero"`
	// Resolver is where 127.0.0.11 is; its Addr is not used, only Dev and MAC. Without it that address is
	// the sandbox's own loopback as any of 127.0.0.0/8.
	Resolver Hop `json:"resolver,omitzero"`
}

// Hop is a next hop; the zero Hop means none.
type Hop struct {
	Dev  string     `json:"dev"`
	Addr netip.Addr `json:"addr,omitzero"`
	MAC  l2.MAC     `json:"mac,omitzero"`
}

// IsZero reports whether there is none.
func (h Hop) IsZero() bool { return h.Dev == "" }

// File is one file of the sandbox that hides the host's of the same name.
type File struct {
	Path    string `json:"path"` // absolute
	Content string `json:"content"`
}

// SocketNetwork is the family and transport of a Socket, by the names of package net.
type SocketNetwork string

// The kinds of sockets.
const (
	TCP4 SocketNetwork = "tcp4"
	TCP6 SocketNetwork = "tcp6"
	UDP4 SocketNetwork = "udp4"
	UDP6 SocketNetwork = "udp6"
	// SockDiag is a netlink socket that lists the sockets of the namespace; it has no Listen.
	SockDiag SocketNetwork = "sock_diag"
)

// Socket is a socket that is made inside a sandbox's network namespace, to be used outside. Whoever has its
// descriptor sends and receives as if it were in the sandbox.
type Socket struct {
	Network SocketNetwork `json:"network"`
	// Listen is the address and port it is bound to, of Network's family; a TCP socket listens there. Port 0
	// leaves the port to the kernel. The zero AddrPort makes a socket that is neither bound nor connected.
	Listen netip.AddrPort `json:"listen,omitzero"`
}
