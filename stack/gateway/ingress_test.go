package gateway

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gvlog "gvisor.dev/gvisor/pkg/log"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func datagram(src, dst string) []byte { return packettest.UDP(ap(src), ap(dst), []byte("hello")) }

// TestDispatch: each kind of packet reaches the one service it is for, whole, and no other (HC-18, HC-19).
func TestDispatch(t *testing.T) {
	ping := func(dst string) []byte {
		d := netip.MustParseAddr(dst)
		src := container4
		if d.Is6() {
			src = container6
		}
		return packettest.Echo(src, d, 1, 1, []byte("hello"))
	}
	router := packettest.RS(containerMAC, packettest.LinkLocal(containerMAC))
	for _, tc := range []struct {
		name   string
		packet []byte
		to     string // service and what it saw; empty: none
		reason drop.Reason
	}{
		{"UDP to the outside", datagram("10.0.2.100:1000", "198.51.100.1:7"), "udp 10.0.2.100:1000 > 198.51.100.1:7, 5 bytes", 0},
		{"UDP over IPv6", datagram("[fd00::100]:1000", "[2001:db8::1]:7"), "udp [fd00::100]:1000 > [2001:db8::1]:7, 5 bytes", 0},
		{"UDP port 53 of an outside server", datagram("10.0.2.100:1000", "198.51.100.1:53"), "udp 10.0.2.100:1000 > 198.51.100.1:53, 5 bytes", 0},
		{"UDP of a published port", datagram("10.0.2.100:80", "198.51.100.1:4711"), "published 10.0.2.100:80 > 198.51.100.1:4711, 5 bytes", 0},
		{"UDP of a published port to the gateway", datagram("10.0.2.100:80", "10.0.2.2:4711"), "published 10.0.2.100:80 > 10.0.2.2:4711, 5 bytes", 0},
		{"DNS", datagram("10.0.2.100:1000", "10.0.2.3:53"), "dns 10.0.2.100:1000, 5 bytes", 0},
		{"DNS over IPv6", datagram("[fd00::100]:1000", "[fd00::3]:53"), "dns [fd00::100]:1000, 5 bytes", 0},
		{"DHCP", datagram("10.0.2.100:68", "10.0.2.2:67"), "autoconf 10.0.2.100:68 > 10.0.2.2:67, 5 bytes", 0},
		{"DHCP to everybody", packettest.DHCPDiscover(containerMAC, 1).L3[0], "autoconf 0.0.0.0:68 > 255.255.255.255:67, 300 bytes", 0},
		{"router solicitation", router.L3[0], fmt.Sprintf("autoconf [%s]:0 > [ff02::2]:0, 16 bytes", packettest.LinkLocal(containerMAC)), 0},
		{"ping of the outside", ping("198.51.100.1"), "ping 10.0.2.100:0 > 198.51.100.1:0, 13 bytes", 0},
		{"ping of the outside over IPv6", ping("2001:db8::1"), "ping [fd00::100]:0 > [2001:db8::1]:0, 13 bytes", 0},
		{"ping of the gateway", ping("10.0.2.2"), "netstack", 0},
		{"ping of the name server", ping("10.0.2.3"), "netstack", 0},
		{"ping of the gateway over IPv6", ping("fd00::2"), "netstack", 0},
		{"ping of the gateway's link-local address", ping(LinkLocal(testNet.GatewayMAC).String()), "netstack", 0},
		{"ping of a group", ping("224.0.0.1"), "", drop.NotForUs},
		{"ping of an IPv6 group", ping("ff02::1"), "", drop.NotForUs},
		{"UDP to a group", datagram("10.0.2.100:5353", "224.0.0.251:5353"), "", drop.NotForUs},
		{"UDP to an IPv6 group", datagram("[fd00::100]:5353", "[ff02::fb]:5353"), "", drop.NotForUs},
		{"TCP to a group", packettest.TCP(ap("10.0.2.100:1000"), ap("224.0.0.1:80"), packettest.SYN, 1, 0, nil), "", drop.NotForUs},
		{"TCP to an IPv6 group", packettest.TCP(ap("[fd00::100]:1000"), ap("[ff02::1]:80"), packettest.SYN, 1, 0, nil), "", drop.NotForUs},
		{"IGMP report", packettest.IP(container4, netip.MustParseAddr("224.0.0.22"), 2, make([]byte, 16)), "", drop.NotForUs},
		{"MLD report", packettest.ICMP(container6, netip.MustParseAddr("ff02::16"), 143, 0, 1, make([]byte, 20)), "", drop.NotForUs},
		{"router advertisement", packettest.RA(containerMAC, packettest.LinkLocal(containerMAC), testNet.Subnet6).L3[0], "", drop.NotForUs},
		{"redirect", packettest.ICMP(container4, testNet.Gateway4, 5, 1, 0, make([]byte, 28)), "", drop.NotForUs},
		{"echo reply", packettest.ICMP(container4, netip.MustParseAddr("198.51.100.1"), 0, 0, 1, nil), "", drop.NotForUs},
		{"timestamp request", packettest.ICMP(container4, testNet.Gateway4, 13, 0, 1, make([]byte, 12)), "", drop.NotForUs},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t)
			before := b.netstackPackets()
			b.send(tc.packet)
			var got []string
			for name, a := range map[string]*arrivals{"udp": &b.udp, "ping": &b.ping, "published": &b.published, "autoconf": &b.autoconf, "dns": &b.dns} {
				for _, s := range a.take() {
					got = append(got, name+" "+s)
				}
			}
			if b.netstackPackets() != before {
				got = append(got, "netstack")
			}
			want := []string{tc.to}
			if tc.to == "" {
				want = nil
			}
			if !slices.Equal(got, want) {
				t.Errorf("reached %q, want %q", got, want)
			}
			checkDrops(t, b, tc.reason)
		})
	}
}

