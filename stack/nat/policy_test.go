package nat

import (
	"math/big"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/spec"
)

// privateNetwork is the Network of `usernet run`.
func privateNetwork() spec.Network {
	return spec.Network{
		Name: "private", MTU: 1500,
		Subnet4:  netip.MustParsePrefix("10.0.2.0/24"),
		Subnet6:  netip.MustParsePrefix("fd00::/64"),
		Gateway4: netip.MustParseAddr("10.0.2.2"),
		Gateway6: netip.MustParseAddr("fd00::2"),
		DNS4:     netip.MustParseAddr("10.0.2.3"),
		DNS6:     netip.MustParseAddr("fd00::3"),
	}
}

// refusedAlways are refused whatever the Policy (HC-15, HC-16).
var refusedAlways = []string{
	"127.0.0.1", "127.8.8.8", "127.255.255.255", "0.0.0.0", "0.1.2.3",
	"224.0.0.1", "224.0.0.251", "239.255.255.255", "240.0.0.1", "255.255.255.254", "255.255.255.255",
	"10.0.2.3", "10.0.2.100", "10.0.2.0", "10.0.2.255",
	"::", "::1", "::127.0.0.1", "::8.8.8.8",
	"::ffff:127.0.0.1", "::ffff:0.0.0.0", "::ffff:8.8.8.8", "::ffff:10.0.2.2",
	"64:ff9b::7f00:1", "64:ff9b::127.8.8.8", "64:ff9b::0.0.0.0", "64:ff9b::10.0.2.2", "64:ff9b::224.0.0.1",
	"64:ff9b:1::127.0.0.1", "2002:7f00:1::", "2002:7f08:808::1", "2002:a00:202::1", "2002:e000:1::",
	"2001:0:1234:5678::80ff:fffe", // Teredo client 127.0.0.1
	"ff02::1", "ff02::fb", "ff0e::1", "fe80::1", "fe80::1%eth0", "2001:db8::1%eth0",
	"fd00::3", "fd00::100",
}

// refusedMetadata are refused unless the Policy lets metadata through (HC-17).
var refusedMetadata = []string{
	"169.254.169.254", "169.254.170.2", "169.254.1.1", "168.63.129.16", "100.100.100.200", "192.0.0.192",
	"fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe",
	"64:ff9b::a9fe:a9fe", "64:ff9b::169.254.170.2", "2002:a9fe:a9fe::1", "64:ff9b::168.63.129.16",
}

var allowedAlways = []string{
	"8.8.8.8", "1.0.0.1", "10.0.3.1", "10.0.1.255", "192.168.1.1", "172.17.0.1", "100.100.100.201", "168.63.129.15",
	"126.255.255.255", "128.0.0.1", "223.255.255.255", "169.253.1.1", "169.255.1.1",
	"2001:db8::1", "2606:4700::1111", "fd00:1::1", "fc00::1", "64:ff9b::8.8.8.8", "2002:808:808::1", "fd00:ec2::253",
}

func protocolsOf(a netip.Addr) []uint8 {
	if a.Is4() {
		return []uint8{ip.TCP, ip.UDP, ip.ICMP}
	}
	return []uint8{ip.TCP, ip.UDP, ip.ICMPv6}
}

func TestPolicySpellings(t *testing.T) {
	check := func(t *testing.T, p *Policy, addrs []string, want bool) {
		t.Helper()
		for _, s := range addrs {
			a := netip.MustParseAddr(s)
			for _, proto := range protocolsOf(a) {
				v := p.Check(proto, netip.AddrPortFrom(a, 9))
				if v.Allow != want {
					t.Errorf("protocol %d to %s: allow %v, want %v", proto, s, v.Allow, want)
				}
				if want && (v.Dial != a || v.Mapped) {
					t.Errorf("protocol %d to %s: dials %v, mapped %v", proto, s, v.Dial, v.Mapped)
				}
				if !want && v != (Verdict{}) {
					t.Errorf("protocol %d to %s: refused with %+v", proto, s, v)
				}
			}
		}
	}
	for _, row := range []struct {
		name               string
		loopback, metadata bool
	}{{"default", false, false}, {"host loopback", true, false}, {"metadata", false, true}, {"both", true, true}} {
		t.Run(row.name, func(t *testing.T) {
			n := privateNetwork()
			n.Policy = spec.Policy{HostLoopback: row.loopback, Metadata: row.metadata}
			p := mustPolicy(t, n, nil)
			check(t, p, refusedAlways, false)
			check(t, p, refusedMetadata, row.metadata)
			check(t, p, allowedAlways, true)
		})
	}
}

