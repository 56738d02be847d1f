package bridge_test

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/bridge"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// edited returns the frame with one change to its layer 3 bytes.
func edited(f l2.Frame, edit func(l3 []byte)) l2.Frame {
	f = packettest.Clone(f)
	edit(f.L3[0])
	return f
}

// fromMAC returns the frame with another source address in its Ethernet header.
func fromMAC(f l2.Frame, src l2.MAC) l2.Frame {
	f.Header = l2.MakeHeader(f.Header.Dst(), src, f.Header.Type())
	return f
}

func udp(from packettest.Station, src, dst netip.Addr, sport, dport uint16) l2.Frame {
	return packettest.Frame(from.MAC, gw.MAC,
		packettest.UDP(netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport), []byte("x")))
}

// with6 puts extension headers between the IPv6 header and an upper layer of f.
func with6(f l2.Frame, first byte, headers ...[]byte) l2.Frame {
	p := f.L3[0]
	q := append([]byte(nil), p[:40]...)
	for _, h := range headers {
		q = append(q, h...)
	}
	q[6] = first
	q = append(q, p[40:]...)
	binary.BigEndian.PutUint16(q[4:], uint16(len(q)-40))
	f.L3 = [][]byte{q}
	return f
}

func TestEtherTypesAndSources(t *testing.T) {
	run(t, []row{
		{"HC-01: header only", "a", frames(packettest.Ether(a.MAC, gw.MAC, l2.TypeIPv4, nil)), refused(drop.IPMalformed)},
		{"HC-01: header only, no slice", "a", frames(l2.Frame{Header: l2.MakeHeader(gw.MAC, a.MAC, l2.TypeIPv6)}), refused(drop.IPMalformed)},
		{"HC-11: 802.1Q", "a", frames(packettest.Ether(a.MAC, gw.MAC, 0x8100, make([]byte, 46))), refused(drop.EtherTypeDenied)},
		{"HC-11: 802.3 length", "a", frames(packettest.Ether(a.MAC, gw.MAC, 46, make([]byte, 46))), refused(drop.EtherTypeDenied)},
		{"HC-11: LLDP", "a", frames(packettest.Ether(a.MAC, l2.MAC{1, 0x80, 0xc2, 0, 0, 14}, 0x88cc, make([]byte, 46))), refused(drop.EtherTypeDenied)},
		{"group source", "g", frames(fromMAC(ping(g, gw), l2.Broadcast)), refused(drop.SrcGroup)},
		{"zero source", "g", frames(fromMAC(ping(g, gw), l2.MAC{})), refused(drop.SrcGroup)},
	})
}

func TestSourceMAC(t *testing.T) {
	run(t, []row{
		{"HC-03: the gateway's MAC, strict", "a", frames(fromMAC(ping(a, b), gw.MAC)), refused(drop.SrcMACSpoofed)},
		{"HC-03: the gateway's MAC, guest", "g", frames(fromMAC(ping(g, b), gw.MAC)), refused(drop.SrcMACSpoofed)},
		{"HC-04: a neighbour's MAC, strict", "a", frames(fromMAC(ping(a, gw), b.MAC)), refused(drop.SrcMACSpoofed)},
		{"HC-04: a neighbour's MAC, guest", "g", frames(fromMAC(ping(g, gw), b.MAC)), refused(drop.SrcMACSpoofed)},
		{"HC-04: another guest's MAC", "g", frames(fromMAC(ping(g, gw), h.MAC)), refused(drop.SrcMACSpoofed)},
		{"a second MAC, strict", "a", frames(fromMAC(ping(a, gw), packettest.NewStation(7).MAC)), refused(drop.SrcMACSpoofed)},
		{"a second MAC, guest", "g", frames(fromMAC(ping(g, gw), packettest.NewStation(7).MAC)), packettest.All(packettest.OutOn("gw", 1), packettest.NoDrops())},
	})
}

