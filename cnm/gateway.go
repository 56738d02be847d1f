package cnm

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/usernet/usernet/cnm/driver"
	"github.com/usernet/usernet/cnm/plumb"
)

// Which leg of a sandbox leads outside.
//
// Docker orders the legs (Endpoint.Less of its libnetwork): the higher gateway priority first, then Networks
// that are not internal, then those with a gateway in more families, then the Network's name byte by byte.
// The first leg with an IPv4 gateway gives the IPv4 default route, the first with an IPv6 gateway the IPv6
// one; both can be the same. Published ports lead to the first leg that may have any. The order is
// worked out anew whenever a leg comes or goes; nothing is remembered.

// byGateway is that order.
func byGateway(a, b *endpoint) int {
	return cmp.Or(
		cmp.Compare(b.conf.GwPriority, a.conf.GwPriority),
		compareBool(a.net.conf.Internal, b.net.conf.Internal),
		cmp.Compare(b.gateways(), a.gateways()),
		strings.Compare(a.net.conf.Name, b.net.conf.Name),
	)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// routes4 and routes6 report whether the leg can be a default route.
func (ep *endpoint) routes4() bool { return ep.net.seg.Default4.IsValid() && ep.link.Addr4.IsValid() }
func (ep *endpoint) routes6() bool { return ep.net.seg.Default6.IsValid() && ep.link.Addr6.IsValid() }

// gateways is in how many families it can.
func (ep *endpoint) gateways() (n int) {
	for _, can := range []bool{ep.routes4(), ep.routes6()} {
		if can {
			n++
		}
	}
	return n
}

// legsLocked are the legs that count, the best gateway first.
func (sb *Sandbox) legsLocked() []*endpoint {
	legs := sb.presentLocked()
	slices.SortStableFunc(legs, byGateway)
	return legs
}

// presentLocked are the legs that count, in the order they came.
func (sb *Sandbox) presentLocked() []*endpoint {
	return slices.DeleteFunc(slices.Clone(sb.endpoints), func(ep *endpoint) bool { return ep.state == leaving })
}

// first returns the first leg that f is true of, nil if there is none.
func first(legs []*endpoint, f func(*endpoint) bool) *endpoint {
	if i := slices.IndexFunc(legs, f); i >= 0 {
		return legs[i]
	}
	return nil
}

// routesLocked are the routes that follow from the legs.
func (sb *Sandbox) routesLocked() (r plumb.Routes) {
	legs := sb.legsLocked()
	if ep := first(legs, (*endpoint).routes4); ep != nil {
		r.Default4 = ep.hop(ep.net.seg.Default4)
	}
	if ep := first(legs, (*endpoint).routes6); ep != nil {
		r.Default6 = ep.hop(ep.net.seg.Default6)
	}
	if ep := first(legs, (*endpoint).resolves4); ep != nil {
		r.Resolver = plumb.Hop{Dev: ep.link.Name, MAC: ep.net.spec.GatewayMAC}
	}
	return r
}

// resolves4 reports whether 127.0.0.11 can be behind the leg.
func (ep *endpoint) resolves4() bool { return ep.net.names && ep.link.Addr4.IsValid() }

// hop is the way over the leg to a gateway; that of another container (the aux address DefaultGatewayIPv4) has
// to be asked for its link address.
func (ep *endpoint) hop(gw netip.Addr) plumb.Hop {
	h := plumb.Hop{Dev: ep.link.Name, Addr: gw}
	if gw == ep.net.spec.Gateway4 || gw == ep.net.spec.Gateway6 {
		h.MAC = ep.net.spec.GatewayMAC
	}
	return h
}

// publishes4 and publishes6 report whether ports of the host can lead to the leg.
func (ep *endpoint) publishes4() bool { return ep.link.Addr4.IsValid() && onHost(ep.net.seg.Publish4) }
func (ep *endpoint) publishes6() bool { return ep.link.Addr6.IsValid() && onHost(ep.net.seg.Publish6) }

func onHost(p driver.Publish) bool { return p == driver.PublishHost || p == driver.PublishOpen }

// targetsLocked are the legs that IPv4 and IPv6 ports of the host lead to: the first of their family that may
// have ports, else that of the other, because the relay translates. Both are nil when no leg may.
func (sb *Sandbox) targetsLocked() (t [2]*endpoint) {
	legs := sb.legsLocked()
	t[0], t[1] = first(legs, (*endpoint).publishes4), first(legs, (*endpoint).publishes6)
	if t[0] == nil {
		t[0] = t[1]
	}
	if t[1] == nil {
		t[1] = t[0]
	}
	return t
}
