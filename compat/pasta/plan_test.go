package pasta

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/usernet/usernet/compat/pasta/forward"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// office is a host with two addresses of each family and a route of its own.
var office = Host{
	V4: Side{
		Device: "eth0", Addrs: []netip.Prefix{prefix("192.168.1.118/24"), prefix("10.9.0.1/16")}, Gateway: addr("192.168.1.1"),
		Routes: []Route{{Dst: prefix("172.20.0.0/16"), Via: addr("192.168.1.9"), Metric: 50}},
	},
	V6: Side{Device: "eth0", Addrs: []netip.Prefix{prefix("2001:db8::118/64"), prefix("fd00::118/128")}, Gateway: addr("fe80::1")},
}

// show is a plan in short.
func showPlan(p *Plan) string {
	var b strings.Builder
	put := func(name string, v any) {
		if s := fmt.Sprint(v); s != "" && s != "[]" && s != "invalid IP" && s != "invalid Prefix" && s != "0" && s != "false" {
			fmt.Fprintf(&b, "%s=%s ", name, s)
		}
	}
	n := &p.Network
	put("dev", p.Link.Name)
	put("mtu", n.MTU)
	put("a4", p.Link.Addr4)
	put("a6", p.Link.Addr6)
	put("more", p.Link.Addrs)
	for _, r := range p.Link.Routes {
		put("route", fmt.Sprintf("%v via %v metric %d", r.Dst, r.Via, r.Metric))
	}
	put("default4", p.Routes.Default4.Addr)
	put("default6", p.Routes.Default6.Addr)
	put("gw4", n.Gateway4)
	put("gw6", n.Gateway6)
	put("net4", n.Subnet4)
	put("net6", n.Subnet6)
	put("dns4", n.DNS4)
	put("dns6", n.DNS6)
	put("ask", p.DNS)
	for _, m := range n.Policy.Maps {
		put("map", fmt.Sprintf("%v>%v", m.From, m.To))
	}
	return strings.TrimSpace(b.String())
}

