package pasta

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/compat/pasta/forward"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// What the namespace is given, from the command line and from the host.
//
// # Theory of operation
//
// By default the namespace is a copy of the host as the outside knows it: the addresses of the interface with the
// default route, its routes and its router. There is no NAT to be seen, because the container has the very address
// that its connections leave the host from. For the Network that means AnyNeighbour: the container believes the
// host's LAN on its link, and the gateway answers for all of it.
//
// The container's own address being the host's, it cannot reach the host by it. Two addresses stand in: the router's
// for the host's loopback (--map-host-loopback, unless --no-map-gw), and one the user names for the host's own address
// (--map-guest-addr).
//
// Without an interface to be like there is local mode: 169.254.2.1 with router 169.254.2.2, and fe80::1 as router.

// The addresses of local mode, and of the gateway's side.
var (
	localGuest4   = netip.MustParsePrefix("169.254.2.1/16")
	localGateway4 = netip.MustParseAddr("169.254.2.2")
	localGuest6   = netip.MustParsePrefix("fe80::2/64")
	localGateway6 = netip.MustParseAddr("fe80::1")
	localSubnet6  = netip.MustParsePrefix("fe80::/64")

	gatewayMAC = l2.MAC{0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55}
)

const (
	localDevice = "tap0"
	endpointID  = "pasta"
	// idleMTU is what a TAP has that nobody gave another (-m 0).
	idleMTU = 1500
	minMTU4 = 68
	minMTU6 = 1280
	guest6  = 64 // bits of an address given by -a
	// flows is how many TCP flows the namespace may have; nobody shares it.
	flows = 16384
)

// Resolv is what the host's resolv.conf says.
type Resolv struct {
	Servers []netip.Addr
	Search  []string
}

// Plan is everything that is made for a namespace.
type Plan struct {
	Network  spec.Network
	Endpoint spec.Endpoint
	Link     plumb.Link
	Routes   plumb.Routes
	// DNS are the servers to ask; nil means those of the host.
	DNS []netip.AddrPort
	// Warnings are for the user.
	Warnings []string
}

// makePlan decides what a namespace is given. It asks the host nothing.
func makePlan(o *Options, h Host, r Resolv) (*Plan, error) {
	p := &Plan{}
	if (o.OutboundIf4 != "" && h.V4.Device == "") || (o.OutboundIf6 != "" && h.V6.Device == "") {
		return nil, errors.New("External interface not usable")
	}
	if o.NoIPv4 && o.MTU < minMTU6 && o.MTU != 0 || o.MTU < minMTU4 && o.MTU != 0 {
		return nil, fmt.Errorf("MTU %d is too small for IPv4 (minimum %d) or IPv6 (minimum %d)", o.MTU, minMTU4, minMTU6)
	}
	p.Network = spec.Network{
		ID: endpointID, Name: endpointID, MTU: o.MTU, GatewayMAC: gatewayMAC, AnyNeighbour: true,
		Outbound4: o.Outbound4, Outbound6: o.Outbound6, OutboundDevice4: o.OutboundIf4, OutboundDevice6: o.OutboundIf6,
		Limits: spec.Limits{TCPFlows: flows},
		Policy: spec.Policy{Metadata: true, NoTCP: o.NoTCP, NoUDP: o.NoUDP, NoICMP: o.NoICMP, NoEgress: o.SpliceOnly},
		Autoconf: spec.Autoconf{
			NoDHCP4: o.NoDHCP, NoDHCP6: o.NoDHCPv6, NoRA: o.NoRA, NoNDP: o.NoNDP,
			NoDHCPDNS: !o.DHCPDNS, NoDHCPSearch: !o.DHCPSearch, Hostname: o.Hostname, FQDN: o.FQDN,
		},
	}
	if !o.MAC.IsZero() {
		p.Network.GatewayMAC = o.MAC
	}
	if o.MTU == 0 {
		p.Network.MTU = idleMTU
	}
	// Adopt: some callers, as rootlesskit before 3, make the interface before.
	p.Link = plumb.Link{EndpointID: endpointID, Name: deviceName(o, h), MTU: p.Network.MTU, MAC: o.NSMAC, Adopt: true}
	if p.Link.MAC == p.Network.GatewayMAC {
		return nil, fmt.Errorf("Invalid MAC address: %v is the gateway's, see --mac-addr", p.Link.MAC)
	}
	p.place4(o, h.V4)
	p.place6(o, h.V6)
	p.resolve(o, r)
	p.maps(o, h)
	p.endpoint(o)
	return p, nil
}

// deviceName is the name of the interface in the namespace.
func deviceName(o *Options, h Host) string {
	for _, name := range []string{o.IfName, h.V4.Device, h.V6.Device} {
		if name != "" {
			return name
		}
	}
	return localDevice
}

