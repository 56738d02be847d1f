package portfwd

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/usernet/usernet/stack/spec"
)

// Target is where a published port leads: the container's addresses. One of them may be the zero
// Addr, when the container does not have that family.
type Target struct {
	Addr4 netip.Addr `json:"addr4,omitzero"`
	Addr6 netip.Addr `json:"addr6,omitzero"`
	// Own are all addresses of the container; a client with one of them is shown under another.
	Own []netip.Addr `json:"own,omitempty"`
	// Inside, when not nil, connects clients on the host's loopback without the Dialer. It stays the caller's, who
	// closes it after the port is removed.
	Inside *Inside `json:"-"`
}

// sources decides which address a container sees as the client's.
type sources struct {
	gateway4, gateway6 netip.Addr
	subnets            []netip.Prefix
	maps               []spec.AddrMap
}

// narrow is the Target of a Spec that names the container's address.
func (t Target) narrow(to netip.Addr) Target {
	switch {
	case to.Is4():
		t.Addr4, t.Addr6 = to, netip.Addr{}
	case to.IsValid():
		t.Addr4, t.Addr6 = netip.Addr{}, to
	}
	return t
}

// check refuses a Target that route could not serve.
func (s *sources) check(t Target) error {
	switch {
	case !t.Addr4.IsValid() && !t.Addr6.IsValid():
		return fmt.Errorf("the container has no address")
	case t.Addr4.IsValid() && (!t.Addr4.Is4() || !s.gateway4.Is4()):
		return fmt.Errorf("container address %s: not an IPv4 address of a Network with an IPv4 gateway", t.Addr4)
	case t.Addr6.IsValid() && (!t.Addr6.Is6() || t.Addr6.Is4In6() || !s.gateway6.Is6()):
		return fmt.Errorf("container address %s: not an IPv6 address of a Network with an IPv6 gateway", t.Addr6)
	}
	return nil
}

// route says where a client's connection or datagram goes and from whom it seems to come. The port
// is the client's in any case; whoever finds it taken chooses another.
func (s *sources) route(client netip.AddrPort, t Target, port uint16) (from, to netip.AddrPort) {
	addr, gateway, peer := t.Addr4, s.gateway4, client.Addr()
	if peer.Is6() && t.Addr6.IsValid() || !t.Addr4.IsValid() {
		addr, gateway = t.Addr6, s.gateway6
	}
	if peer.Is4() != addr.Is4() || peer == addr || slices.Contains(t.Own, peer) || !s.answerable(peer) {
		peer = s.standIn(peer, addr, gateway)
	}
	return netip.AddrPortFrom(peer, client.Port()), netip.AddrPortFrom(addr, port)
}

// standIn is the address under which a container with addr knows a client whose own it could not answer: what
// stands for that address of the host, where a Map says so, else the gateway's. So an answer to it, or a call back,
// reaches the same host.
func (s *sources) standIn(peer, addr, gateway netip.Addr) netip.Addr {
	for _, m := range s.maps {
		if peer.Unmap() == m.To && m.From.Is4() == addr.Is4() {
			return m.From
		}
	}
	return gateway
}

// answerable reports whether a container would send its answer to a to the gateway: it is an ordinary
// unicast address, and not one the container looks for on its own link or in itself.
func (s *sources) answerable(a netip.Addr) bool {
	switch {
	case a.Is4In6(), a.Zone() != "", !a.IsGlobalUnicast():
		return false // v4-mapped; link-local, loopback, multicast, unspecified, 255.255.255.255
	case a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240):
		return false // "this network" and class E, which kernels treat as they please
	}
	return !slices.ContainsFunc(s.subnets, func(p netip.Prefix) bool { return p.Contains(a) })
}
