package cli

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// The layout of a private network, that of slirp4netns: hosts counted from the subnet's address.
const (
	gatewayHost = 2
	dnsHost     = 3
	ownHost4    = 100
	ownHost6    = 0x100
	ownFallback = 4 // where the subnet has no ownHost
)

var (
	defaultSubnet4 = netip.MustParsePrefix("10.0.2.0/24")
	defaultSubnet6 = netip.MustParsePrefix("fd00::/64")
)

// privateFlows is how many TCP flows each address of the sandbox may have. A private Network has no
// other container to keep room for, and 10 000 idle ones cost less than 240 MiB (RX-01).
const privateFlows = 16384

// minMTU6 is the least MTU IPv6 works with (RFC 8200 section 5).
const minMTU6 = 1280

// plan is a private Network with its one Endpoint.
type plan struct {
	network  spec.Network
	endpoint spec.Endpoint
	link     plumb.Link
	routes   plumb.Routes
}

// makePlan turns flags into a Network and an Endpoint called id whose interface is called dev. It asks
// the host nothing.
func makePlan(o *netOptions, id, dev string) (*plan, error) {
	p := &plan{
		network: spec.Network{
			ID: "private", Name: "private", MTU: o.mtu,
			Policy:    spec.Policy{HostLoopback: o.hostLoopback, Metadata: o.metadata},
			Outbound4: o.outbound, Outbound6: o.outbound6,
			Limits: spec.Limits{TCPFlows: privateFlows},
		},
		link: plumb.Link{EndpointID: id, Name: dev, MTU: o.mtu},
	}
	least := tap.MinMTU
	if o.ipv6 {
		least = minMTU6
	}
	if o.mtu < least || o.mtu > tap.MaxMTU {
		return nil, usagef("--mtu %d: want %d to %d%s", o.mtu, least, tap.MaxMTU, hintIPv6(o))
	}
	if err := p.place(o); err != nil {
		return nil, err
	}
	p.network.GatewayMAC, p.link.MAC = stationMAC(0x52, p.network.Gateway4), stationMAC(0x02, p.link.Addr4.Addr())
	if !o.mac.IsZero() {
		p.link.MAC = o.mac
	}
	if p.link.MAC == p.network.GatewayMAC {
		return nil, usagef("--mac-address %s: it is the gateway's; choose another", o.mac)
	}
	p.endpoint = spec.Endpoint{ID: id, Interface: dev, MAC: p.link.MAC, Strict: true}
	for _, a := range []netip.Prefix{p.link.Addr4, p.link.Addr6} {
		if a.IsValid() {
			p.endpoint.Addrs = append(p.endpoint.Addrs, a.Addr())
		}
	}
	return p, nil
}

func hintIPv6(o *netOptions) string {
	if o.ipv6 && o.mtu >= tap.MinMTU && o.mtu < minMTU6 {
		return ", or less with --ipv6=false"
	}
	return ""
}

// place gives the Network its subnets and everybody their addresses.
func (p *plan) place(o *netOptions) error {
	sub4, sub6 := defaultSubnet4, defaultSubnet6
	seen4, seen6 := false, false
	for _, s := range o.subnets {
		seen, sub := &seen4, &sub4
		if s.Addr().Is6() {
			seen, sub = &seen6, &sub6
		}
		if *seen {
			return usagef("--subnet %s: there is one of its family already", s)
		}
		*seen, *sub = true, s
		if err := checkSubnet(s); err != nil {
			return err
		}
	}
	if !o.ipv6 {
		if seen6 || o.ip6.IsValid() || o.outbound6.IsValid() {
			return usagef("--ipv6=false contradicts the IPv6 addresses given")
		}
		sub6 = netip.Prefix{}
	}
	n, l := &p.network, &p.link
	n.Subnet4, n.Gateway4, n.DNS4 = sub4, hostOf(sub4, gatewayHost), hostOf(sub4, dnsHost)
	own4, err := ownAddr("--ip", o.ip, sub4, ownHost4)
	if err != nil {
		return err
	}
	l.Addr4, p.routes.Default4 = netip.PrefixFrom(own4, sub4.Bits()), plumb.Hop{Dev: l.Name, Addr: n.Gateway4}
	if !sub6.IsValid() {
		return nil
	}
	n.Subnet6, n.Gateway6, n.DNS6 = sub6, hostOf(sub6, gatewayHost), hostOf(sub6, dnsHost)
	own6, err := ownAddr("--ip6", o.ip6, sub6, ownHost6)
	if err != nil {
		return err
	}
	l.Addr6, p.routes.Default6 = netip.PrefixFrom(own6, sub6.Bits()), plumb.Hop{Dev: l.Name, Addr: n.Gateway6}
	return nil
}

