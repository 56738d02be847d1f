package portfwd

import (
	"net/netip"
	"testing"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// TestRoute is LU-12 and the family rule: what a container sees of each kind of client.
func TestRoute(t *testing.T) {
	src := sources{
		gateway4: gateway4, gateway6: gateway6,
		subnets: []netip.Prefix{netip.MustParsePrefix("10.0.2.0/24"), netip.MustParsePrefix("fd00::/64")},
	}
	only4, only6 := Target{Addr4: both.Addr4}, Target{Addr6: both.Addr6}
	rows := []struct {
		name, client string
		target       Target
		from, to     string
	}{
		{"remote keeps its address", "198.51.100.7:4000", both, "198.51.100.7:4000", "10.0.2.100:80"},
		{"remote by IPv6", "[2001:db8::7]:4000", both, "[2001:db8::7]:4000", "[fd00::100]:80"},
		{"a private address outside the subnets", "192.168.1.5:4000", both, "192.168.1.5:4000", "10.0.2.100:80"},
		{"loopback", "127.0.0.1:4000", both, "10.0.2.2:4000", "10.0.2.100:80"},
		{"all of 127/8", "127.8.9.1:4000", both, "10.0.2.2:4000", "10.0.2.100:80"},
		{"loopback by IPv6", "[::1]:4000", both, "[fd00::2]:4000", "[fd00::100]:80"},
		{"v4-mapped", "[::ffff:198.51.100.7]:4000", both, "[fd00::2]:4000", "[fd00::100]:80"},
		{"v4-mapped loopback to IPv4", "[::ffff:127.0.0.1]:4000", only4, "10.0.2.2:4000", "10.0.2.100:80"},
		{"link-local", "[fe80::1%eth0]:4000", both, "[fd00::2]:4000", "[fd00::100]:80"},
		{"link-local by IPv4", "169.254.1.1:4000", both, "10.0.2.2:4000", "10.0.2.100:80"},
		{"inside the subnet", "10.0.2.7:4000", both, "10.0.2.2:4000", "10.0.2.100:80"},
		{"inside the IPv6 subnet", "[fd00::7]:4000", both, "[fd00::2]:4000", "[fd00::100]:80"},
		{"unspecified", "0.0.0.0:4000", both, "10.0.2.2:4000", "10.0.2.100:80"},
		{"this network", "0.1.2.3:4000", both, "10.0.2.2:4000", "10.0.2.100:80"},
		{"class E", "240.0.0.1:4000", both, "10.0.2.2:4000", "10.0.2.100:80"},
		{"IPv6 client of an IPv4 container", "[2001:db8::7]:4000", only4, "10.0.2.2:4000", "10.0.2.100:80"},
		{"IPv4 client of an IPv6 container", "198.51.100.7:4000", only6, "[fd00::2]:4000", "[fd00::100]:80"},
		{"the container's own address", "198.51.100.9:1", Target{Addr4: addr("198.51.100.9")}, "10.0.2.2:1", "198.51.100.9:80"},
	}
	for _, r := range rows {
		from, to := src.route(ap(r.client), r.target, 80)
		if from != ap(r.from) || to != ap(r.to) {
			t.Errorf("%s: %s is seen as %v by %v, want %s by %s", r.name, r.client, from, to, r.from, r.to)
		}
	}
}