// TestProtocolOff: what is of a protocol that a Network does not have is dropped without an answer, to whomever it is;
// guests configure themselves all the same.
func TestProtocolOff(t *testing.T) {
	off := func(cfg *Config) {
		cfg.Spec.Policy.NoTCP, cfg.Spec.Policy.NoUDP, cfg.Spec.Policy.NoICMP = true, true, true
	}
	b := newBench(t, off)
	dropped := 0
	for _, dst := range []string{"198.51.100.1", "10.0.2.2", "10.0.2.3"} {
		for _, port := range []string{":53", ":80"} {
			b.send(datagram("10.0.2.100:1000", dst+port), packettest.TCP(ap("10.0.2.100:1000"), ap(dst+port), packettest.SYN, 1, 0, nil))
			dropped += 2
		}
		b.send(packettest.Echo(container4, netip.MustParseAddr(dst), 1, 1, nil))
		dropped++
	}
	packettest.Run(t, &packettest.Result{Drops: b.drops}, packettest.OnlyDropped(drop.PolicyDenied, uint64(dropped)))
	if sent := b.link.take(); len(sent) > 0 || b.made() {
		t.Errorf("%d frames in answer, a netstack for nothing: %v", len(sent), b.made())
	}
	b.send(packettest.DHCPDiscover(containerMAC, 1).L3[0])
	if got := b.autoconf.take(); len(got) != 1 {
		t.Errorf("DHCP reached %q", got)
	}
}

// TestOneProtocolOff: the others go on.
func TestOneProtocolOff(t *testing.T) {
	outside := netip.MustParseAddr("198.51.100.1")
	for name, tc := range map[string]struct {
		set            func(p *spec.Policy)
		tcp, udp, ping int
	}{
		"tcp":  {func(p *spec.Policy) { p.NoTCP = true }, 0, 1, 1},
		"udp":  {func(p *spec.Policy) { p.NoUDP = true }, 1, 0, 1},
		"icmp": {func(p *spec.Policy) { p.NoICMP = true }, 1, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			dialled := make(chan netip.AddrPort, 1)
			b := newBench(t, withDial(refuseAll(dialled)), func(c *Config) { tc.set(&c.Spec.Policy) })
			b.send(
				packettest.TCP(ap("10.0.2.100:1000"), ap("198.51.100.1:80"), packettest.SYN, 1, 0, nil),
				datagram("10.0.2.100:1000", "198.51.100.1:80"), packettest.Echo(container4, outside, 1, 1, nil),
			)
			if tc.tcp > 0 {
				<-dialled
			}
			if udp, ping := len(b.udp.take()), len(b.ping.take()); udp != tc.udp || ping != tc.ping || b.made() != (tc.tcp > 0) {
				t.Errorf("%d datagrams and %d pings passed, TCP %v", udp, ping, b.made())
			}
			checkDrops(t, b, drop.PolicyDenied)
		})
	}
}

