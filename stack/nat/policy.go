package nat

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/spec"
)

// Theory of operation
//
// Policy answers one question for TCP, UDP and ping alike: may a container send to this address,
// and if so, which address does the host use for it? It is asked for every datagram, so it is a
// handful of comparisons on a value that never changes.
//
// The host's kernel is what makes this necessary. A packet of the container becomes a connect or
// sendto of an ordinary process of the host, and the kernel reads more addresses as "this host"
// than a router would ever forward: all of 127/8, 0.0.0.0, ::, ::1 and each of them again in its
// v4-mapped spelling. Translators on the way (NAT64, 6to4, Teredo) spell every v4 address once
// more in v6. Whatever is refused in one spelling is refused in all.
//
// The order matters in one place: the gateway's address lies in the Network's own subnet and is
// the only address there that may leave, as the host's loopback, and only when asked for.
//
// Prefixes of other Networks (Reserved) and what control names (spec.Policy.Refuse) are refused in the same place as
// the Network's own subnet, so in all spellings. A Network without egress refuses everything.
//
// A Map comes before all of that: who gives an address a meaning has decided that it may be reached. In a Network
// that believes the whole LAN on its link (spec.Network.AnyNeighbour) the subnet is the host's LAN, so nothing in it
// is refused for its sake.
//
// The host's own non-loopback addresses are ordinary destinations. What listens on them has
// chosen to be reachable from other machines, and a container is treated as one.

// Verdict is what Policy.Check says of a destination.
type Verdict struct {
	// Allow is false when nothing may be sent there; the other fields are then zero.
	Allow bool
	// Dial is the address the host side uses. It differs from the destination only where that stands
	// for an address of the host: a gateway, or a spec.AddrMap.
	Dial netip.Addr
	// Mapped says that Dial is the host's own in place of the destination, so replies have to show the
	// destination as their source, and no outbound address or interface is used.
	Mapped bool
}

// Policy decides which destinations containers of one Network may reach. It is immutable, but for the prefixes
// of other Networks, and safe for concurrent use.
type Policy struct {
	gateway4, gateway6 netip.Addr
	subnet4, subnet6   netip.Prefix
	hostLoopback       bool
	metadata           bool
	noEgress           bool
	anyNeighbour       bool
	maps               []spec.AddrMap
	reserved           *Reserved
	refuse             []refused
}

// refused is a spec.Refused with the number of its protocol, 0 for all.
type refused struct {
	prefix netip.Prefix
	proto  uint8
	port   uint16
}

// NewPolicy makes the Policy of a Network. r are the prefixes of all Networks of the process; nil means that there
// are no others.
func NewPolicy(n spec.Network, r *Reserved) (*Policy, error) {
	p := &Policy{
		gateway4: n.Gateway4, gateway6: n.Gateway6,
		subnet4: n.Subnet4, subnet6: n.Subnet6,
		hostLoopback: n.Policy.HostLoopback && !n.Policy.NoEgress && !n.NoGateway,
		metadata:     n.Policy.Metadata,
		noEgress:     n.Policy.NoEgress || n.NoGateway,
		anyNeighbour: n.AnyNeighbour,
		maps:         slices.Clone(n.Policy.Maps),
		reserved:     r,
	}
	for _, m := range p.maps {
		if err := checkMap(m); err != nil {
			return nil, err
		}
	}
	for _, f := range n.Policy.Refuse {
		r := refused{prefix: f.Prefix.Masked(), port: f.Port}
		switch f.Proto {
		case "tcp":
			r.proto = ip.TCP
		case "udp":
			r.proto = ip.UDP
		case "":
			if f.Port != 0 {
				return nil, fmt.Errorf("refuse %s port %d: no protocol; say tcp or udp", f.Prefix, f.Port)
			}
		default:
			return nil, fmt.Errorf("refuse %s: unknown protocol %q; say tcp or udp", f.Prefix, f.Proto)
		}
		if !f.Prefix.IsValid() {
			return nil, fmt.Errorf("refuse %s: not a prefix", f.Prefix)
		}
		p.refuse = append(p.refuse, r)
	}
	return p, nil
}

// checkMap refuses a Map that could not work, or would mean more than one address of the host.
func checkMap(m spec.AddrMap) error {
	switch {
	case !m.From.IsValid() || !m.To.IsValid() || m.From.Is4() != m.To.Is4():
		return fmt.Errorf("map %s to %s: not two addresses of one family", m.From, m.To)
	case m.From.Is4In6() || m.To.Is4In6() || m.From.Zone() != "" || m.To.Zone() != "":
		return fmt.Errorf("map %s to %s: addresses of the IPv4-mapped kind or with a zone cannot be mapped", m.From, m.To)
	case m.From.IsUnspecified() || m.From.IsMulticast() || m.From.IsLoopback() || m.To.IsUnspecified() || m.To.IsMulticast():
		return fmt.Errorf("map %s to %s: not the address of a single station", m.From, m.To)
	}
	return nil
}

