package portfwd

import (
	"net/netip"
	"testing"

	"github.com/usernet/usernet/stack/spec"
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

// TestRouteHostAddress: a container with the host's own addresses, on what it takes for the host's LAN, sees every client
// that is not the host, and the host as what stands for it.
func TestRouteHostAddress(t *testing.T) {
	m := func(from, to string) spec.AddrMap { return spec.AddrMap{From: addr(from), To: addr(to)} }
	src := sources{
		gateway4: addr("192.168.1.1"), gateway6: addr("fe80::1"),
		maps: []spec.AddrMap{m("169.254.1.2", "192.168.1.5"), m("169.254.1.3", "127.0.0.1"), m("fe80::3", "::1")},
	}
	own := Target{
		Addr4: addr("192.168.1.5"), Addr6: addr("2001:db8::5"),
		Own: []netip.Addr{addr("192.168.1.5"), addr("192.168.1.6"), addr("2001:db8::5")},
	}
	rows := []struct {
		name, client string
		target       Target
		from, to     string
	}{
		{"a neighbour on the LAN", "192.168.1.7:4000", own, "192.168.1.7:4000", "192.168.1.5:80"},
		{"by IPv6", "[2001:db8::7]:4000", own, "[2001:db8::7]:4000", "[2001:db8::5]:80"},
		{"the host's address that is mapped", "192.168.1.5:4000", own, "169.254.1.2:4000", "192.168.1.5:80"},
		{"another of the container's", "192.168.1.6:4000", own, "192.168.1.1:4000", "192.168.1.5:80"},
		{"the host's IPv6 address", "[2001:db8::5]:4000", own, "[fe80::1]:4000", "[2001:db8::5]:80"},
		{"loopback", "127.0.0.1:4000", own, "169.254.1.3:4000", "192.168.1.5:80"},
		{"the rest of 127/8", "127.0.0.2:4000", own, "192.168.1.1:4000", "192.168.1.5:80"},
		{"loopback by IPv6", "[::1]:4000", own, "[fe80::3]:4000", "[2001:db8::5]:80"},
		{"an address behind the container", "192.168.1.7:4000", own.narrow(addr("10.89.0.2")), "192.168.1.7:4000", "10.89.0.2:80"},
		{"and an IPv6 client of it", "[2001:db8::7]:4000", own.narrow(addr("10.89.0.2")), "192.168.1.1:4000", "10.89.0.2:80"},
		{"an IPv6 address behind it", "[2001:db8::7]:4000", own.narrow(addr("fd00:1::2")), "[2001:db8::7]:4000", "[fd00:1::2]:80"},
		{"the host's, of an address behind it", "192.168.1.5:4000", own.narrow(addr("10.89.0.2")), "169.254.1.2:4000", "10.89.0.2:80"},
	}
	for _, r := range rows {
		from, to := src.route(ap(r.client), r.target, 80)
		if from != ap(r.from) || to != ap(r.to) {
			t.Errorf("%s: %s is seen as %v by %v, want %s by %s", r.name, r.client, from, to, r.from, r.to)
		}
	}
}