// checkDrops holds when the one drop there was is for the reason; none means no drop.
func checkDrops(t *testing.T, b *bench, reason drop.Reason) {
	t.Helper()
	check := packettest.NoDrops()
	if reason != drop.None {
		check = packettest.OnlyDropped(reason, 1)
	}
	packettest.Run(t, &packettest.Result{Drops: b.drops}, check)
}

// TestDNSAnswer: the answer comes from the address that was asked, to the port that asked.
func TestDNSAnswer(t *testing.T) {
	b := newBench(t)
	for _, q := range [][2]string{{"10.0.2.100:1000", "10.0.2.3:53"}, {"[fd00::100]:1000", "[fd00::3]:53"}} {
		b.send(datagram(q[0], q[1]))
		p := b.next("answer", func(p segment) bool { return p.Proto == ip.UDP })
		if p.Src.String() != q[1] || p.Dst.String() != q[0] || string(p.Payload) != "hello" || !p.ChecksumOK {
			t.Errorf("asked %s as %s, answered by %v, checksum %v", q[1], q[0], p.Decoded, p.ChecksumOK)
		}
	}
}

// TestOwnAddresses: nothing but the name server answers on our addresses: UDP gets port
// unreachable, TCP a reset (HC-18, HC-19).
func TestOwnAddresses(t *testing.T) {
	b := newBench(t)
	for _, own := range []netip.Addr{testNet.Gateway4, testNet.DNS4, testNet.Gateway6, testNet.DNS6} {
		src, from := netip.AddrPortFrom(container4, 1000), testNet.Gateway4
		if own.Is6() {
			src, from = netip.AddrPortFrom(container6, 1000), testNet.Gateway6
		}
		for _, port := range []uint16{1, 22, 53, 80, 2375, 65535} {
			dst := netip.AddrPortFrom(own, port)
			isDNS := port == 53 && (own == testNet.DNS4 || own == testNet.DNS6)
			b.send(packettest.TCP(src, dst, packettest.SYN, 100, 0, nil))
			p := b.next("answer to a SYN for "+dst.String(), func(p segment) bool { return p.Proto == ip.TCP && p.Src == dst })
			want := uint8(packettest.RST | packettest.ACK)
			if isDNS {
				want = packettest.SYN | packettest.ACK
			}
			if p.Flags != want || p.Dst != src || p.Ack != 101 {
				t.Errorf("SYN to %s answered by %v, want flags %#x", dst, p.Decoded, want)
			}
			if isDNS {
				b.send(packettest.TCP(src, dst, packettest.RST, 101, 0, nil))
				continue
			}
			b.send(packettest.UDP(src, dst, []byte("hello")))
			q := quoted(t, b.next("ICMP error", func(p segment) bool { return p.Proto != ip.TCP }))
			if q.Kind != ip.PortUnreachable || q.Src != src || q.Dst != dst || q.From != from {
				t.Errorf("UDP to %s answered by %+v", dst, q)
			}
		}
	}
	if got := append(b.udp.take(), b.dns.take()...); len(got) != 0 {
		t.Errorf("reached a service: %v", got)
	}
}

// icmpError is an ICMP error as the container's kernel reads it.
type icmpError struct {
	ip.Quoted
	From netip.Addr
}

func quoted(t testing.TB, s segment) icmpError {
	t.Helper()
	var p ip.Packet
	var q icmpError
	raw := packettest.IP(s.Src.Addr(), s.Dst.Addr(), s.Proto, slices.Clone(s.l4))
	if r := ip.ParsePacket(&p, raw); r != drop.None {
		t.Fatalf("%v: %v", s.Decoded, r)
	}
	if r := ip.ParseQuoted(&q.Quoted, &p); r != drop.None {
		t.Fatalf("%v is no ICMP error: %v", s.Decoded, r)
	}
	if !s.ChecksumOK {
		t.Errorf("%v has a wrong checksum", s.Decoded)
	}
	q.From = s.Src.Addr()
	return q
}

// TestHostLoopback: with it the gateway's address stands for the host, and the name server's does not.
func TestHostLoopback(t *testing.T) {
	dialled := make(chan netip.AddrPort, 1)
	b := newBench(t, func(c *Config) { c.Spec.Policy.HostLoopback = true }, withDial(refuseAll(dialled)))
	b.send(datagram("10.0.2.100:1000", "10.0.2.2:80"), datagram("10.0.2.100:1000", "10.0.2.3:80"))
	if got := b.udp.take(); !slices.Equal(got, []string{"10.0.2.100:1000 > 10.0.2.2:80, 5 bytes"}) {
		t.Errorf("UDP reached the NAT: %q", got)
	}
	for own, want := range map[string]string{"10.0.2.2:80": "127.0.0.1:80", "[fd00::2]:80": "[::1]:80"} {
		src := netip.AddrPortFrom(container4, 1000)
		if ap(own).Addr().Is6() {
			src = netip.AddrPortFrom(container6, 1000)
		}
		b.send(packettest.TCP(src, ap(own), packettest.SYN, 1, 0, nil))
		if got := <-dialled; got != ap(want) {
			t.Errorf("SYN to %s dialled %s, want %s", own, got, want)
		}
	}
}