func TestPlan(t *testing.T) {
	// What every plan of the office has but for what an option changes.
	tests := []struct {
		name, args string
		host       Host
		resolv     []string
		want       string
	}{
		{"a copy of the host", "--config-net", office, nil,
			"dev=eth0 mtu=65520 a4=192.168.1.118/24 a6=2001:db8::118/64 more=[10.9.0.1/16 fd00::118/128] route=172.20.0.0/16 via 192.168.1.9 metric 50 " +
				"default4=192.168.1.1 default6=fe80::1 gw4=192.168.1.1 gw6=fe80::1 net4=192.168.1.0/24 net6=2001:db8::/64 map=192.168.1.1>127.0.0.1 map=fe80::1>::1"},
		{"for a guest that configures itself", "", office, nil,
			"dev=eth0 mtu=65520 gw4=192.168.1.1 gw6=fe80::1 net4=192.168.1.0/24 net6=2001:db8::/64 map=192.168.1.1>127.0.0.1 map=fe80::1>::1"},
		{"podman", "--config-net --dns-forward 169.254.1.1 --no-map-gw --quiet -4 --map-guest-addr 169.254.1.2", office, []string{"192.168.1.1"},
			"dev=eth0 mtu=65520 a4=192.168.1.118/24 more=[10.9.0.1/16] route=172.20.0.0/16 via 192.168.1.9 metric 50 default4=192.168.1.1 " +
				"gw4=192.168.1.1 net4=192.168.1.0/24 dns4=169.254.1.1 map=169.254.1.2>192.168.1.118"},
		{"podman's bridges", "--config-net --no-map-gw -6 --map-guest-addr fc00::2 --address fc00::3 --gateway fc00::1", office, nil,
			"dev=eth0 mtu=65520 a6=fc00::3/64 default6=fc00::1 gw6=fc00::1 net6=fc00::/64 map=fc00::2>2001:db8::118"},
		{"rootlesskit", "--ns-ifname=tap0 --mtu=65520 --config-net --address=10.0.2.100 --netmask=24 --gateway=10.0.2.2 --dns-forward=10.0.2.3 --ipv4-only", office, nil,
			"dev=tap0 mtu=65520 a4=10.0.2.100/24 default4=10.0.2.2 gw4=10.0.2.2 net4=10.0.2.0/24 dns4=10.0.2.3 map=10.0.2.2>127.0.0.1"},
		{"an address with a class", "--config-net -4 -a 10.0.2.100", office, nil,
			"dev=eth0 mtu=65520 a4=10.0.2.100/8 default4=192.168.1.1 gw4=192.168.1.1 net4=10.0.0.0/8 map=192.168.1.1>127.0.0.1"},
		{"a mask", "--config-net -4 -n 25", office, nil,
			"dev=eth0 mtu=65520 a4=192.168.1.118/25 route=172.20.0.0/16 via 192.168.1.9 metric 50 default4=192.168.1.1 gw4=192.168.1.1 net4=192.168.1.0/25 map=192.168.1.1>127.0.0.1"},
		{"no copies", "--config-net -4 --no-copy-routes --no-copy-addrs", office, nil,
			"dev=eth0 mtu=65520 a4=192.168.1.118/24 default4=192.168.1.1 gw4=192.168.1.1 net4=192.168.1.0/24 map=192.168.1.1>127.0.0.1"},
		{"local mode", "--config-net", Host{}, nil,
			"dev=tap0 mtu=65520 a4=169.254.2.1/16 default4=169.254.2.2 default6=fe80::1 gw4=169.254.2.2 gw6=fe80::1 net4=169.254.0.0/16 net6=fe80::/64 map=169.254.2.2>127.0.0.1 map=fe80::1>::1"},
		{"local mode with an address", "--config-net -4 -a 10.0.2.100/24 -g 10.0.2.2 -I x", Host{}, nil,
			"dev=x mtu=65520 a4=10.0.2.100/24 default4=10.0.2.2 gw4=10.0.2.2 net4=10.0.2.0/24 map=10.0.2.2>127.0.0.1"},
		{"IPv6 alone on the host", "--config-net", Host{V6: office.V6}, nil,
			"dev=eth0 mtu=65520 a4=169.254.2.1/16 a6=2001:db8::118/64 more=[fd00::118/128] default4=169.254.2.2 default6=fe80::1 gw4=169.254.2.2 gw6=fe80::1 " +
				"net4=169.254.0.0/16 net6=2001:db8::/64 map=169.254.2.2>127.0.0.1 map=fe80::1>::1"},
		{"no router", "--config-net -4", Host{V4: Side{Device: "dummy0", Addrs: []netip.Prefix{prefix("10.1.0.5/24")}}}, nil,
			"dev=dummy0 mtu=65520 a4=10.1.0.5/24 gw4=169.254.2.2 net4=10.1.0.0/24 map=169.254.2.2>127.0.0.1"},
		{"an address for the host's loopback", "--config-net -4 --map-host-loopback 10.5.5.5", office, []string{"127.0.0.53"},
			"dev=eth0 mtu=65520 a4=192.168.1.118/24 more=[10.9.0.1/16] route=172.20.0.0/16 via 192.168.1.9 metric 50 default4=192.168.1.1 " +
				"gw4=192.168.1.1 net4=192.168.1.0/24 dns4=10.5.5.5 map=10.5.5.5>127.0.0.1"},
		{"the router is the name server", "--config-net -4", office, []string{"192.168.1.1"},
			"dev=eth0 mtu=65520 a4=192.168.1.118/24 more=[10.9.0.1/16] route=172.20.0.0/16 via 192.168.1.9 metric 50 default4=192.168.1.1 " +
				"gw4=192.168.1.1 net4=192.168.1.0/24 dns4=192.168.1.1 map=192.168.1.1>127.0.0.1"},
		{"a server that cannot be reached", "--config-net -4 --no-map-gw", office, []string{"127.0.0.53"},
			"dev=eth0 mtu=65520 a4=192.168.1.118/24 more=[10.9.0.1/16] route=172.20.0.0/16 via 192.168.1.9 metric 50 default4=192.168.1.1 gw4=192.168.1.1 net4=192.168.1.0/24"},
		{"names by DHCP", "-4 --dhcp-dns -D 9.9.9.9 --no-map-gw", office, []string{"127.0.0.53"},
			"dev=eth0 mtu=65520 gw4=192.168.1.1 net4=192.168.1.0/24 dns4=9.9.9.9 ask=[9.9.9.9:53]"},
		{"whom to ask", "-4 --dns-forward 10.0.0.3 -D 9.9.9.9 --dns-host 127.0.0.53 --no-map-gw", office, nil,
			"dev=eth0 mtu=65520 gw4=192.168.1.1 net4=192.168.1.0/24 dns4=10.0.0.3 ask=[127.0.0.53:53]"},
		{"no MTU", "-4 -m 0 --no-map-gw", office, nil, "dev=eth0 mtu=1500 gw4=192.168.1.1 net4=192.168.1.0/24"},
		{"an MTU that IPv6 cannot have", "-m 1000 --no-map-gw", office, nil, "dev=eth0 mtu=1000 gw4=192.168.1.1 net4=192.168.1.0/24"},
	}
	for _, tt := range tests {
		o, err := Parse(append(append([]string{"pasta"}, strings.Fields(tt.args)...), "1"))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var r Resolv
		for _, s := range tt.resolv {
			r.Servers = append(r.Servers, addr(s))
		}
		p, err := makePlan(o, tt.host, r)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		} else if got := showPlan(p); got != tt.want {
			t.Errorf("%s: got\n%s\nwant\n%s", tt.name, got, tt.want)
		}
	}
}