// HC-03: after the attempt the gateway's frames still go to the gateway.
func TestStolenMACDivertsNothing(t *testing.T) {
	w := newWorld(t, nil)
	w.announce(t)
	for range 1000 {
		w.send("g", fromMAC(ping(g, b), gw.MAC), fromMAC(ping(g, b), a.MAC), fromMAC(ping(g, b), h.MAC))
	}
	w.send("b", ping(b, gw), ping(b, a), ping(b, h))
	packettest.Run(t, &w.result, packettest.All(
		packettest.OutOn("gw", 1), packettest.OutOn("a", 1), packettest.OutOn("h", 1), packettest.NoneOn("g"),
		packettest.OnlyDropped(drop.SrcMACSpoofed, 3000)))
}

// HC-06: no packet leaves under an address that is not the port's, whatever it carries.
func TestSourceIPv4(t *testing.T) {
	any4, all4 := netip.IPv4Unspecified(), netip.MustParseAddr("255.255.255.255")
	spoofed := refused(drop.SrcIPSpoofed)
	passes := packettest.All(packettest.OutOn("gw", 1), packettest.NoDrops())
	rows := []row{
		{"discover of a guest", "g", frames(packettest.DHCPDiscover(g.MAC, 1)), packettest.All(packettest.OutOn("gw", 1), packettest.NoDrops())},
		{"0.0.0.0 to another port", "g", frames(udp(g, any4, all4, 68, 68)), spoofed},
		{"0.0.0.0 to a station", "g", frames(udp(g, any4, gw.IP4, 68, 67)), spoofed},
		{"own address", "g", frames(udp(g, g.IP4, out4, 1, 2)), passes},
		{"any free address of the subnet", "g", frames(udp(g, netip.MustParseAddr("10.0.2.77"), out4, 1, 2)), passes},
		{"network address", "g", frames(udp(g, netip.MustParseAddr("10.0.2.0"), out4, 1, 2)), spoofed},
		{"broadcast address", "g", frames(udp(g, netip.MustParseAddr("10.0.2.255"), out4, 1, 2)), spoofed},
		{"outside the subnet", "g", frames(udp(g, netip.MustParseAddr("10.0.3.1"), out4, 1, 2)), spoofed},
		{"DHCP offer", "a", frames(udp(a, a.IP4, b.IP4, 67, 68)), spoofed},
		{"DHCP renewal", "a", frames(udp(a, a.IP4, gw.IP4, 68, 67)), passes},
		{"redirect", "a", frames(packettest.Frame(a.MAC, b.MAC, packettest.ICMP(a.IP4, b.IP4, 5, 1, 0, make([]byte, 28)))), spoofed},
		{"not IPv4", "a", frames(edited(ping(a, gw), func(p []byte) { p[0] = 0x65 })), refused(drop.IPMalformed)},
		{"IHL too small", "a", frames(edited(ping(a, gw), func(p []byte) { p[0] = 0x44 })), refused(drop.IPMalformed)},
		{"IHL past the end", "a", frames(packettest.Ether(a.MAC, gw.MAC, l2.TypeIPv4, append([]byte{0x4f}, ping(a, gw).L3[0][1:]...)[:30])), refused(drop.IPMalformed)},
		{"cut header", "a", frames(packettest.Ether(a.MAC, gw.MAC, l2.TypeIPv4, ping(a, gw).L3[0][:19])), refused(drop.IPMalformed)},
	}
	for _, from := range []struct {
		port string
		packettest.Station
	}{{"a", a}, {"g", g}} {
		for _, src := range []netip.Addr{b.IP4, gw.IP4, dns4, netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("127.0.0.1"), all4} {
			name := "HC-06: " + from.port + " sends from " + src.String()
			s, d := netip.AddrPortFrom(src, 4000), netip.AddrPortFrom(out4, 53)
			for kind, p := range map[string][]byte{
				" by UDP": packettest.UDP(s, d, []byte("query")), " by TCP": packettest.TCP(s, d, packettest.SYN, 1, 0, nil),
				" by ICMP": packettest.Echo(src, out4, 1, 1, nil),
			} {
				rows = append(rows, row{name + kind, from.port, frames(packettest.Frame(from.MAC, gw.MAC, p)), spoofed})
			}
		}
	}
	run(t, rows)
}