// place4 gives the namespace IPv4.
func (p *Plan) place4(o *Options, h Side) {
	if o.NoIPv4 {
		return
	}
	if h.Device == "" {
		h = Side{Addrs: []netip.Prefix{localGuest4}, Gateway: localGateway4}
		p.warnLocal("IPv4", o.Addr4)
	}
	addrs := h.Addrs
	switch {
	case o.Addr4.IsValid():
		bits := o.Bits4
		if bits == 0 {
			bits = classBits(o.Addr4)
		}
		addrs = []netip.Prefix{netip.PrefixFrom(o.Addr4, bits)}
	case o.Bits4 != 0:
		addrs = []netip.Prefix{netip.PrefixFrom(addrs[0].Addr(), o.Bits4)}
	case o.NoCopyAddrs:
		addrs = addrs[:1]
	}
	n := &p.Network
	n.Subnet4 = addrs[0].Masked()
	n.Gateway4 = h.Gateway
	if o.Gateway4.IsValid() {
		n.Gateway4 = o.Gateway4
	}
	routed := n.Gateway4.IsValid()
	if !routed {
		// An interface without a router: the address is for what comes in from the host's loopback.
		n.Gateway4, n.Autoconf.NoDHCP4 = localGateway4, true
	}
	p.Link.Addr4, p.Link.Addrs = addrs[0], append(p.Link.Addrs, addrs[1:]...)
	if routed {
		p.Routes.Default4 = plumb.Hop{Dev: p.Link.Name, Addr: n.Gateway4}
	}
	if !o.Addr4.IsValid() && !o.Gateway4.IsValid() && !o.NoCopyRoutes {
		p.copyRoutes(h.Routes)
	}
}

// place6 gives the namespace IPv6. In local mode it has link-local addresses only, its own and the router's.
func (p *Plan) place6(o *Options, h Side) {
	if o.NoIPv6 || p.Network.MTU < minMTU6 {
		if !o.NoIPv6 {
			p.Warnings = append(p.Warnings, fmt.Sprintf("MTU %d is too small for IPv6 (minimum %d)", p.Network.MTU, minMTU6))
		}
		return
	}
	n := &p.Network
	addrs := h.Addrs
	if h.Device == "" {
		p.warnLocal("IPv6", o.Addr6)
		h = Side{Gateway: localGateway6}
	}
	if o.Addr6.IsValid() {
		bits := o.Bits6
		if bits == 0 {
			bits = guest6
		}
		addrs = []netip.Prefix{netip.PrefixFrom(o.Addr6, bits)}
	} else if o.NoCopyAddrs && len(addrs) > 1 {
		addrs = addrs[:1]
	}
	n.Subnet6 = localSubnet6
	if len(addrs) > 0 {
		n.Subnet6 = addrs[0].Masked()
		n.Autoconf.Lease6 = addrs[0].Addr()
		p.Link.Addr6, p.Link.Addrs = addrs[0], append(p.Link.Addrs, addrs[1:]...)
	} else {
		p.Link.LinkLocal = []netip.Prefix{localGuest6}
		n.Autoconf.NoDHCP6, n.Autoconf.NoRA = true, true
	}
	n.Gateway6 = h.Gateway
	if o.Gateway6.IsValid() {
		n.Gateway6 = o.Gateway6
	}
	if !n.Gateway6.IsValid() {
		n.Gateway6 = localGateway6
	} else {
		p.Routes.Default6 = plumb.Hop{Dev: p.Link.Name, Addr: n.Gateway6}
	}
	if !o.Addr6.IsValid() && !o.Gateway6.IsValid() && !o.NoCopyRoutes {
		p.copyRoutes(h.Routes)
	}
}

func (p *Plan) warnLocal(family string, given netip.Addr) {
	if !given.IsValid() {
		p.Warnings = append(p.Warnings, family+": no external interface as template, use local mode")
	}
}

func (p *Plan) copyRoutes(rs []Route) {
	for _, r := range rs {
		p.Link.Routes = append(p.Link.Routes, plumb.Route{Dst: r.Dst, Via: r.Via, Src: r.Src, Metric: r.Metric})
	}
}

// resolve decides where names are asked for. --dns-forward names the address; without it there is none, unless the
// host's own server could not be reached from inside, or DHCP is to name one.
func (p *Plan) resolve(o *Options, r Resolv) {
	n := &p.Network
	n.DNSSearch = o.Search
	if n.DNSSearch == nil && !o.NoSearch {
		n.DNSSearch = r.Search
	}
	if o.NoDNS {
		return
	}
	servers := o.DNS
	if len(servers) == 0 {
		servers = r.Servers
	}
	if n.Subnet4.IsValid() {
		n.DNS4 = dnsAddr(o.DNSForward4, servers, o.DHCPDNS, p.loopback(o, true), netip.Addr.Is4)
	}
	if n.Subnet6.IsValid() {
		n.DNS6 = dnsAddr(o.DNSForward6, servers, o.DHCPDNS, p.loopback(o, false), netip.Addr.Is6)
	}
	const port = 53
	upstream := []netip.Addr{o.DNSHost4, o.DNSHost6}
	if !o.DNSHost4.IsValid() && !o.DNSHost6.IsValid() {
		upstream = o.DNS
	}
	for _, a := range upstream {
		if a.IsValid() {
			p.DNS = append(p.DNS, netip.AddrPortFrom(a, port))
		}
	}
}