func TestPlanRefused(t *testing.T) {
	for args, want := range map[string]string{
		"--outbound-if4 eth7":             "External interface not usable",
		"-m 60":                           "MTU 60 is too small",
		"-6 -m 1000":                      "MTU 1000 is too small",
		"--ns-mac-addr 9a:55:9a:55:9a:55": "is the gateway's",
	} {
		o, err := Parse(append(append([]string{"pasta"}, strings.Fields(args)...), "1"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := makePlan(o, Host{}, Resolv{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}

// TestPlanSwitches: what only says yes or no goes where it belongs.
func TestPlanSwitches(t *testing.T) {
	o, err := Parse(strings.Fields("pasta --no-tcp --no-udp --no-icmp --no-dhcp --no-dhcpv6 --no-ra --dhcp-search -S a -S b -H h --fqdn h.a -M 02:00:00:00:00:02 --ns-mac-addr 02:00:00:00:00:01 --outbound-if4 eth0 -o 192.168.1.118 1"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := makePlan(o, office, Resolv{Search: []string{"lan"}})
	if err != nil {
		t.Fatal(err)
	}
	n, a := p.Network, p.Network.Autoconf
	if !n.Policy.NoTCP || !n.Policy.NoUDP || !n.Policy.NoICMP || !n.Policy.Metadata || !n.AnyNeighbour || p.Endpoint.Strict {
		t.Errorf("policy %+v", n.Policy)
	}
	if !a.NoDHCP4 || !a.NoDHCP6 || !a.NoRA || !a.NoNDP || !a.NoDHCPDNS || a.NoDHCPSearch || a.Hostname != "h" || a.FQDN != "h.a" {
		t.Errorf("autoconf %+v", a)
	}
	if strings.Join(n.DNSSearch, " ") != "a b" || n.OutboundDevice4 != "eth0" || n.Outbound4 != addr("192.168.1.118") {
		t.Errorf("network %+v", n)
	}
	if n.GatewayMAC.String() != "02:00:00:00:00:02" || p.Link.MAC.String() != "02:00:00:00:00:01" || !p.Link.Down {
		t.Errorf("link %+v, gateway %v", p.Link, n.GatewayMAC)
	}
}

func TestTables(t *testing.T) {
	eph := forward.Ports{First: 32768, Last: 60999}
	tests := []struct {
		args    string
		v4, v6  bool
		in, out int
	}{
		{"-t none -u none -T none -U none", true, true, 0, 0},
		{"-t 22 -u none -T none -U 53", true, true, 1, 1},
		{"", true, true, 4, 4},
		{"--no-tcp -u none -U none", true, true, 0, 0},
		{"--no-udp -t 22 -T none", true, false, 1, 0},
	}
	for _, tt := range tests {
		o, err := Parse(append([]string{"pasta"}, strings.Fields(tt.args)...))
		if err != nil {
			t.Fatal(err)
		}
		in, out, err := o.Tables(tt.v4, tt.v6, eph)
		if err != nil || len(in.Rules) != tt.in || len(out.Rules) != tt.out {
			t.Errorf("%s: %v, in %v, out %v", tt.args, err, in.Rules, out.Rules)
		}
	}
	o := &Options{Forward: []ForwardOption{{forward.InTCP, "22"}, {forward.InTCP, "22"}}}
	if _, _, err := o.Tables(true, true, eph); err == nil || !strings.Contains(err.Error(), "conflict") {
		t.Error(err)
	}
}
