package cli

import (
	"net/netip"

	"github.com/spf13/pflag"

	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/l2"
)

// netOptions are the flags that describe a private Network and the one Endpoint in it; run and
// attach share them.
type netOptions struct {
	publish      []portfwd.Spec
	name         string
	subnets      []netip.Prefix
	ip, ip6      netip.Addr
	mac          l2.MAC
	mtu          int
	ipv6         bool
	dns          []netip.AddrPort
	search       []string
	hosts        []extraHost
	hostLoopback bool
	metadata     bool
	outbound     netip.Addr
	outbound6    netip.Addr
	pcap         string
	log          logOptions
}

// defaultMTU is Ethernet's: frames are moved in units of 64 KiB whatever it is.
const defaultMTU = 1500

func showAddr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// addNetFlags defines the shared flags.
func addNetFlags(fs *pflag.FlagSet, o *netOptions) {
	fs.VarP(&list[portfwd.Spec]{to: &o.publish, parse: portfwd.Parse, kind: "port"}, "publish", "p",
		"Publish a port to the host: [HOSTIP:]HOSTPORT[-END]:PORT[-END][/tcp|udp]; without HOSTPORT a free one")
	fs.Var(&value[string]{to: &o.name, parse: parseName, show: identity, kind: "name"}, "name",
		"Name the sandbox, for ps and port")
	fs.Var(&list[netip.Prefix]{to: &o.subnets, parse: one(parseSubnet), kind: "cidr"}, "subnet",
		"Subnet of the private network, one for each of IPv4 (default 10.0.2.0/24) and IPv6 (default fd00::/64)")
	fs.Var(&value[netip.Addr]{to: &o.ip, parse: parseAddr4, show: showAddr, kind: "ip"}, "ip",
		"IPv4 address of the sandbox (default the 100th of the subnet)")
	fs.Var(&value[netip.Addr]{to: &o.ip6, parse: parseAddr6, show: showAddr, kind: "ip"}, "ip6",
		"IPv6 address of the sandbox (default ::100 of the subnet)")
	fs.Var(&value[l2.MAC]{to: &o.mac, parse: parseMAC, show: showMAC, kind: "mac"}, "mac-address",
		"MAC address of the sandbox (default made from its IP address)")
	fs.IntVar(&o.mtu, "mtu", defaultMTU, "MTU of the interface in the sandbox")
	fs.BoolVar(&o.ipv6, "ipv6", true, "Give the sandbox IPv6")
	fs.Var(&list[netip.AddrPort]{to: &o.dns, parse: one(parseServer), kind: "ip[:port]"}, "dns",
		"DNS server the network's resolver asks (default those of the host)")
	fs.Var(&list[string]{to: &o.search, parse: one(parseWord), kind: "domain"}, "dns-search",
		"Domain for names without a dot; . for none (default those of the host)")
	fs.Var(&list[extraHost]{to: &o.hosts, parse: one(parseExtraHost), kind: "name:addr"}, "add-host",
		"Name for an address; host-gateway stands for the host's")
	fs.BoolVar(&o.hostLoopback, "host-loopback", false,
		"Let the gateway address stand for 127.0.0.1 and ::1 of the host")
	fs.BoolVar(&o.metadata, "allow-metadata", false,
		"Let the sandbox reach cloud metadata services such as 169.254.169.254")
	fs.Var(&value[netip.Addr]{to: &o.outbound, parse: parseAddr4, show: showAddr, kind: "ip"}, "outbound-addr",
		"IPv4 address of the host that connections to the outside come from")
	fs.Var(&value[netip.Addr]{to: &o.outbound6, parse: parseAddr6, show: showAddr, kind: "ip"}, "outbound-addr6",
		"IPv6 address of the host that connections to the outside come from")
	fs.StringVar(&o.pcap, "pcap", "", "Write every frame to `FILE`, for tcpdump or wireshark")
	addLogFlags(fs, &o.log)
}

func identity(s string) string { return s }

func showMAC(m l2.MAC) string {
	if m.IsZero() {
		return ""
	}
	return m.String()
}