// TestOddTuples: tuples nobody can answer are dropped or reset, never dialled (TCP-14). Sources that are another
// station's or ours do not come this far: the switch knows whose they are.
func TestOddTuples(t *testing.T) {
	b := newBench(t) // a dial fails the test
	tuples := []struct {
		src, dst string
		answered bool // a RST goes out
	}{
		{"10.0.2.100:1000", "198.51.100.1:0", false},
		{"10.0.2.100:0", "198.51.100.1:80", false},
		{"10.0.2.100:0", "198.51.100.1:0", false},
		{"10.0.2.100:80", "10.0.2.100:80", false},
		{"10.0.2.100:81", "10.0.2.100:80", false},
		{"255.255.255.255:1000", "198.51.100.1:80", false},
		{"224.0.0.1:1000", "198.51.100.1:80", false},
		{"127.0.0.1:1000", "198.51.100.1:80", false},
		{"0.0.0.0:1000", "198.51.100.1:80", false},
		{"10.0.2.100:1000", "255.255.255.255:80", false},
		{"10.0.2.100:1000", "0.0.0.0:80", false},
		{"10.0.2.100:1000", "127.0.0.1:80", false},
		{"10.0.2.100:1000", "240.0.0.1:80", true},
		{"10.0.2.100:1000", "10.0.2.255:80", true},
		{"10.0.2.100:1000", "10.0.2.101:80", true},
		{"[fd00::100]:0", "[2001:db8::1]:80", false},
		{"[fd00::100]:1000", "[2001:db8::1]:0", false},
		{"[fd00::100]:1000", "[fd00::100]:1000", false},
		{"[ff02::1]:1000", "[2001:db8::1]:80", false},
		{"[::]:1000", "[2001:db8::1]:80", false},
		{"[::1]:1000", "[2001:db8::1]:80", false},
		{"[fd00::100]:1000", "[::]:80", false},
		{"[fd00::100]:1000", "[::1]:80", false},
		{"[::ffff:10.0.2.100]:1000", "[2001:db8::1]:80", false},
		{"[fd00::100]:1000", "[::ffff:127.0.0.1]:80", false},
		{"[fd00::100]:1000", "[64:ff9b::7f00:1]:80", true},
		{"[fd00::100]:1000", "[fe80::1]:80", true},
	}
	for _, tc := range tuples {
		src, dst := ap(tc.src), ap(tc.dst)
		flags := []uint8{0, packettest.SYN, packettest.ACK, packettest.SYN | packettest.ACK, packettest.RST, packettest.FIN, 0xff}
		for _, fl := range flags {
			b.send(packettest.TCP(src, dst, fl, 1, 1, nil))
		}
		answer := func(p segment) bool { return p.Proto == ip.TCP && p.Src == dst }
		if tc.answered {
			p := b.next("reset of "+tc.src+" > "+tc.dst, answer)
			if p.Flags&packettest.RST == 0 || p.Dst != src {
				t.Errorf("%s > %s answered by %v, want RST", tc.src, tc.dst, p.Decoded)
			}
			continue
		}
		b.nothing("answer to "+tc.src+" > "+tc.dst, answer)
	}
	waitFor(t, func() bool { return b.gw.handshakes.inFlight() == 0 })
}

