// Package spec holds what control tells the datapath about Networks and Endpoints: inert, JSON.
//
// It is a leaf, so that control can speak of a Network without linking the code that moves packets.
package spec

import (
	"net/netip"

	"github.com/usernet/usernet/stack/l2"
)

// Network is what control says about one Network. It is inert: JSON in, JSON out; it becomes a
// live Network in the datapath process.
type Network struct {
	// ID names the Network between control and the datapath.
	ID   string `json:"id"`
	Name string `json:"name"`
	// MTU is the container-side MTU in layer 3 bytes, 68 to 65535 (1280 at least with IPv6).
	MTU int `json:"mtu"`

	// Subnet4 and Subnet6 are the Network's prefixes; the zero Prefix switches the family off.
	Subnet4 netip.Prefix `json:"subnet4,omitzero"`
	Subnet6 netip.Prefix `json:"subnet6,omitzero"`
	// Gateway4 and Gateway6 are the addresses containers route through.
	Gateway4 netip.Addr `json:"gateway4,omitzero"`
	Gateway6 netip.Addr `json:"gateway6,omitzero"`
	// DNS4 and DNS6 are where the Network's name server answers, on port 53 and on no other.
	DNS4 netip.Addr `json:"dns4,omitzero"`
	DNS6 netip.Addr `json:"dns6,omitzero"`
	// DNSSearch are the domains that guests which configure themselves are told to try for short names.
	DNSSearch []string `json:"dns_search,omitempty"`
	// GatewayMAC is the link address of all four.
	GatewayMAC l2.MAC `json:"gateway_mac,omitzero"`

	// NoNames means that Endpoints have no names here (Docker's default bridge); the DNS addresses forward.
	NoNames bool `json:"no_names,omitempty"`
	// Apart means that containers do not talk to each other (icc off), except where an Endpoint accepts it.
	Apart bool `json:"apart,omitempty"`
	// NoGateway means that the gateway addresses answer nothing and route nothing (gateway mode
	// isolated); the resolver at 127.0.0.11 works nevertheless.
	NoGateway bool `json:"no_gateway,omitempty"`
	// AnyNeighbour means that the gateway answers ARP and neighbour solicitations for every address that is no
	// Endpoint's: the container has the host's own address and routes, and believes that its LAN and its router are on
	// the link. Its subnets are then no more than that belief: gateways and name servers may lie outside of them,
	// and what is in them may be reached like any other destination.
	AnyNeighbour bool `json:"any_neighbour,omitempty"`
	// Autoconf says what guests that configure themselves are not told, or told beyond the fields above.
	Autoconf Autoconf `json:"autoconf,omitzero"`

	// Policy says what containers may reach.
	Policy Policy `json:"policy"`
	// Outbound4 and Outbound6 are the host addresses new flows leave from; zero lets the kernel choose.
	Outbound4 netip.Addr `json:"outbound4,omitzero"`
	Outbound6 netip.Addr `json:"outbound6,omitzero"`
	// OutboundDevice4 and OutboundDevice6 are the host interfaces new flows leave by; empty leaves it to the routes.
	// Flows to the host itself, by Maps or HostLoopback, are not bound to them.
	OutboundDevice4 string `json:"outbound_device4,omitempty"`
	OutboundDevice6 string `json:"outbound_device6,omitempty"`
	// Limits are the bounds of one container; zero fields mean the defaults.
	Limits Limits `json:"limits,omitzero"`
}

// Policy says which destinations outside a container may reach. Everything not named here that
// is an ordinary unicast address is allowed.
type Policy struct {
	// NoEgress means that nothing leaves the Network: --internal, or no masquerading. The gateway's own
	// addresses and the DNS answer.
	NoEgress bool `json:"no_egress,omitempty"`
	// HostLoopback lets the gateway addresses stand for 127.0.0.1 and ::1 of the host.
	HostLoopback bool `json:"host_loopback,omitempty"`
	// HostUnreachable means that TCP to the gateway's own addresses, where it leads nowhere, finds the network
	// unreachable instead of being refused. So answers slirp4netns without its host's loopback, and callers look for it.
	HostUnreachable bool `json:"host_unreachable,omitempty"`
	// Metadata lets the cloud metadata addresses through.
	Metadata bool `json:"metadata,omitempty"`
	// Refuse are destinations that are refused whatever else is allowed: VXLAN ports of peers, key-value
	// stores (reliability HC-33, HC-34).
	Refuse []Refused `json:"refuse,omitempty"`
	// Maps are addresses that stand for ones of the host. They are allowed whatever else is refused, but for NoEgress
	// and the protocols below. The first that fits counts, and comes before HostLoopback.
	Maps []AddrMap `json:"maps,omitempty"`
	// NoTCP, NoUDP and NoICMP mean that what a container sends of the protocol, of ICMP the pings, is dropped without an
	// answer, whatever the destination; DNS is no exception, DHCP is one.
	NoTCP  bool `json:"no_tcp,omitempty"`
	NoUDP  bool `json:"no_udp,omitempty"`
	NoICMP bool `json:"no_icmp,omitempty"`
}

