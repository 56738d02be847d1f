package bridge

import (
	"fmt"
	"net/netip"

	"github.com/usernet/usernet/cnm/driver"
	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// Bounds of the MTU: RFC 791, RFC 8200, and the kernel's for a TAP.
const (
	defaultMTU = 1500
	minMTU4    = 68
	minMTU6    = 1280
	maxMTU     = 65535 - l2.HeaderLen // what the kernel gives a TAP
)

// The auxiliary addresses with a meaning: where default routes point in place of the gateway.
const (
	auxDefault4 = "DefaultGatewayIPv4"
	auxDefault6 = "DefaultGatewayIPv6"
)

// family is one of the two as the Network has it.
type family struct {
	name    string
	on      bool
	mode    Mode
	subnet  driver.Subnet
	auxKey  string
	silent  bool // the gateway address is nobody's
	all     netip.Prefix
	publish driver.Publish
	hop     netip.Addr // of default routes
}

// plan makes a Segment of a checked Network.
func plan(n driver.Network, o Options, v4, v6 family) driver.Segment {
	s := &spec.Network{
		ID: n.ID, Name: n.Name, MTU: o.MTU,
		NoNames: o.Default, Apart: !o.ICC,
		Outbound4: o.Outbound4, Outbound6: o.Outbound6,
		Policy: spec.Policy{HostLoopback: o.HostLoopback},
	}
	v4.settle(n, o)
	v6.settle(n, o)
	s.Subnet4, s.Gateway4, s.DNS4 = v4.addresses()
	s.Subnet6, s.Gateway6, s.DNS6 = v6.addresses()
	s.GatewayMAC = gatewayMAC(v4, v6)
	s.NoGateway = (!v4.on || v4.mode == Isolated) && (!v6.on || v6.mode == Isolated)
	egress(s, n, o, v4, v6)
	return driver.Segment{
		Network: s, Default4: v4.hop, Default6: v6.hop,
		Publish4: v4.publish, Publish6: v6.publish, Bind: o.Bind,
		Warning: warning(n, o, v4, v6),
	}
}

// settle decides where the default route points and what becomes of published ports.
func (f *family) settle(n driver.Network, o Options) {
	if !f.on || n.Internal {
		return
	}
	f.hop = f.subnet.Gateway
	if a, ok := f.subnet.Aux[f.auxKey]; ok {
		f.hop = a
	}
	switch f.mode {
	case NAT:
		f.publish = driver.PublishHost
	case NATUnprotected:
		f.publish = driver.PublishOpen
	case Routed:
		f.publish = driver.PublishOwn
	}
}

// addresses returns the prefix, the gateway and the name server.
func (f *family) addresses() (netip.Prefix, netip.Addr, netip.Addr) {
	switch {
	case !f.on:
		return netip.Prefix{}, netip.Addr{}, netip.Addr{}
	case f.silent || f.mode == Isolated:
		return f.subnet.Prefix, netip.Addr{}, netip.Addr{}
	}
	return f.subnet.Prefix, f.subnet.Gateway, f.subnet.Gateway
}

// closed reports whether nothing leaves by this family. Without translation a packet would leave with an address that
// nobody outside has a route to, so it stays.
func (f *family) closed(o Options) bool {
	return !f.on || !o.Masquerade || f.mode == Routed || f.mode == Isolated
}

// egress closes the Network, or the family that is to be closed.
func egress(s *spec.Network, n driver.Network, o Options, v4, v6 family) {
	if n.Internal || v4.closed(o) && v6.closed(o) {
		s.Policy.NoEgress = true
		return
	}
	for _, f := range []family{v4, v6} {
		if f.on && f.closed(o) {
			s.Policy.Refuse = append(s.Policy.Refuse, spec.Refused{Prefix: f.all})
		}
	}
}

// warning tells what Docker's user would expect and does not get.
func warning(n driver.Network, o Options, v4, v6 family) string {
	switch {
	case n.Internal:
		return ""
	case len(o.TrustedHostInterfaces) > 0:
		return OptTrusted + " has no effect: the host does not reach containers by their own addresses; publish their ports"
	case v4.on && v4.closed(o), v6.on && v6.closed(o):
		return fmt.Sprintf("containers of network %s reach nothing outside by a family without address translation", n.Name)
	}
	return ""
}

// gatewayMAC makes the gateway's link address of its network address, as Docker made those of containers: it is the
// same in every life of the Network.
func gatewayMAC(v4, v6 family) l2.MAC {
	for _, f := range []family{v4, v6} {
		if !f.on {
			continue
		}
		a := f.subnet.Gateway
		if !a.IsValid() {
			a = f.subnet.Prefix.Addr() // which no container has
		}
		return derivedMAC(a)
	}
	return l2.MAC{}
}

// derivedMAC is Docker's 02:42 and the last four bytes of an address.
func derivedMAC(a netip.Addr) l2.MAC {
	b := a.AsSlice()
	m := l2.MAC{0x02, 0x42}
	copy(m[2:], b[len(b)-4:])
	return m
}

// check validates a Network and returns its families.
func check(n driver.Network, o Options) (v4, v6 family, err error) {
	v4 = family{name: "ipv4", on: n.IPv4, mode: o.Mode4, auxKey: auxDefault4, silent: o.InhibitIPv4,
		all: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}
	v6 = family{name: "ipv6", on: n.IPv6, mode: o.Mode6, auxKey: auxDefault6,
		all: netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	if err := checkModes(n, o); err != nil {
		return v4, v6, err
	}
	if !n.IPv4 && !n.IPv6 {
		return v4, v6, fault.New(fault.Invalid, "IPv4 or IPv6 must be enabled")
	}
	var several bool
	v4.subnet, v6.subnet, several = driver.Split(n.Subnets)
	for _, f := range []family{v4, v6} {
		if f.on && f.subnet.Prefix.Bits() <= 0 {
			return v4, v6, fault.New(fault.Invalid, "%s pool is empty", f.name)
		}
	}
	if several {
		return v4, v6, fault.New(fault.Forbidden, "bridge driver doesn't support multiple subnets")
	}
	low := minMTU4
	if n.IPv6 {
		low = minMTU6
	}
	if o.MTU < low || o.MTU > maxMTU {
		return v4, v6, fault.New(fault.Invalid, "invalid MTU number: %d", o.MTU)
	}
	return v4, v6, checkSubnets(v4, v6)
}

func checkModes(n driver.Network, o Options) error {
	if (o.Mode4 == Isolated || o.Mode6 == Isolated) && !n.Internal {
		return fault.New(fault.Invalid, "gateway mode 'isolated' can only be used for an internal network")
	}
	return nil
}

var linkLocal6 = netip.MustParsePrefix("fe80::/64")

func checkSubnets(v4, v6 family) error {
	for _, f := range []family{v4, v6} {
		a, ok := f.subnet.Aux[f.auxKey]
		if f.on && ok && !f.subnet.Prefix.Contains(a) {
			return fault.New(fault.Invalid, "default gateway ip must be part of the network")
		}
	}
	p := v6.subnet.Prefix
	switch {
	case !v6.on:
		return nil
	case p.Addr().Is4In6():
		return fault.New(fault.Invalid, "'%s' is not a valid IPv6 subnet", p)
	case p.Addr().IsMulticast():
		return fault.New(fault.Invalid, "multicast subnet '%s' is not allowed", p)
	case p != linkLocal6 && p.Overlaps(linkLocal6):
		return fault.New(fault.Invalid, "'%s' clashes with the Link-Local prefix 'fe80::/64'", p)
	}
	return nil
}