// TestBadChecksums: a wrong checksum is a counted drop, whoever the packet is for; a missing one is good for
// UDP over IPv4 only (TCP-12).
func TestBadChecksums(t *testing.T) {
	flip := func(p []byte) []byte { p[len(p)-1] ^= 1; return p }
	noSum := func(p []byte, at int) []byte { p[at], p[at+1] = 0, 0; return p }
	header := datagram("10.0.2.100:1000", "198.51.100.1:7")
	header[10] ^= 1
	syn := packettest.TCP(ap("10.0.2.100:1000"), ap(outside4), packettest.SYN, 1, 0, []byte("x"))
	syn6 := packettest.TCP(ap("[fd00::100]:1000"), ap(outside6), packettest.SYN, 1, 0, []byte("x"))
	for name, p := range map[string][]byte{
		"IPv4 header":           header,
		"UDP":                   flip(datagram("10.0.2.100:1000", "198.51.100.1:7")),
		"UDP over IPv6":         flip(datagram("[fd00::100]:1000", "[2001:db8::1]:7")),
		"UDP to the DNS":        flip(datagram("10.0.2.100:1000", "10.0.2.3:53")),
		"UDP over IPv6 without": noSum(datagram("[fd00::100]:1000", "[2001:db8::1]:7"), 46),
		"TCP":                   flip(syn),
		"TCP over IPv6":         flip(syn6),
		"TCP without":           noSum(packettest.TCP(ap("10.0.2.100:1000"), ap(outside4), packettest.SYN, 1, 0, nil), 36),
		"ICMP":                  flip(packettest.Echo(container4, testNet.Gateway4, 1, 1, []byte("x"))),
		"ICMPv6":                flip(packettest.Echo(container6, testNet.Gateway6, 1, 1, []byte("x"))),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			before := b.netstackPackets()
			b.send(p)
			checkDrops(t, b, drop.ChecksumBad)
			if n := b.netstackPackets() - before; n != 0 || len(b.udp.take())+len(b.dns.take()) != 0 {
				t.Errorf("reached a service or netstack (%d)", n)
			}
		})
	}
	b := newBench(t)
	b.send(noSum(datagram("10.0.2.100:1000", "198.51.100.1:7"), 26))
	if len(b.udp.take()) != 1 {
		t.Error("UDP over IPv4 without a checksum was dropped")
	}
}