func TestARP(t *testing.T) {
	any4 := netip.IPv4Unspecified()
	arp := packettest.ARP
	gratuitous := func(mac l2.MAC, ip netip.Addr) l2.Frame { return arp(packettest.ARPReply, mac, ip, l2.Broadcast, ip) }
	run(t, []row{
		{"reply", "a", frames(arp(packettest.ARPReply, a.MAC, a.IP4, gw.MAC, gw.IP4)), packettest.All(packettest.OutOn("gw", 1), packettest.NoDrops())},
		{"gratuitous", "a", frames(gratuitous(a.MAC, a.IP4)), flooded("a", gratuitous(a.MAC, a.IP4))},
		{"probe", "a", frames(arp(packettest.ARPRequest, a.MAC, any4, l2.MAC{}, a.IP4)), flooded("a", arp(packettest.ARPRequest, a.MAC, any4, l2.MAC{}, a.IP4))},
		{"probe of a guest", "g", frames(arp(packettest.ARPRequest, g.MAC, any4, l2.MAC{}, g.IP4)), packettest.All(packettest.OutOn("h", 1), packettest.NoDrops())},
		{"HC-05: gratuitous for the gateway", "a", frames(gratuitous(a.MAC, gw.IP4)), refused(drop.SrcIPSpoofed)},
		{"HC-05: gratuitous for the gateway, guest", "g", frames(gratuitous(g.MAC, gw.IP4)), refused(drop.SrcIPSpoofed)},
		{"HC-05: reply for a neighbour", "a", frames(arp(packettest.ARPReply, a.MAC, b.IP4, gw.MAC, gw.IP4)), refused(drop.SrcIPSpoofed)},
		{"HC-05: reply with a neighbour's MAC inside", "a", frames(fromMAC(arp(packettest.ARPReply, b.MAC, a.IP4, gw.MAC, gw.IP4), a.MAC)), refused(drop.SrcMACSpoofed)},
		{"probe for the gateway's address", "a", frames(arp(packettest.ARPRequest, a.MAC, any4, l2.MAC{}, gw.IP4)), flooded("a", arp(packettest.ARPRequest, a.MAC, any4, l2.MAC{}, gw.IP4))},
		{"probe for the name server's address, guest", "g", frames(arp(packettest.ARPRequest, g.MAC, any4, l2.MAC{}, dns4)), flooded("g", arp(packettest.ARPRequest, g.MAC, any4, l2.MAC{}, dns4))},
		{"HC-05: request in the gateway's name", "a", frames(arp(packettest.ARPRequest, a.MAC, gw.IP4, l2.MAC{}, b.IP4)), refused(drop.SrcIPSpoofed)},
		{"probe for a neighbour", "a", frames(arp(packettest.ARPRequest, a.MAC, any4, l2.MAC{}, b.IP4)), refused(drop.SrcIPSpoofed)},
		{"reply from 0.0.0.0", "a", frames(arp(packettest.ARPReply, a.MAC, any4, b.MAC, a.IP4)), refused(drop.SrcIPSpoofed)},
		{"reverse ARP", "a", frames(edited(arpFor(a, b), func(p []byte) { p[7] = 3 })), refused(drop.IPMalformed)},
		{"other hardware", "a", frames(edited(arpFor(a, b), func(p []byte) { p[1] = 6 })), refused(drop.IPMalformed)},
		{"cut", "a", frames(packettest.Ether(a.MAC, l2.Broadcast, l2.TypeARP, arpFor(a, b).L3[0][:27])), refused(drop.IPMalformed)},
	})
}