var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()

	linkLocal4 = netip.MustParsePrefix("169.254.0.0/16") // RFC 3927 §7: not to be forwarded
	nat64      = netip.MustParsePrefix("64:ff9b::/96")   // RFC 6052
	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215; only its /96 form is read
	sixToFour  = netip.MustParsePrefix("2002::/16")      // RFC 3056
	teredo     = netip.MustParsePrefix("2001::/32")      // RFC 4380
	ipv4Compat = netip.MustParsePrefix("::/96")          // RFC 4291 §2.5.5.1, deprecated; holds :: and ::1 too
)

// metadataAddrs are where clouds serve instance metadata and credentials outside 169.254/16.
var metadataAddrs = [...]netip.Addr{
	netip.MustParseAddr("168.63.129.16"),      // Azure
	netip.MustParseAddr("100.100.100.200"),    // Alibaba
	netip.MustParseAddr("192.0.0.192"),        // Oracle
	netip.MustParseAddr("fd00:ec2::254"),      // AWS
	netip.MustParseAddr("fd00:ec2::23"),       // AWS, credentials of pods
	netip.MustParseAddr("fd20:ce::254"),       // Google
	netip.MustParseAddr("fd00:c1::a9fe:a9fe"), // Oracle
}

// Check says whether a container may send packets of the IP protocol proto to dst. The port is
// looked at for TCP and UDP only, where port 0 is refused (RFC 6335 §6: it is reserved). Protocols that the Network does not
// have at all (NoTCP and the like) come no further than the gateway.
func (p *Policy) Check(proto uint8, dst netip.AddrPort) Verdict {
	if dst.Port() == 0 && (proto == ip.UDP || proto == ip.TCP) {
		return Verdict{}
	}
	if p.noEgress {
		return Verdict{}
	}
	a := dst.Addr()
	for i := range p.maps {
		if p.maps[i].From == a {
			return Verdict{Allow: true, Dial: p.maps[i].To, Mapped: true}
		}
	}
	if p.hostLoopback && a.IsValid() {
		switch a {
		case p.gateway4:
			return Verdict{Allow: true, Dial: loopback4, Mapped: true}
		case p.gateway6:
			return Verdict{Allow: true, Dial: loopback6, Mapped: true}
		}
	}
	if a.Is4() && p.allow4(a, proto, dst.Port()) || a.Is6() && p.allow6(a, proto, dst.Port()) {
		return Verdict{Allow: true, Dial: a}
	}
	return Verdict{}
}

// closed reports whether a belongs to a Network or is refused by name.
func (p *Policy) closed(a netip.Addr, proto uint8, port uint16) bool {
	for i := range p.refuse {
		r := &p.refuse[i]
		if (r.proto == 0 || r.proto == proto && (r.port == 0 || r.port == port)) && r.prefix.Contains(a) {
			return true
		}
	}
	return !p.anyNeighbour && (p.subnet4.Contains(a) || p.subnet6.Contains(a)) || p.reserved.Contains(a)
}

// mapsAny reports whether any destination stands for an address of the host.
func (p *Policy) mapsAny() bool { return p.hostLoopback || len(p.maps) > 0 }

func (p *Policy) allow4(a netip.Addr, proto uint8, port uint16) bool {
	first := a.As4()[0]
	if first == 0 || first == 127 || first >= 224 { // 0/8, loopback, multicast, 240/4 and broadcast
		return false
	}
	if p.closed(a, proto, port) {
		return false
	}
	return p.metadata || !linkLocal4.Contains(a) && !isMetadata(a)
}

func (p *Policy) allow6(a netip.Addr, proto uint8, port uint16) bool {
	// A zone never comes from a packet; link-local addresses would need one to be dialled.
	if a.Is4In6() || a.Zone() != "" || a.IsMulticast() || a.IsLinkLocalUnicast() || ipv4Compat.Contains(a) {
		return false
	}
	if p.closed(a, proto, port) {
		return false
	}
	if v4, ok := embedded4(a); ok && !p.allow4(v4, proto, port) {
		return false
	}
	return p.metadata || !isMetadata(a)
}

// embedded4 returns the IPv4 address a translator on the way would send to.
func embedded4(a netip.Addr) (netip.Addr, bool) {
	b := a.As16()
	switch {
	case nat64.Contains(a), nat64Local.Contains(a):
		return netip.AddrFrom4([4]byte(b[12:16])), true
	case sixToFour.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case teredo.Contains(a): // the client's address, bits inverted
		return netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}), true
	}
	return netip.Addr{}, false
}

func isMetadata(a netip.Addr) bool {
	for i := range metadataAddrs {
		if a == metadataAddrs[i] {
			return true
		}
	}
	return false
}