// HC-15: the gateway stands for the host's loopback only when asked for.
func TestPolicyGateway(t *testing.T) {
	n := privateNetwork()
	closed := mustPolicy(t, n, nil)
	n.Policy.HostLoopback = true
	open := mustPolicy(t, n, nil)
	for gateway, loopback := range map[netip.Addr]netip.Addr{n.Gateway4: loopback4, n.Gateway6: loopback6} {
		for _, proto := range protocolsOf(gateway) {
			dst := netip.AddrPortFrom(gateway, 9)
			if v := closed.Check(proto, dst); v.Allow {
				t.Errorf("protocol %d to %s is let through by default", proto, gateway)
			}
			want := Verdict{Allow: true, Dial: loopback, Mapped: true}
			if v := open.Check(proto, dst); v != want {
				t.Errorf("protocol %d to %s: %+v, want %+v", proto, gateway, v, want)
			}
		}
	}
}

// A Network without IPv6 must not read its zero gateway as an address, nor refuse other v6.
func TestPolicyOneFamily(t *testing.T) {
	n := privateNetwork()
	n.Subnet6, n.Gateway6, n.DNS6 = netip.Prefix{}, netip.Addr{}, netip.Addr{}
	n.Policy.HostLoopback = true
	p := mustPolicy(t, n, nil)
	if v := p.Check(ip.UDP, netip.AddrPort{}); v.Allow {
		t.Errorf("no address: %+v", v)
	}
	if v := p.Check(ip.UDP, netip.AddrPortFrom(netip.Addr{}, 53)); v.Allow {
		t.Errorf("no address, port 53: %+v", v)
	}
	if v := p.Check(ip.UDP, netip.MustParseAddrPort("[fd00::2]:9")); !v.Allow || v.Mapped {
		t.Errorf("fd00::2 of someone else: %+v", v)
	}
}

func TestPolicyPortZero(t *testing.T) {
	p := mustPolicy(t, privateNetwork(), nil)
	dst := netip.MustParseAddrPort("8.8.8.8:0")
	if p.Check(ip.UDP, dst).Allow || p.Check(ip.TCP, dst).Allow {
		t.Error("port 0 is let through")
	}
	if !p.Check(ip.ICMP, dst).Allow {
		t.Error("ping is refused for a port it does not have")
	}
}

// HC-14: from a Network without egress nothing leaves, not even to the host's loopback where that was asked for.
func TestHC14PolicyNoEgress(t *testing.T) {
	for _, row := range []func(*spec.Network){
		func(n *spec.Network) { n.Policy.NoEgress = true },
		func(n *spec.Network) { n.NoGateway = true },
	} {
		n := privateNetwork()
		n.Policy.HostLoopback, n.Policy.Metadata = true, true
		row(&n)
		p := mustPolicy(t, n, nil)
		for _, s := range append([]string{"10.0.2.2", "fd00::2", "169.254.169.254"}, allowedAlways...) {
			a := netip.MustParseAddr(s)
			for _, proto := range protocolsOf(a) {
				if v := p.Check(proto, netip.AddrPortFrom(a, 9)); v != (Verdict{}) {
					t.Errorf("protocol %d to %s: %+v", proto, s, v)
				}
			}
		}
	}
}