func TestSourceIPv6(t *testing.T) {
	llA, llB, llG := packettest.LinkLocal(a.MAC), packettest.LinkLocal(b.MAC), packettest.LinkLocal(g.MAC)
	private := netip.MustParseAddr("fe80::1234") // not derived from a MAC (RFC 7217)
	spoofed := refused(drop.SrcIPSpoofed)
	passes := packettest.All(packettest.OutOn("gw", 1), packettest.NoDrops())
	mapped := netip.MustParseAddr("::ffff:10.0.2.100")
	echo := func(from packettest.Station, src netip.Addr) []l2.Frame {
		return frames(packettest.Frame(from.MAC, gw.MAC, packettest.Echo(src, out6, 1, 1, nil)))
	}
	mld := packettest.ND(a.MAC, l2.MAC{}, any6, netip.MustParseAddr("ff02::16"), 143, 0, nil)
	alert := []byte{58, 0, 5, 2, 0, 0, 1, 0} // router alert, then ICMPv6
	run(t, []row{
		{"own address", "a", echo(a, a.IP6), passes},
		{"own link-local address", "a", echo(a, llA), passes},
		{"guest's address", "g", echo(g, g.IP6), passes},
		{"guest's private link-local address", "g", echo(g, private), passes},
		{"HC-06: neighbour's address", "a", echo(a, b.IP6), spoofed},
		{"HC-06: neighbour's address, guest", "g", echo(g, b.IP6), spoofed},
		{"HC-06: neighbour's link-local address", "a", echo(a, llB), spoofed},
		{"HC-06: neighbour's link-local address, guest", "g", echo(g, llB), spoofed},
		{"HC-06: outside", "a", echo(a, netip.MustParseAddr("2001:db8::1")), spoofed},
		{"HC-06: gateway", "g", echo(g, gw.IP6), spoofed},
		{"private link-local address, strict", "a", echo(a, private), spoofed},
		{"IPv4-mapped own address", "a", echo(a, mapped), spoofed},
		{"unspecified", "a", echo(a, any6), spoofed},
		{"multicast listener report before DAD", "a", frames(with6(mld, 0, alert)), packettest.All(packettest.OutOn("gw", 1), packettest.NoDrops())},
		{"DHCPv6 answer", "a", frames(udp(a, llA, llB, 547, 546)), spoofed},
		{"DHCPv6 request", "g", frames(udp(g, llG, netip.MustParseAddr("ff02::1:2"), 546, 547)), passes},
		{"cut header", "a", frames(packettest.Ether(a.MAC, gw.MAC, l2.TypeIPv6, ping6(a, gw).L3[0][:39])), refused(drop.IPMalformed)},
		{"not IPv6", "a", frames(edited(ping6(a, gw), func(p []byte) { p[0] = 0x45 })), refused(drop.IPMalformed)},
	})
}

