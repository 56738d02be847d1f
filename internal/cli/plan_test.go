package cli

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/usernet/usernet/stack/l2"
)

// checkPlan: whatever the flags, the addresses of a plan are different members of its subnets.
func checkPlan(t *testing.T, p *plan) {
	t.Helper()
	n := p.network
	families := []struct {
		subnet netip.Prefix
		all    []netip.Addr
	}{
		{n.Subnet4, []netip.Addr{n.Gateway4, n.DNS4, p.link.Addr4.Addr()}},
		{n.Subnet6, []netip.Addr{n.Gateway6, n.DNS6, p.link.Addr6.Addr()}},
	}
	for _, f := range families {
		seen := map[netip.Addr]bool{f.subnet.Addr(): true}
		if f.subnet.IsValid() && f.subnet.Addr().Is4() {
			seen[lastOf(f.subnet)] = true
		}
		for _, a := range f.all {
			if f.subnet.IsValid() && (!f.subnet.Contains(a) || seen[a]) {
				t.Errorf("%v is not an own address in %v: %+v", a, f.subnet, p)
			}
			seen[a] = true
		}
	}
	if p.link.MAC == n.GatewayMAC || p.link.MAC.IsZero() || p.link.MAC.IsMulticast() || n.GatewayMAC.IsMulticast() {
		t.Errorf("MAC addresses %v and %v", p.link.MAC, n.GatewayMAC)
	}
}

func options(change func(*netOptions)) *netOptions {
	o := &netOptions{mtu: defaultMTU, ipv6: true}
	if change != nil {
		change(o)
	}
	return o
}

func TestDefaultPlan(t *testing.T) {
	p, err := makePlan(options(nil), "id", "eth0")
	if err != nil {
		t.Fatal(err)
	}
	checkPlan(t, p)
	for got, want := range map[string]string{
		p.network.Gateway4.String(): "10.0.2.2", p.network.DNS4.String(): "10.0.2.3", p.link.Addr4.String(): "10.0.2.100/24",
		p.network.Gateway6.String(): "fd00::2", p.network.DNS6.String(): "fd00::3", p.link.Addr6.String(): "fd00::100/64",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if p.network.Policy.HostLoopback || p.network.Policy.Metadata {
		t.Error("the defaults are not safe")
	}
}

func TestPlans(t *testing.T) {
	sub := func(ss ...string) func(*netOptions) {
		return func(o *netOptions) {
			for _, s := range ss {
				o.subnets = append(o.subnets, netip.MustParsePrefix(s))
			}
		}
	}
	with := func(fs ...func(*netOptions)) func(*netOptions) {
		return func(o *netOptions) {
			for _, f := range fs {
				f(o)
			}
		}
	}
	ip := func(s string) func(*netOptions) { return func(o *netOptions) { o.ip = netip.MustParseAddr(s) } }
	ip6 := func(s string) func(*netOptions) { return func(o *netOptions) { o.ip6 = netip.MustParseAddr(s) } }
	mtu := func(n int) func(*netOptions) { return func(o *netOptions) { o.mtu = n } }
	noIPv6 := func(o *netOptions) { o.ipv6 = false }
	tests := []struct {
		name   string
		change func(*netOptions)
		addrs  string // of the sandbox; empty when the flags are refused
		err    string
	}{
		{"own subnets", sub("192.168.7.0/24", "fd12:3456::/48"), "192.168.7.100/24 fd12:3456::100/48", ""},
		{"own addresses", with(ip("10.0.2.15"), ip6("fd00::15")), "10.0.2.15/24 fd00::15/64", ""},
		{"small subnet", sub("192.168.7.0/29"), "192.168.7.4/29 fd00::100/64", ""},
		{"100 is the broadcast address", sub("192.168.7.64/26"), "192.168.7.68/26 fd00::100/64", ""},
		{"small IPv6 subnet", sub("fd00::/125"), "10.0.2.100/24 fd00::4/125", ""},
		{"without IPv6", with(noIPv6, mtu(576)), "10.0.2.100/24 invalid Prefix", ""},
		{"jumbo", mtu(65521), "10.0.2.100/24 fd00::100/64", ""},

		{"too small", sub("192.168.7.0/30"), "", "want a prefix of 8 to 29 bits"},
		{"too large", sub("0.0.0.0/0"), "", "want a prefix of"},
		{"loopback", sub("127.0.0.0/24"), "", "ordinary addresses"},
		{"multicast", sub("224.1.0.0/24"), "", "ordinary addresses"},
		{"link-local", sub("fe80::/64"), "", "ordinary addresses"},
		{"zero network", sub("0.1.0.0/16"), "", "ordinary addresses"},
		{"reserved", sub("240.1.0.0/16"), "", "ordinary addresses"},
		{"two of a family", sub("10.1.0.0/24", "10.2.0.0/24"), "", "one of its family"},
		{"not in the subnet", ip("10.0.3.1"), "", "not in the subnet 10.0.2.0/24; give another with --subnet"},
		{"the gateway's", ip("10.0.2.2"), "", "gateway's"},
		{"the DNS server's", ip6("fd00::3"), "", "DNS server's"},
		{"the subnet's own", ip("10.0.2.0"), "", "the subnet itself"},
		{"broadcast", ip("10.0.2.255"), "", "broadcast"},
		{"MTU too small for IPv6", mtu(1000), "", "want 1280 to 65521, or less with --ipv6=false"},
		{"MTU too small", with(noIPv6, mtu(67)), "", "want 68"},
		{"MTU too large", mtu(65522), "", "want 1280 to 65521"},
		{"IPv6 off and asked for", with(noIPv6, ip6("fd00::15")), "", "contradicts"},
		{"IPv6 off and a subnet", with(noIPv6, sub("fd00::/64")), "", "contradicts"},
		{"the gateway's MAC", func(o *netOptions) { o.mac = stationMAC(0x52, netip.MustParseAddr("10.0.2.2")) }, "", "the gateway's"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := makePlan(options(tt.change), "id", "eth0")
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			checkPlan(t, p)
			if got := p.link.Addr4.String() + " " + p.link.Addr6.String(); got != tt.addrs {
				t.Errorf("addresses %s, want %s", got, tt.addrs)
			}
		})
	}
}

func TestPlanKeepsMAC(t *testing.T) {
	m := l2.MAC{2, 0, 0, 0, 0, 9}
	p, err := makePlan(options(func(o *netOptions) { o.mac = m }), "id", "eth0")
	if err != nil || p.link.MAC != m || p.endpoint.MAC != m {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestLastOf compares with counting up.
func TestLastOf(t *testing.T) {
	for bits := 16; bits <= 32; bits++ {
		p := netip.PrefixFrom(netip.MustParseAddr("10.7.0.0"), bits)
		last := p.Addr()
		for a := last; p.Contains(a); a = a.Next() {
			last = a
		}
		if got := lastOf(p); got != last {
			t.Errorf("%v: %v, want %v", p, got, last)
		}
	}
}