// TestMalformed: headers that lie end in a counted drop before netstack or a service sees them
// (HC-01, HC-20, HC-21, HC-22).
func TestMalformed(t *testing.T) {
	good := func() []byte { return datagram("10.0.2.100:1000", "198.51.100.1:7") }
	edit := func(p []byte, at int, v ...byte) []byte { copy(p[at:], v); return p }
	v4 := func(at int, v ...byte) []byte { return packettest.FixIPv4(edit(good(), at, v...)) }
	option := func(o ...byte) []byte {
		p := slices.Insert(good(), 20, o...)
		p[0] = byte(4<<4 | (20+len(o))/4)
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		return packettest.FixIPv4(p)
	}
	good6 := func() []byte { return datagram("[fd00::100]:1000", "[2001:db8::1]:7") }
	v6 := func(at int, v ...byte) []byte { return edit(good6(), at, v...) }
	type row struct {
		name   string
		packet []byte
		reason drop.Reason
	}
	rows := []row{
		{"IPv4 IHL 4", edit(good(), 0, 0x44), drop.IPMalformed},
		{"IPv4 IHL beyond the packet", edit(good(), 0, 0x4f), drop.IPMalformed},
		{"IPv4 version 6", edit(good(), 0, 0x65), drop.IPMalformed},
		{"IPv4 total length too long", v4(2, 0xff, 0xff), drop.IPMalformed},
		{"IPv4 total length below its header", v4(2, 0, 19), drop.IPMalformed},
		{"IPv4 total length 0", v4(2, 0, 0), drop.IPMalformed},
		{"LSRR", option(131, 7, 4, 127, 0, 0, 1, 0), drop.IPOptions},
		{"SSRR", option(137, 7, 4, 127, 0, 0, 1, 0), drop.IPOptions},
		{"option beyond the header", option(7, 40, 4, 0), drop.IPMalformed},
		{"option of length 1", option(7, 1, 0, 0), drop.IPMalformed},
		{"fragment that ends behind 65535", v4(6, 0x1f, 0xff), drop.IPFragment},
		{"empty fragment", packettest.FixIPv4(append(edit(good()[:20], 2, 0, 20, 0, 1, 0x20, 0), 0)), drop.IPFragment},
		{"UDP length beyond the packet", edit(good(), 24, 0xff, 0xff), drop.ChecksumBad},
		{"UDP length below its header", edit(good(), 24, 0, 7), drop.ChecksumBad},
		{"UDP cut off", packettest.IP(container4, netip.MustParseAddr("198.51.100.1"), ip.UDP, make([]byte, 7)), drop.ChecksumBad},
		{"TCP cut off", packettest.IP(container4, netip.MustParseAddr("198.51.100.1"), ip.TCP, make([]byte, 19)), drop.ChecksumBad},
		{"ICMP cut off", packettest.IP(container4, netip.MustParseAddr("198.51.100.1"), ip.ICMP, make([]byte, 7)), drop.ChecksumBad},
		{"IPv6 payload too long", v6(4, 0xff, 0xff), drop.IPMalformed},
		{"IPv6 jumbogram", v6(4, 0, 0), drop.IPMalformed},
		{"RH0", chain6(43, []byte{17, 2, 0, 1, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}), drop.IPOptions},
		{"RH0 without segments left", chain6(43, []byte{17, 0, 0, 0, 0, 0, 0, 0}), drop.IPOptions},
		{"jumbo payload option", chain6(0, []byte{17, 0, 0xc2, 4, 0, 1, 0, 0}), drop.IPOptions},
		{"unknown option to be refused", chain6(60, []byte{17, 0, 0x80, 4, 0, 0, 0, 0}), drop.IPOptions},
		{"100 hop-by-hop headers", chain6(0, hopByHops(100)...), drop.IPMalformed},
		{"100 destination headers", chain6(60, destinations(100)...), drop.IPMalformed},
		{"two fragment headers", chain6(44, []byte{44, 0, 0, 0, 0, 0, 0, 1}, []byte{17, 0, 0, 0, 0, 0, 0, 1}), drop.IPFragment},
	}
	for n := range 20 {
		rows = append(rows, row{fmt.Sprintf("IPv4 of %d bytes", n), good()[:n], drop.IPMalformed})
	}
	for n := range 40 {
		rows = append(rows, row{fmt.Sprintf("IPv6 of %d bytes", n), good6()[:n], drop.IPMalformed})
	}
	for _, hl := range []byte{0, 4, 6, 15} {
		p := packettest.TCP(ap("10.0.2.100:1000"), ap(outside4), packettest.SYN, 1, 0, nil)
		p[32] = hl << 4
		rows = append(rows, row{fmt.Sprintf("TCP data offset %d", hl), packettest.IP(container4, ap(outside4).Addr(), ip.TCP, p[20:]), drop.IPMalformed})
	}
	b := newBench(t)
	for _, tc := range rows {
		before, drops := b.netstackPackets(), b.drops.Get(tc.reason)
		f := packettest.Frame(containerMAC, testNet.GatewayMAC, tc.packet)
		switch {
		case strings.HasPrefix(tc.name, "IPv4"):
			f = packettest.Ether(containerMAC, testNet.GatewayMAC, l2.TypeIPv4, tc.packet)
		case strings.HasPrefix(tc.name, "IPv6"):
			f = packettest.Ether(containerMAC, testNet.GatewayMAC, l2.TypeIPv6, tc.packet)
		}
		b.frames(f)
		if n := b.drops.Get(tc.reason) - drops; n != 1 {
			t.Errorf("%s: %d drops of %v, want 1; all: %v", tc.name, n, tc.reason, b.drops.Snapshot())
		}
		if b.netstackPackets() != before || len(b.udp.take()) != 0 {
			t.Errorf("%s: reached netstack or the NAT", tc.name)
		}
	}
	atomic := chain6(44, []byte{17, 0, 0, 0, 0, 0, 0, 1})
	b.send(atomic)
	if len(b.udp.take()) != 1 {
		t.Error("an atomic fragment is an ordinary packet (RFC 6946), but was dropped")
	}
}

// chain6 is a UDP packet with extension headers in front; first is the kind of the first.
func chain6(first byte, headers ...[]byte) []byte {
	p := datagram("[fd00::100]:1000", "[2001:db8::1]:7")
	p[6] = first
	p = slices.Insert(p, 40, slices.Concat(headers...)...)
	binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
	return p
}

func hopByHops(n int) (hs [][]byte) {
	for range n - 1 {
		hs = append(hs, []byte{0, 0, 1, 4, 0, 0, 0, 0})
	}
	return append(hs, []byte{17, 0, 1, 4, 0, 0, 0, 0})
}

func destinations(n int) (hs [][]byte) {
	for range n - 1 {
		hs = append(hs, []byte{60, 0, 1, 4, 0, 0, 0, 0})
	}
	return append(hs, []byte{17, 0, 1, 4, 0, 0, 0, 0})
}

// TestNetstackIsSilent: what a container sends does not appear on the user's terminal.
func TestNetstackIsSilent(t *testing.T) {
	if l := gvlog.Log(); l.Emitter != (silent{}) {
		t.Errorf("netstack logs by %#v", l.Emitter)
	}
}