func TestNeighborDiscovery(t *testing.T) {
	llA, llGw := packettest.LinkLocal(a.MAC), packettest.LinkLocal(gw.MAC)
	group := packettest.AllNodes
	ra := packettest.RA(a.MAC, llA, nets[1])
	frag := func(offset uint16, more bool) []byte {
		v := offset << 3
		if more {
			v |= 1
		}
		return []byte{58, 0, byte(v >> 8), byte(v), 0, 0, 0, 1}
	}
	pad := func(next byte) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} } // an options header of PadN
	// The first fragment ends inside an options header of 80 bytes.
	cut := edited(with6(ra, 44, frag(0, true), []byte{58, 9}), func(p []byte) { p[40] = 60; p[4], p[5] = 0, 10 })
	spoofed := refused(drop.SrcIPSpoofed)
	run(t, []row{
		{"solicitation", "a", frames(packettest.NS(a.MAC, a.IP6, b.IP6)), flooded("a", packettest.NS(a.MAC, a.IP6, b.IP6))},
		{"DAD", "a", frames(packettest.NS(a.MAC, any6, a.IP6)), flooded("a", packettest.NS(a.MAC, any6, a.IP6))},
		{"DAD of a guest", "g", frames(packettest.NS(g.MAC, any6, g.IP6)), flooded("g", packettest.NS(g.MAC, any6, g.IP6))},
		{"DAD for the gateway's address", "a", frames(packettest.NS(a.MAC, any6, gw.IP6)), flooded("a", packettest.NS(a.MAC, any6, gw.IP6))},
		{"DAD for the gateway's link-local address, guest", "g", frames(packettest.NS(g.MAC, any6, llGw)), flooded("g", packettest.NS(g.MAC, any6, llGw))},
		{"router solicitation", "a", frames(packettest.RS(a.MAC, llA)), flooded("a", packettest.RS(a.MAC, llA))},
		{"advertisement", "a", frames(packettest.NA(a.MAC, a.IP6)), flooded("a", packettest.NA(a.MAC, a.IP6))},
		{"HC-09: advertisement of a neighbour's address", "a", frames(packettest.ND(a.MAC, l2.MAC{}, a.IP6, group, 136, 1<<29, packettest.NA(b.MAC, b.IP6).L3[0][48:])), spoofed},
		{"HC-09: advertisement of the gateway, guest", "g", frames(packettest.ND(g.MAC, l2.MAC{}, g.IP6, group, 136, 1<<29, packettest.NA(g.MAC, gw.IP6).L3[0][48:])), spoofed},
		{"HC-09: advertisement with another MAC", "a", frames(fromMAC(packettest.NA(b.MAC, a.IP6), a.MAC)), refused(drop.SrcMACSpoofed)},
		{"HC-09: solicitation with another MAC", "a", frames(fromMAC(packettest.NS(b.MAC, a.IP6, gw.IP6), a.MAC)), refused(drop.SrcMACSpoofed)},
		{"HC-09: router solicitation with another MAC", "a", frames(fromMAC(packettest.RS(b.MAC, llA), a.MAC)), refused(drop.SrcMACSpoofed)},
		{"HC-09: DAD for a neighbour's address", "a", frames(packettest.NS(a.MAC, any6, b.IP6)), spoofed},
		{"HC-09: redirect", "a", frames(packettest.Redirect6(a.MAC, b.MAC, llA, b.IP6, a.IP6, out6)), spoofed},
		{"HC-08: router advertisement", "a", frames(ra), spoofed},
		{"HC-08: router advertisement of a guest", "g", frames(packettest.RA(g.MAC, packettest.LinkLocal(g.MAC), nets[1])), spoofed},
		{"HC-08: behind an options header", "a", frames(with6(ra, 60, pad(58))), spoofed},
		{"HC-08: behind a hop-by-hop header", "a", frames(with6(ra, 0, pad(60), pad(58))), spoofed},
		{"HC-08: in an atomic fragment", "a", frames(with6(ra, 44, frag(0, false))), refused(drop.IPMalformed)},
		{"HC-08: in a first fragment", "a", frames(with6(ra, 44, frag(0, true))), refused(drop.IPMalformed)},
		{"HC-08: chain goes on in the next fragment", "a", frames(cut), refused(drop.IPMalformed)},
		{"HC-22: too many headers", "a", frames(with6(ping6(a, gw), 60, pad(60), pad(60), pad(60), pad(60), pad(60), pad(60), pad(60), pad(60), pad(58))), refused(drop.IPMalformed)},
		{"a later fragment", "a", frames(with6(ping6(a, gw), 44, frag(100, false))), packettest.OutOn("gw", 1)},
		{"option of length 0", "a", frames(edited(packettest.NA(a.MAC, a.IP6), func(p []byte) { p[65] = 0 })), refused(drop.IPMalformed)},
		{"target cut off", "a", frames(packettest.ND(a.MAC, l2.MAC{}, a.IP6, group, 136, 0, make([]byte, 15))), refused(drop.IPMalformed)},
		{"no ICMPv6 at all", "a", frames(packettest.Frame(a.MAC, gw.MAC, packettest.IP(a.IP6, gw.IP6, packettest.ProtoICMPv6, nil))), refused(drop.IPMalformed)},
	})
}

// HC-08 has a positive twin: what containers may not say, the gateway may.
func TestGatewayIsNotGuarded(t *testing.T) {
	w := newWorld(t, nil)
	w.send("gw",
		packettest.RA(gw.MAC, packettest.LinkLocal(gw.MAC), nets[1]),
		packettest.Frame(gw.MAC, a.MAC, packettest.UDP(netip.AddrPortFrom(out4, 67), netip.AddrPortFrom(a.IP4, 68), nil)))
	packettest.Run(t, &w.result, packettest.All(packettest.OutOn("a", 2), packettest.OutOn("b", 1), packettest.NoDrops()))
}