// AddrMap leads flows to From to the host's address To: 127.0.0.1, ::1 or one of the host's own. Answers come
// from From. Both are of one family and have no zone; neither is a group's.
type AddrMap struct {
	From netip.Addr `json:"from"`
	To   netip.Addr `json:"to"`
}

// Refused is a set of destinations.
type Refused struct {
	Prefix netip.Prefix `json:"prefix"`
	// Proto is tcp or udp; empty means every protocol, and then Port is zero.
	Proto string `json:"proto,omitempty"`
	// Port is zero for every port.
	Port uint16 `json:"port,omitempty"`
}

// Limits bound what one container can make the datapath hold (reliability: a container is a subscriber
// in the sense of RFC 6888). Zero means the default.
type Limits struct {
	TCPFlows      int `json:"tcp_flows,omitempty"`
	TCPHandshakes int `json:"tcp_handshakes,omitempty"`
	UDPFlows      int `json:"udp_flows,omitempty"`
	PingFlows     int `json:"ping_flows,omitempty"`
	DNSQueries    int `json:"dns_queries,omitempty"`
	// UDPIdle in milliseconds; for tests. Zero means 300 s, and 30 s for port 53.
	UDPIdleMillis int `json:"udp_idle_millis,omitempty"`
}

// Autoconf is what guests that configure themselves (DHCPv4, router solicitations, DHCPv6) find. The zero value
// answers them with what the Network has.
type Autoconf struct {
	// NoDHCP4, NoDHCP6 and NoRA silence one of the three. NoNDP silences neighbour discovery altogether, router
	// advertisements included.
	NoDHCP4 bool `json:"no_dhcp4,omitempty"`
	NoDHCP6 bool `json:"no_dhcp6,omitempty"`
	NoRA    bool `json:"no_ra,omitempty"`
	NoNDP   bool `json:"no_ndp,omitempty"`
	// Lease is the IPv4 address that DHCP gives an Endpoint which is not Strict, in place of that of its Addrs; it
	// may send from it then. Zero: that of its Addrs. It makes sense for a Network with one Endpoint.
	Lease netip.Addr `json:"lease,omitzero"`
	// Lease6 is the IPv6 address that DHCPv6 gives whoever asks for one, for ever. Zero: none is given, as guests make
	// their own from the prefix. It makes sense for a Network with one Endpoint, which has it among its Addrs.
	Lease6 netip.Addr `json:"lease6,omitzero"`
	// NoDHCPDNS and NoDHCPSearch leave name servers and search domains out of all three.
	NoDHCPDNS    bool `json:"no_dhcp_dns,omitempty"`
	NoDHCPSearch bool `json:"no_dhcp_search,omitempty"`
	// Hostname is what a guest is told to call itself (DHCPv4 option 12), in place of the Endpoint's first name.
	Hostname string `json:"hostname,omitempty"`
	// FQDN is its whole name (option 81 of DHCPv4, 39 of DHCPv6).
	FQDN string `json:"fqdn,omitempty"`
}

// Endpoint is what control says about one container's leg in a Network.
type Endpoint struct {
	ID string `json:"id"`
	// Interface is the name of the TAP in the container, for logs.
	Interface string `json:"interface"`
	MAC       l2.MAC `json:"mac,omitzero"`
	// Addrs are the container's addresses; the switch lets no other source through.
	Addrs []netip.Addr `json:"addrs"`
	// Strict binds the port to MAC and Addrs alone. It is off for guests whose addresses control
	// does not know (a guest that configures itself): then the subnets bound the sources.
	Strict bool `json:"strict"`
	// Names resolve to Addrs in the Network's DNS; the first is what the reverse lookup says.
	Names []string `json:"names,omitempty"`
	// Resolver says what the container's own queries are answered from.
	Resolver Resolver `json:"resolver,omitzero"`
	// Accept are holes in a Network whose containers may not talk to each other (Network.Apart).
	Accept []Accept `json:"accept,omitempty"`
}

// LoopbackDNS is where the resolver of every container answers, on port 53 and on no other, as Docker's does. A
// container's kernel is told to send what is for it to the gateway; no process of the container's listens there.
var LoopbackDNS = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// Resolver is one container's view of names. Docker's resolver belongs to a container, not to a
// network: it looks a name up in all networks of the container, in order. The zero value sees the
// names of the Endpoint's own Network and forwards the rest.
type Resolver struct {
	// Networks are the IDs of the Networks whose names are seen, in order; nil means its own alone.
	Networks []string `json:"networks,omitempty"`
	// Links are aliases that this container alone sees; each stands for names, looked up when asked for.
	Links map[string][]string `json:"links,omitempty"`
	// Upstreams are asked for what is not known here, in place of the Network's.
	Upstreams []netip.AddrPort `json:"upstreams,omitempty"`
	// Closed means that nothing is forwarded (all its Networks are internal).
	Closed bool `json:"closed,omitempty"`
	// NDots means that an unknown name without a dot is not forwarded: NOERROR without data, so that
	// the client goes on with its search list.
	NDots bool `json:"ndots,omitempty"`
}

// Accept lets the Endpoint From reach this one on a port, and the answers back, where icc is off.
type Accept struct {
	From  string `json:"from"`  // id of an Endpoint of the same Network
	Proto string `json:"proto"` // tcp or udp
	Port  uint16 `json:"port"`
}
