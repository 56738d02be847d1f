package slirp4netns

import (
	"encoding/binary"
	"net/netip"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/compat/session"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

const defaultMTU = 1500

var (
	defaultCIDR = netip.MustParsePrefix("10.0.2.0/24")
	subnet6     = netip.MustParsePrefix("fd00::/64")
)

// The original's plan: hosts counted from the address of the network.
const (
	gatewayHost  = 2
	dnsHost      = 3
	leaseHost    = 15
	leaseEndHost = 30
	guestHost    = 100
)

// flows is how many TCP flows the namespace may have, as in a private network of usernet: it may be that of a whole
// rootless engine, and nobody else shares the datapath.
const flows = 16384

// addressing is what the addresses of a network are for.
type addressing struct {
	gateway, dns, lease, leaseEnd, guest netip.Addr
}

func addressesOf(cidr netip.Prefix) addressing {
	return addressing{
		gateway: hostOf(cidr, gatewayHost), dns: hostOf(cidr, dnsHost), guest: hostOf(cidr, guestHost),
		lease: hostOf(cidr, leaseHost), leaseEnd: hostOf(cidr, leaseEndHost),
	}
}

// hostOf is the n-th address of p, within its last 32 bits.
func hostOf(p netip.Prefix, n uint32) netip.Addr {
	b := p.Addr().AsSlice()
	low := b[len(b)-4:]
	binary.BigEndian.PutUint32(low, binary.BigEndian.Uint32(low)+n)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// maskOf is the netmask of an IPv4 prefix.
func maskOf(p netip.Prefix) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], ^uint32(0)<<(32-p.Bits()))
	return netip.AddrFrom4(b)
}

// plan is the session that o asks for, but for where its frames come from.
func plan(o *options) session.Config {
	const id = "guest"
	a := addressesOf(o.cidr)
	gw := a.gateway.As4()
	n := spec.Network{
		ID: "slirp4netns", Name: "slirp4netns", MTU: o.mtu,
		Subnet4: o.cidr, Gateway4: a.gateway, DNS4: a.dns,
		// The same one that the original has, for who writes it down.
		GatewayMAC: l2.MAC{0x52, 0x55, gw[0], gw[1], gw[2], gw[3]},
		Autoconf:   spec.Autoconf{Lease: a.lease},
		// The original lets all of them through.
		Policy:    spec.Policy{HostLoopback: !o.noHostLoopback, HostUnreachable: true, Metadata: true},
		Outbound4: o.out4, Outbound6: o.out6,
		Limits: spec.Limits{TCPFlows: flows},
	}
	if o.ipv6 {
		n.Subnet6, n.Gateway6, n.DNS6 = subnet6, hostOf(subnet6, gatewayHost), hostOf(subnet6, dnsHost)
	}
	if o.noDNS {
		n.DNS4, n.DNS6 = netip.Addr{}, netip.Addr{}
	}
	return session.Config{
		Network: n,
		// Not strict: with -c the guest has net+100 and an IPv6 address that its kernel makes; without -c, or with
		// DHCP, it has what its user gave it.
		Endpoint: spec.Endpoint{ID: id, Interface: o.tap, MAC: o.mac, Addrs: []netip.Addr{a.guest}},
		Link: plumb.Link{
			EndpointID: id, Name: o.tap, MTU: o.mtu, MAC: o.mac, Adopt: true,
			Addr4: netip.PrefixFrom(a.guest, o.cidr.Bits()),
		},
		Routes:    plumb.Routes{Default4: plumb.Hop{Dev: o.tap, Addr: a.gateway}},
		Configure: o.configure,
		Target:    session.Target{PID: o.pid, Netns: o.path, Userns: o.userns},
	}
}