// dnsAddr is where the namespace asks one family's server; loopback stands for the host's.
func dnsAddr(forward netip.Addr, servers []netip.Addr, dhcp bool, loopback netip.Addr, family func(netip.Addr) bool) netip.Addr {
	if forward.IsValid() {
		return forward
	}
	i := slices.IndexFunc(servers, family)
	switch {
	case i < 0:
		return netip.Addr{}
	case servers[i].IsLoopback() || servers[i] == loopback:
		return loopback // may be none
	case dhcp:
		return servers[i]
	}
	return netip.Addr{}
}

// loopback is the address that stands for the host's loopback; it may be none.
func (p *Plan) loopback(o *Options, v4 bool) netip.Addr {
	given, gateway, on := o.MapLoopback6, p.Network.Gateway6, p.Network.Subnet6.IsValid()
	if v4 {
		given, gateway, on = o.MapLoopback4, p.Network.Gateway4, p.Network.Subnet4.IsValid()
	}
	switch {
	case !on:
		return netip.Addr{}
	case given.IsValid():
		return given
	case o.NoMapGW:
		return netip.Addr{}
	}
	return gateway
}

// maps says which addresses stand for the host's.
func (p *Plan) maps(o *Options, h Host) {
	add := func(from, to netip.Addr) {
		if from.IsValid() && to.IsValid() {
			p.Network.Policy.Maps = append(p.Network.Policy.Maps, spec.AddrMap{From: from, To: to})
		}
	}
	add(p.loopback(o, true), netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	add(p.loopback(o, false), netip.IPv6Loopback())
	add(o.MapGuest4, hostAddr(p.Link.Addr4, h.V4))
	add(o.MapGuest6, hostAddr(p.Link.Addr6, h.V6))
}

// hostAddr is what the host's own address is: the namespace's, when the host has that one too, else its first.
func hostAddr(guest netip.Prefix, h Side) netip.Addr {
	for _, a := range h.Addrs {
		if a.Addr() == guest.Addr() {
			return a.Addr()
		}
	}
	if len(h.Addrs) == 0 {
		return netip.Addr{}
	}
	return h.Addrs[0].Addr()
}

// endpoint says what the namespace may send from. It is not held to its addresses: whoever is root in there may add
// some, as with the original.
func (p *Plan) endpoint(o *Options) {
	p.Endpoint = spec.Endpoint{ID: endpointID, Interface: p.Link.Name, MAC: p.Link.MAC}
	for _, a := range append([]netip.Prefix{p.Link.Addr4, p.Link.Addr6}, p.Link.Addrs...) {
		if a.IsValid() {
			p.Endpoint.Addrs = append(p.Endpoint.Addrs, a.Addr())
		}
	}
	if !o.ConfigNet {
		// The interface waits for a guest that configures itself.
		p.Link = plumb.Link{EndpointID: p.Link.EndpointID, Name: p.Link.Name, MTU: idleMTU, MAC: p.Link.MAC, Adopt: true, Down: true}
		p.Routes = plumb.Routes{}
	}
}

// classBits is the length that an IPv4 address had before there were any (RFC 791).
func classBits(a netip.Addr) int {
	switch b := a.As4()[0]; {
	case b < 128:
		return 8
	case b < 192:
		return 16
	case b < 224:
		return 24
	}
	return 32
}

// Tables reads the values of -t, -u, -T and -U for the families and protocols there are: what is listened to on the
// host, and what in the namespace. As in the original each that is not given is auto.
func (o *Options) Tables(v4, v6 bool, ephemeral forward.Ports) (in, out forward.Table, err error) {
	caps := forward.CapScan | forward.CapDevice
	for c, on := range map[forward.Caps]bool{forward.CapIPv4: v4, forward.CapIPv6: v6, forward.CapTCP: !o.NoTCP, forward.CapUDP: !o.NoUDP} {
		if on {
			caps |= c
		}
	}
	in.Caps, out.Caps = caps, caps
	given := map[forward.Option]bool{}
	options := o.Forward
	for _, f := range o.Forward {
		given[f.Option] = true
	}
	for _, opt := range []forward.Option{forward.InTCP, forward.OutTCP, forward.InUDP, forward.OutUDP} {
		off := o.NoTCP && (opt == forward.InTCP || opt == forward.OutTCP) || o.NoUDP && (opt == forward.InUDP || opt == forward.OutUDP)
		if !given[opt] && !off {
			options = append(options[:len(options):len(options)], ForwardOption{opt, "auto"})
		}
	}
	for _, f := range options {
		t := &in
		if !f.Option.Inbound() {
			t = &out
		}
		if err := t.Parse(f.Option, forward.Add, f.Spec, ephemeral); err != nil {
			return in, out, err
		}
	}
	return in, out, nil
}