// HC-33, HC-34: a peer's VXLAN port and a key-value store are out of reach, and what is beside them is not.
func TestHC33HC34PolicyRefuse(t *testing.T) {
	n := privateNetwork()
	n.Policy.Refuse = []spec.Refused{
		{Prefix: netip.MustParsePrefix("192.0.2.7/32"), Proto: "udp", Port: 4789},
		{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Proto: "tcp", Port: 2379},
		{Prefix: netip.MustParsePrefix("203.0.113.9/32")},
		{Prefix: netip.MustParsePrefix("2001:db8::7/128"), Proto: "udp"},
	}
	p := mustPolicy(t, n, nil)
	for _, row := range []struct {
		proto uint8
		dst   string
		want  bool
	}{
		{ip.UDP, "192.0.2.7:4789", false},
		{ip.UDP, "[64:ff9b::192.0.2.7]:4789", false},
		{ip.UDP, "[2002:c000:207::1]:4789", false},
		{ip.UDP, "192.0.2.7:4790", true},
		{ip.TCP, "192.0.2.7:4789", true},
		{ip.ICMP, "192.0.2.7:0", true},
		{ip.UDP, "192.0.2.8:4789", true},
		{ip.TCP, "198.51.100.77:2379", false},
		{ip.UDP, "198.51.100.77:2379", true},
		{ip.TCP, "203.0.113.9:1", false},
		{ip.UDP, "203.0.113.9:1", false},
		{ip.ICMP, "203.0.113.9:0", false},
		{ip.UDP, "[2001:db8::7]:1", false},
		{ip.TCP, "[2001:db8::7]:1", true},
	} {
		if got := p.Check(row.proto, netip.MustParseAddrPort(row.dst)).Allow; got != row.want {
			t.Errorf("protocol %d to %s: allowed %v, want %v", row.proto, row.dst, got, row.want)
		}
	}
	for _, bad := range []spec.Refused{
		{}, {Prefix: n.Subnet4, Port: 1}, {Prefix: n.Subnet4, Proto: "sctp", Port: 1}, {Proto: "udp", Port: 1},
	} {
		n.Policy.Refuse = []spec.Refused{bad}
		if _, err := NewPolicy(n, nil); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

// slowAllow is Check written as the list of ranges it promises to refuse.
func slowAllow(n spec.Network, a netip.Addr) bool {
	inside := func(ranges string) bool {
		for _, r := range strings.Fields(ranges) {
			if netip.MustParsePrefix(r).Contains(a) {
				return true
			}
		}
		return false
	}
	const metadata = "169.254.0.0/16 168.63.129.16/32 100.100.100.200/32 192.0.0.192/32 " +
		"fd00:ec2::254/128 fd00:ec2::23/128 fd20:ce::254/128 fd00:c1::a9fe:a9fe/128"
	if inside("0.0.0.0/8 127.0.0.0/8 224.0.0.0/3 ::/96 ff00::/8 fe80::/10") || a.Is4In6() {
		return false
	}
	if n.Subnet4.Contains(a) || n.Subnet6.Contains(a) || !n.Policy.Metadata && inside(metadata) {
		return false
	}
	if a.Is6() {
		for _, r := range []struct {
			prefix string
			shift  uint // bits right of the embedded address
			invert uint32
		}{{"64:ff9b::/96", 0, 0}, {"64:ff9b:1::/48", 0, 0}, {"2002::/16", 80, 0}, {"2001::/32", 0, 0xffffffff}} {
			if !netip.MustParsePrefix(r.prefix).Contains(a) {
				continue
			}
			v := uint32(new(big.Int).Rsh(new(big.Int).SetBytes(a.AsSlice()), r.shift).Uint64()) ^ r.invert
			if !slowAllow(n, netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})) {
				return false
			}
		}
	}
	return true
}

func TestPolicyAgainstSlowTwin(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var corpus []netip.Addr
	for _, list := range [][]string{refusedAlways, refusedMetadata, allowedAlways} {
		for _, s := range list {
			corpus = append(corpus, netip.MustParseAddr(s).WithZone(""))
		}
	}
	for i := range 100_000 {
		a := corpus[rng.IntN(len(corpus))]
		b := a.AsSlice()
		// Near misses of what has a rule, where an off-by-one in a prefix would show.
		for range rng.IntN(4) {
			b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
		}
		a, _ = netip.AddrFromSlice(b)
		n := privateNetwork()
		n.Policy.Metadata = i%2 == 0
		if got, want := mustPolicy(t, n, nil).Check(ip.TCP, netip.AddrPortFrom(a, 1)).Allow, slowAllow(n, a); got != want {
			t.Fatalf("%s with metadata %v: allow %v, want %v", a, n.Policy.Metadata, got, want)
		}
	}
}

func TestPolicyDoesNotAllocate(t *testing.T) {
	p := mustPolicy(t, privateNetwork(), nil)
	dst := []netip.AddrPort{netip.MustParseAddrPort("8.8.8.8:53"), netip.MustParseAddrPort("[64:ff9b::808:808]:53")}
	if n := testing.AllocsPerRun(100, func() {
		for _, d := range dst {
			p.Check(ip.UDP, d)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPolicyCheck(b *testing.B) {
	p := mustPolicy(b, privateNetwork(), nil)
	dst := netip.MustParseAddrPort("8.8.8.8:53")
	for b.Loop() {
		p.Check(ip.UDP, dst)
	}
}
