package bridge_test

import (
	"net/netip"
	"testing"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// HC-15, HC-16: a container's own loopback is out of its neighbours' reach, though its kernel takes such packets from
// the wire for the sake of the resolver; the resolver is reached, and answers.
func TestHC16Loopback(t *testing.T) {
	local, resolver := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.11")
	to := func(from packettest.Station, mac l2.MAC, src, dst netip.Addr) l2.Frame {
		return packettest.Frame(from.MAC, mac, packettest.UDP(netip.AddrPortFrom(src, 1000), netip.AddrPortFrom(dst, 53), []byte("x")))
	}
	toTCP := packettest.Frame(a.MAC, b.MAC, packettest.TCP(netip.AddrPortFrom(a.IP4, 1), netip.AddrPortFrom(local, 80), packettest.SYN, 1, 0, nil))
	run(t, []row{
		{"a neighbour's 127.0.0.1", "a", frames(toTCP), refused(drop.Loopback)},
		{"a neighbour's 127.0.0.11", "a", frames(to(a, b.MAC, a.IP4, resolver)), refused(drop.Loopback)},
		{"a guest's", "a", frames(to(a, g.MAC, a.IP4, local)), refused(drop.Loopback)},
		{"everybody's", "a", frames(to(a, l2.Broadcast, a.IP4, local)), refused(drop.Loopback)},
		{"a group's", "a", frames(to(a, l2.MAC{1, 0, 0x5e, 0, 0, 1}, a.IP4, local)), refused(drop.Loopback)},
		{"from the gateway", "gw", frames(to(gw, a.MAC, gw.IP4, local)), refused(drop.Loopback)},
		{"as 127.0.0.1", "a", frames(to(a, b.MAC, local, b.IP4)), refused(drop.SrcIPSpoofed)},
		{"as 127.0.0.1 to the gateway", "a", frames(to(a, gw.MAC, local, gw.IP4)), refused(drop.SrcIPSpoofed)},
		{"as the resolver", "a", frames(to(a, b.MAC, resolver, b.IP4)), refused(drop.SrcIPSpoofed)},
		{"as the resolver, guest", "g", frames(to(g, b.MAC, resolver, b.IP4)), refused(drop.SrcIPSpoofed)},
		{"ARP for 127.0.0.1", "a", frames(packettest.ARP(packettest.ARPRequest, a.MAC, a.IP4, l2.MAC{}, local)), refused(drop.Loopback)},
		{"ARP as 127.0.0.11", "a", frames(packettest.ARP(packettest.ARPReply, a.MAC, resolver, b.MAC, b.IP4)), refused(drop.Loopback)},
		{"the resolver", "a", frames(to(a, gw.MAC, a.IP4, resolver)), packettest.All(packettest.OutOn("gw", 1), packettest.NoDrops())},
		{"the resolver's answer", "gw", frames(to(gw, a.MAC, resolver, a.IP4)), packettest.All(packettest.OutOn("a", 1), packettest.NoDrops())},
	})
}