// HC-07: a flood of source addresses fills the port's share of the table and nothing else.
func TestMACFlood(t *testing.T) {
	w := newWorld(t, nil)
	w.announce(t)
	for i := range uint32(100_000) {
		src := l2.MAC{0x02, 0xff}
		binary.BigEndian.PutUint32(src[2:], i)
		w.send("g", fromMAC(ping(g, gw), src))
		w.send("a", fromMAC(ping(a, gw), src))
	}
	// The guest has its own MAC and three more; the strict container has its own.
	packettest.Run(t, &w.result, packettest.All(packettest.OutOn("gw", bridge.MaxMACs-1), packettest.OnlyDropped(drop.SrcMACSpoofed, 200_000-bridge.MaxMACs+1)))
	for _, p := range w.out {
		p.Clear()
	}
	// Unicast between others is still not shown to the attacker.
	w.send("b", ping(b, h), ping(b, gw))
	packettest.Run(t, &w.result, packettest.All(packettest.NoneOn("g", "a"), packettest.OutOn("h", 1), packettest.OutOn("gw", 1)))
}

// A guest's idle MAC is forgotten in passing, and another guest may have it then.
func TestAgeing(t *testing.T) {
	w := newWorld(t, nil)
	w.announce(t)
	w.now = w.now.Add(4 * time.Minute)
	w.send("h", fromMAC(ping(h, gw), g.MAC))
	packettest.Run(t, &w.result, packettest.OnlyDropped(drop.SrcMACSpoofed, 1))
	w.now = w.now.Add(time.Minute)
	w.send("a", ping(a, g))
	packettest.Run(t, &w.result, packettest.All(packettest.NoneOn("g"), packettest.Dropped(drop.DstUnknown, 1)))
	w.send("h", fromMAC(ping(h, gw), g.MAC))
	w.send("a", ping(a, g))
	packettest.Run(t, &w.result, packettest.All(packettest.NoneOn("g"), packettest.OutOn("h", 1)))
}

// HC-30: at most 1000 broadcasts a second from a port, after a burst; the gateway and others have their own.
func TestBroadcastLimit(t *testing.T) {
	w := newWorld(t, nil)
	const seconds = 3
	for range seconds * 10_000 {
		w.now = w.now.Add(100 * time.Microsecond)
		w.send("a", arpFor(a, b))
	}
	n, most := len(w.out["b"].Frames()), seconds*bridge.BroadcastRate+bridge.BroadcastBurst
	if n > most || n < seconds*bridge.BroadcastRate {
		t.Errorf("%d broadcasts in %d s, want %d", n, seconds, most)
	}
	packettest.Run(t, &w.result, packettest.OnlyDropped(drop.BroadcastLimit, uint64(seconds*10_000-n)))
	before := len(w.out["a"].Frames())
	w.send("b", arpFor(b, a))
	for range 500 {
		w.send("gw", arpFor(gw, a))
	}
	if got := len(w.out["a"].Frames()) - before; got != 501 {
		t.Errorf("%d broadcasts of others arrived, want 501", got)
	}
}

// What a broadcast costs is its segments: one GSO frame is not a way around the limit.
func TestBroadcastLimitCountsSegments(t *testing.T) {
	w := newWorld(t, nil)
	group := netip.MustParseAddr("239.1.1.1")
	f := gso(packettest.Frame(a.MAC, packettest.GroupMAC(group), packettest.UDP(
		netip.AddrPortFrom(a.IP4, 1), netip.AddrPortFrom(group, 2), make([]byte, 40_000))), l2.GSOUDPL4, 1000)
	w.send("a", f, f, f) // 40 segments each, a burst of 100
	packettest.Run(t, &w.result, packettest.All(packettest.OutOn("b", 2), packettest.OnlyDropped(drop.BroadcastLimit, 1)))
}
