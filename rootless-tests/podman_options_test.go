package rootlesstests

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// option is one of --network NAME:, with the questions that show what it does.
type option struct {
	text   string
	ask    []asker
	differ map[string]difference
}

func (o *option) run(t *testing.T, w *world, v version, name string) {
	t.Run(o.text, func(t *testing.T) {
		k := podmanCase{version: v, network: name + ":" + o.text, ask: o.ask, differ: o.differ}
		k.run(t, w)
	})
}

// The options of --network slirp4netns.
func TestPodmanSlirpOptions(t *testing.T) {
	w := newWorld(t, podman4)
	for _, o := range []option{
		{"mtu=1400", []asker{configured, outside}, slirpDiffers("fe80::5055:aff:fe00:202")},
		{"cidr=10.0.9.0/24,mtu=20000", []asker{configured, named, outside, hostAt(netip.MustParseAddr("10.0.9.2"))}, slirpDiffers("fe80::5055:aff:fe00:902")},
		{"enable_ipv6=false", []asker{configured4, named}, nil},
		{"allow_host_loopback=true", []asker{hostAt(rig.Gateway4, slirp6)}, nil},
		{"outbound_addr=203.0.113.3", []asker{outside}, nil},
		{"outbound_addr=eth0", []asker{outside}, nil},
		{"outbound_addr6=fd01::3", []asker{outside}, nil},
		{"port_handler=slirp4netns", []asker{configured, outside}, slirpDiffers("fe80::5055:aff:fe00:202")},
	} {
		o.run(t, w, podman4, "slirp4netns")
	}
}

// The options of --network pasta.
func TestPodmanPastaOptions(t *testing.T) {
	w := newWorld(t, podman5)
	mapped := netip.MustParseAddr("10.9.9.7")
	for _, o := range []option{
		{"-I,tap7", []asker{configured, outside, pingOutside6}, nil},
		{"--ns-mac-addr,02:00:00:00:00:07", []asker{configured, macs}, nil},
		{"--mtu,1400", []asker{configured, outside, pingOutside6}, nil},
		{"-a,10.9.9.5,-n,24,-g,10.9.9.1", []asker{configured, outside}, nil},
		{"-a,fd09::5,-g,fd09::1", []asker{configured, outside, pingOutside6}, nil},
		{"-i,eth0", []asker{configured, outside}, nil},
		{"-4", []asker{configured4}, nil},
		{"-6", []asker{configured, pingOutside6}, nil},
		{"--map-gw", []asker{hostAt(rig.R4, rig.R6)}, nil},
		{"--map-host-loopback,10.9.9.7", []asker{hostAt(mapped)}, nil},
		{"--map-guest-addr,10.9.9.7", []asker{hostAt(mapped)}, nil},
		{"--dns-forward,10.9.9.7", []asker{named}, nil},
		{fmt.Sprintf("-T,%d,-T,%d", w.loopback["IPv4"], w.loopback["IPv6"]),
			[]asker{hostAt(netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback())}, nil},
		{"-o,203.0.113.3", []asker{outside}, nil},
		{"-o,fd01::3", []asker{outside, pingOutside6}, nil},
		{"--outbound-if4,eth0,--outbound-if6,eth0", []asker{outside, pingOutside6}, nil},
		{"--no-tcp", []asker{without("tcp")}, nil},
		{"--no-udp", []asker{without("udp")}, nil},
		{"--no-icmp", []asker{without("icmp")}, nil},
		{"--no-ra,--no-ndp,--no-dhcp,--no-dhcpv6", []asker{configured}, nil},
	} {
		o.run(t, w, podman5, "pasta")
	}
}