// checkSubnet refuses subnets too small for gateway, DNS and sandbox, and those that mean something else.
func checkSubnet(s netip.Prefix) error {
	// Hosts up to 4, and in IPv4 the broadcast address after them.
	least, most := 8, 29
	if s.Addr().Is6() {
		least, most = 8, 125
	}
	if s.Bits() < least || s.Bits() > most {
		return usagef("--subnet %s: want a prefix of %d to %d bits", s, least, most)
	}
	a := s.Addr()
	if a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() || a.IsLinkLocalUnicast() ||
		s.Contains(netip.IPv6LinkLocalAllNodes()) || a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240) {
		return usagef("--subnet %s: not a range of ordinary addresses; use one such as 10.0.2.0/24 or fd00::/64", s)
	}
	return nil
}

// ownAddr is the sandbox's address in s: want, or the host-th, when that is one a sandbox may have.
func ownAddr(flag string, want netip.Addr, s netip.Prefix, host uint32) (netip.Addr, error) {
	if !want.IsValid() {
		a := hostOf(s, host)
		if !s.Contains(a) || a == lastOf(s) {
			a = hostOf(s, ownFallback)
		}
		return a, nil
	}
	switch want {
	case hostOf(s, gatewayHost):
		return want, usagef("%s %s: it is the gateway's; choose another in %s", flag, want, s)
	case hostOf(s, dnsHost):
		return want, usagef("%s %s: it is the DNS server's; choose another in %s", flag, want, s)
	case s.Addr():
		return want, usagef("%s %s: it is the address of the subnet itself", flag, want)
	}
	switch {
	case !s.Contains(want):
		return want, usagef("%s %s: not in the subnet %s; give another with --subnet", flag, want, s)
	case want.Is4() && want == lastOf(s):
		return want, usagef("%s %s: it is the broadcast address of %s", flag, want, s)
	}
	return want, nil
}

// hostOf is the n-th address of s, which may lie outside s.
func hostOf(s netip.Prefix, n uint32) netip.Addr {
	b := s.Masked().Addr().AsSlice()
	low := b[len(b)-4:]
	binary.BigEndian.PutUint32(low, binary.BigEndian.Uint32(low)+n)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// lastOf is the last address of s.
func lastOf(s netip.Prefix) netip.Addr {
	b := s.Masked().Addr().AsSlice()
	for i := s.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// stationMAC makes a locally administered address of an IPv4 address, so that captures of two runs agree.
func stationMAC(first byte, a netip.Addr) l2.MAC {
	b := a.As4()
	return l2.MAC{first, 0x55, b[0], b[1], b[2], b[3]}
}

// checkHost looks at what depends on the host but changes nothing there.
func (o *netOptions) checkHost() error {
	for _, f := range []struct {
		name string
		addr netip.Addr
	}{{"--outbound-addr", o.outbound}, {"--outbound-addr6", o.outbound6}} {
		if !f.addr.IsValid() {
			continue
		}
		own, err := hostAddrs()
		if err != nil {
			return err
		}
		if !slices.Contains(own, f.addr) {
			return usagef("%s %s: no interface of this host has it; see \"ip address\"", f.name, f.addr)
		}
	}
	return nil
}

// hostAddrs lists the addresses of the host's interfaces.
func hostAddrs() ([]netip.Addr, error) {
	ifs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var as []netip.Addr
	for _, i := range ifs {
		if n, ok := i.(*net.IPNet); ok {
			if a, ok := netip.AddrFromSlice(n.IP); ok {
				as = append(as, a.Unmap())
			}
		}
	}
	return as, nil
}

// gatewayAddr is what host-gateway stands for: an address at which the sandbox reaches the host. With
// host loopback that is the gateway; else the address the host itself uses towards the outside, since
// the gateway answers for nothing but itself then.
func (p *plan) gatewayAddr() (netip.Addr, error) {
	if p.network.Policy.HostLoopback {
		return p.network.Gateway4, nil
	}
	// Connecting a UDP socket sends nothing; it only makes the kernel choose. The address is from a
	// range that documentation uses (RFC 5737), so it leads by the default route.
	if c, err := net.Dial("udp4", "192.0.2.1:9"); err == nil {
		defer c.Close()
		if a, ok := netip.AddrFromSlice(c.LocalAddr().(*net.UDPAddr).IP); ok {
			return a.Unmap(), nil
		}
	}
	own, err := hostAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range own {
		if !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			return a, nil
		}
	}
	return netip.Addr{}, usagef("--add-host %s: this host has no address but loopback; use --host-loopback", hostGateway)
}
