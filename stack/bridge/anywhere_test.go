package bridge_test

import (
	"net/netip"
	"testing"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/bridge"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// A guest whose subnets are everything sends from any station's address that is nobody else's, and from no other kind.
func TestAnySource(t *testing.T) {
	for src, want := range map[string]packettest.Check{
		"198.51.100.1": packettest.OutOn("gw", 1), "169.254.2.1": packettest.OutOn("gw", 1), "10.0.2.77": packettest.OutOn("gw", 1),
		gw.IP4.String(): refused(drop.SrcIPSpoofed), a.IP4.String(): refused(drop.SrcIPSpoofed),
		"127.0.0.1": refused(drop.SrcIPSpoofed), "224.0.0.1": refused(drop.SrcIPSpoofed), "0.0.0.1": refused(drop.SrcIPSpoofed),
		"255.255.255.255": refused(drop.SrcIPSpoofed), "240.0.0.1": refused(drop.SrcIPSpoofed),
		"2001:db8::1": packettest.OutOn("gw", 1), "::1": refused(drop.SrcIPSpoofed), "ff02::1": refused(drop.SrcIPSpoofed),
		"::ffff:10.0.0.1": refused(drop.SrcIPSpoofed), gw.IP6.String(): refused(drop.SrcIPSpoofed),
	} {
		t.Run(src, func(t *testing.T) {
			w := newWorld(t, func(c *bridge.PortConfig) {
				if c.ID == "g" {
					c.Subnets = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
				}
			})
			w.announce(t)
			from, to := netip.MustParseAddr(src), out4
			if from.Is6() {
				to = netip.MustParseAddr("2001:db8::2")
			}
			w.send("g", packettest.Frame(g.MAC, gw.MAC, packettest.UDP(netip.AddrPortFrom(from, 1), netip.AddrPortFrom(to, 2), []byte("x"))))
			packettest.Run(t, &w.result, want)
		})
	}
	// And so with ARP.
	w := newWorld(t, func(c *bridge.PortConfig) {
		if c.ID == "g" {
			c.Subnets = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
		}
	})
	w.announce(t)
	w.send("g", packettest.ARP(packettest.ARPRequest, g.MAC, netip.MustParseAddr("240.0.0.1"), l2.MAC{}, gw.IP4))
	packettest.Run(t, &w.result, packettest.OnlyDropped(drop.SrcIPSpoofed, 1))
}
