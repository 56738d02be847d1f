package gateway

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// lan is a Network whose container has the host's own address, and believes in a LAN with a router.
func lan(c *Config) {
	c.Spec.AnyNeighbour = true
	c.Spec.DNS4, c.Spec.DNS6 = netip.MustParseAddr("169.254.1.1"), netip.Addr{}
	c.Spec.Gateway6 = netip.MustParseAddr("fe80::1")
}

// TestAnyNeighbourARP: the gateway has every address that is no container's, and none that one is about to take.
func TestAnyNeighbourARP(t *testing.T) {
	zero := netip.IPv4Unspecified()
	for _, tc := range []struct {
		name         string
		from, target string
		answered     bool
	}{
		{"the router", "10.0.2.100", "10.0.2.2", true},
		{"a station of the LAN", "10.0.2.100", "10.0.2.17", true},
		{"an address outside of it", "10.0.2.100", "198.51.100.1", true},
		{"a link-local address", "10.0.2.100", "169.254.1.2", true},
		{"the name server", "10.0.2.100", "169.254.1.1", true},
		{"another container", "10.0.2.100", "10.0.2.101", false},
		{"announcement", "10.0.2.100", "10.0.2.100", false},
		{"announcement of an address not seen before", "10.0.2.99", "10.0.2.99", false},
		{"probe", zero.String(), "10.0.2.99", false},
		{"a group", "10.0.2.100", "224.0.0.1", false},
		{"loopback", "10.0.2.100", "127.0.0.1", false},
		{"unspecified", "10.0.2.100", "0.0.0.0", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, lan)
			from, target := netip.MustParseAddr(tc.from), netip.MustParseAddr(tc.target)
			b.frames(packettest.ARP(packettest.ARPRequest, containerMAC, from, l2.MAC{}, target))
			got := b.link.take()
			if !tc.answered {
				if len(got) != 0 {
					t.Fatalf("answered by %s", packettest.Dump(got[0]))
				}
				checkDrops(t, b, drop.NotForUs)
				return
			}
			if len(got) != 1 {
				t.Fatalf("%d answers, want 1", len(got))
			}
			want := packettest.ARP(packettest.ARPReply, testNet.GatewayMAC, target, containerMAC, from)
			if err := packettest.Same(want)(got[0]); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAnyNeighbourSolicited is the same for IPv6, and NoNDP.
func TestAnyNeighbourSolicited(t *testing.T) {
	b := newBench(t, lan)
	for _, target := range []string{"fe80::1", "fd00::17", "2001:db8::1", "fe80::abcd"} {
		a := netip.MustParseAddr(target)
		b.frames(packettest.NS(containerMAC, container6, a))
		p := b.next("advertisement of "+target, func(p segment) bool { return p.Kind == 136 })
		if got := netip.AddrFrom16([16]byte(p.l4[8:24])); got != a || p.TTL != 255 || !bytes.HasSuffix(p.l4, testNet.GatewayMAC[:]) {
			t.Errorf("asked for %s, told %v: % x", target, got, p.l4)
		}
	}
	silent := func(b *bench, src, target netip.Addr) {
		t.Helper()
		drops := b.drops.Get(drop.NotForUs)
		b.frames(packettest.NS(containerMAC, src, target))
		if got := b.link.take(); len(got) != 0 || b.drops.Get(drop.NotForUs) != drops+1 {
			t.Errorf("solicitation of %s by %s: %d answers, drops %v", target, src, len(got), b.drops.Snapshot())
		}
	}
	silent(b, netip.IPv6Unspecified(), netip.MustParseAddr("fd00::99")) // its DAD
	silent(b, packettest.LinkLocal(containerMAC), container6)           // its own
	quiet := newBench(t, lan, func(c *Config) { c.Spec.Autoconf.NoNDP = true })
	silent(quiet, container6, netip.MustParseAddr("fe80::1"))
}

// TestAnyNeighbourRouter: the router is a host of the outside like any other, and a link-local one is us.
func TestAnyNeighbourRouter(t *testing.T) {
	b := newBench(t, lan)
	b.send(packettest.Echo(container4, testNet.Gateway4, 1, 1, []byte("hello")), datagram("10.0.2.100:1000", "10.0.2.2:53"))
	if got := b.ping.take(); !slices.Equal(got, []string{"10.0.2.100:0 > 10.0.2.2:0, 13 bytes"}) {
		t.Errorf("ping of the router reached the outside as %q", got)
	}
	if got := b.udp.take(); !slices.Equal(got, []string{"10.0.2.100:1000 > 10.0.2.2:53, 5 bytes"}) {
		t.Errorf("a query to the router reached the outside as %q", got)
	}
	b.send(packettest.Echo(container6, netip.MustParseAddr("fe80::1"), 1, 1, []byte("hello")))
	b.next("echo reply of the link-local router", func(p segment) bool { return p.Proto == ip.ICMPv6 && p.Kind == 129 })
	b.send(datagram("10.0.2.100:1000", "169.254.1.1:53"))
	if got := b.dns.take(); len(got) != 1 {
		t.Errorf("the name server outside of the subnet was asked %q", got)
	}
}

// TestMapsDial: TCP to a mapped address is dialled to the host's, and not by the outbound interface.
func TestMapsDial(t *testing.T) {
	dialled := make(chan netip.AddrPort, 1)
	b := newBench(t, lan, withDial(refuseAll(dialled)), func(c *Config) {
		c.Spec.Policy.Maps = []spec.AddrMap{
			{From: netip.MustParseAddr("169.254.1.2"), To: netip.MustParseAddr("10.0.2.100")},
			{From: netip.MustParseAddr("10.0.2.2"), To: netip.MustParseAddr("127.0.0.1")},
			{From: netip.MustParseAddr("fe80::1"), To: netip.MustParseAddr("::1")},
		}
		c.Spec.OutboundDevice4, c.Spec.OutboundDevice6 = "no-such-if", "no-such-if"
	})
	for dst, want := range map[string]string{
		"169.254.1.2:80": "10.0.2.100:80", "10.0.2.2:80": "127.0.0.1:80", "[fe80::1]:80": "[::1]:80", "10.0.2.3:80": "10.0.2.3:80",
	} {
		src := netip.AddrPortFrom(container4, 1000)
		if ap(dst).Addr().Is6() {
			src = netip.AddrPortFrom(container6, 1000)
		}
		b.send(packettest.TCP(src, ap(dst), packettest.SYN, 1, 0, nil))
		if got := <-dialled; got != ap(want) {
			t.Errorf("SYN to %s dialled %s, want %s", dst, got, want)
		}
	}
	b.send(datagram("10.0.2.100:1000", "169.254.1.2:80"))
	if got := b.udp.take(); len(got) != 1 {
		t.Errorf("a datagram to a mapped address reached the NAT as %q", got)
	}
}

// TestHostUnreachable: TCP to the gateway finds the network unreachable, as a caller of slirp4netns expects of
// --disable-host-loopback, and pings are answered all the same.
func TestHostUnreachable(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Spec.Policy.HostUnreachable = true })
	for src, dst := range map[netip.Addr]string{container4: "10.0.2.2:80", container6: "[fd00::2]:80"} {
		b.send(packettest.TCP(netip.AddrPortFrom(src, 1000), ap(dst), packettest.SYN, 1, 0, nil))
		e := b.next("answer to a SYN to "+dst, func(p segment) bool { return p.Proto != ip.TCP })
		if q := quoted(t, e); q.Kind != ip.NetUnreachable || q.From != ap(dst).Addr() {
			t.Errorf("SYN to %s answered by %+v", dst, q)
		}
	}
	b.send(packettest.Echo(container4, testNet.Gateway4, 1, 1, nil))
	b.next("echo reply", func(p segment) bool { return p.Proto == ip.ICMP && p.Kind == 0 })
}
