package stack_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// HC-03 to HC-11 and HC-06 once more, between three containers of one Network and through all of the datapath: what a
// sends under another's name, or in a role that is not its own, neither b nor c sees, and it is counted.
func TestHCThreeContainers(t *testing.T) {
	n := networkOf(t, stack.NewHost(stack.HostOptions{}), nil)
	a, b, c := attach(t, n, "a", 100, true), attach(t, n, "b", 101, true), attach(t, n, "c", 102, true)
	gw := packettest.Station{MAC: testNet.GatewayMAC, IP4: testNet.Gateway4, IP6: testNet.Gateway6}
	as := func(f l2.Frame, mac l2.MAC) l2.Frame {
		f.Header = l2.MakeHeader(f.Header.Dst(), mac, f.Header.Type())
		return f
	}
	echo := func(src, dst packettest.Station, from netip.Addr) l2.Frame {
		return packettest.Frame(src.MAC, dst.MAC, packettest.Echo(from, dst.IP4, 1, 1, nil))
	}
	linkLocal := packettest.LinkLocal(a.MAC)
	offer := packettest.Frame(a.MAC, b.MAC, packettest.UDP(netip.AddrPortFrom(a.IP4, 67), netip.AddrPortFrom(b.IP4, 68), make([]byte, 300)))
	redirect := packettest.Frame(a.MAC, b.MAC, packettest.ICMP(a.IP4, b.IP4, 5, 1, 0x0a000264, packettest.Echo(b.IP4, gw.IP4, 1, 1, nil)))
	for _, row := range []struct {
		name, reason string
		f            l2.Frame
	}{
		{"HC-03: the gateway's MAC", "src-mac-spoofed", as(echo(a.Station, b.Station, a.IP4), gw.MAC)},
		{"HC-04: a neighbour's MAC", "src-mac-spoofed", as(echo(a.Station, b.Station, a.IP4), c.MAC)},
		{"HC-05: ARP reply for the gateway", "src-ip-spoofed", packettest.ARP(packettest.ARPReply, a.MAC, gw.IP4, b.MAC, b.IP4)},
		{"HC-05: gratuitous ARP for a neighbour", "src-ip-spoofed", packettest.ARP(packettest.ARPRequest, a.MAC, c.IP4, l2.MAC{}, c.IP4)},
		{"HC-06: a neighbour's address", "src-ip-spoofed", echo(a.Station, b.Station, c.IP4)},
		{"HC-06: an outside address", "src-ip-spoofed", echo(a.Station, b.Station, netip.MustParseAddr("8.8.8.8"))},
		{"HC-06: an outside address to the gateway", "src-ip-spoofed", echo(a.Station, gw, netip.MustParseAddr("8.8.8.8"))},
		{"HC-06: a DNS query as a neighbour", "src-ip-spoofed", packettest.Frame(a.MAC, gw.MAC,
			packettest.UDP(netip.AddrPortFrom(c.IP4, 1), netip.AddrPortFrom(testNet.DNS4, 53), query(t, "b")))},
		{"HC-07: another MAC", "src-mac-spoofed", as(echo(a.Station, b.Station, a.IP4), packettest.NewStation(77).MAC)},
		{"HC-08: router advertisement", "src-ip-spoofed", packettest.RA(a.MAC, linkLocal, testNet.Subnet6)},
		{"HC-09: advertisement of a neighbour", "src-ip-spoofed", packettest.NA(a.MAC, c.IP6)},
		{"HC-09: redirect", "src-ip-spoofed", redirect},
		{"HC-09: redirect, IPv6", "src-ip-spoofed", packettest.Redirect6(a.MAC, b.MAC, linkLocal, b.IP6, c.IP6, netip.MustParseAddr("2001:db8::1"))},
		{"HC-10: DHCP offer", "src-ip-spoofed", offer},
		{"HC-11: 802.1Q", "ethertype-denied", packettest.Ether(a.MAC, b.MAC, 0x8100, make([]byte, 46))},
		{"HC-11: STP", "ethertype-denied", packettest.Ether(a.MAC, l2.MAC{1, 0x80, 0xc2}, 38, make([]byte, 46))},
	} {
		t.Run(row.name, func(t *testing.T) {
			before := n.Stats().Drops[row.reason]
			a.send(row.f)
			// These come behind it: that they are the next to come proves that it did not.
			for _, to := range []*container{b, c} {
				honest := echo(a.Station, to.Station, a.IP4)
				a.send(honest)
				if f, p := to.next("anything", func(l2.Frame, packettest.Decoded) bool { return true }); !packettest.Equal(f, honest) {
					t.Errorf("a container sees %v", p)
				}
			}
			if got := n.Stats().Drops[row.reason] - before; got != 1 {
				t.Errorf("%d drops for %s, want 1", got, row.reason)
			}
		})
	}
}

// HC-10: no number of made-up clients gets a lease; the container's own is bound to its port.
func TestHC10Starvation(t *testing.T) {
	n := networkOf(t, stack.NewHost(stack.HostOptions{}), nil)
	a := attach(t, n, "a", 100, true)
	for i := range 1000 {
		mac := l2.MAC{2, 9, 9, 9, byte(i >> 8), byte(i)}
		f := packettest.DHCPDiscover(mac, uint32(i)) // the client's address in frame and message
		if i%2 == 0 {
			f.Header = l2.MakeHeader(f.Header.Dst(), a.MAC, f.Header.Type()) // in the message only
		}
		a.send(f)
	}
	// Its broadcasts have a rate, so its own may have to be sent again.
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 500 {
		a.send(packettest.DHCPDiscover(a.MAC, 77))
		for again := false; !again; {
			select {
			case f := <-a.got:
				p, err := packettest.Decode(f)
				if err != nil || p.Src.Port() != 67 {
					continue
				}
				if got := netip.AddrFrom4([4]byte(p.Payload[16:20])); got != a.IP4 {
					t.Fatalf("an offer of %v", got)
				}
				return
			case <-tick.C:
				again = true
			}
		}
	}
	t.Fatal("no lease of its own in 10 s")
}

// HC-13, LK6: in a Network without icc the link's port is open and nothing else, also after an Update.
func TestHC13Accept(t *testing.T) {
	n := networkOf(t, stack.NewHost(stack.HostOptions{}), func(n *spec.Network) { n.Apart = true })
	a, b := attach(t, n, "a", 100, true), attach(t, n, "b", 101, true)
	isolated := func() uint64 { return n.Stats().Drops["port-isolated"] }
	syn := packettest.Frame(a.MAC, b.MAC, packettest.TCP(netip.AddrPortFrom(a.IP4, 1), netip.AddrPortFrom(b.IP4, 80), packettest.SYN, 1, 0, nil))
	a.send(syn)
	a.ping(1)
	if isolated() != 1 {
		t.Fatalf("%d frames held back, want 1", isolated())
	}
	ep := endpointSpec("b", b.Station)
	for _, bad := range []spec.Accept{{From: "a", Proto: "icmp", Port: 1}, {From: "a", Proto: "tcp"}, {Proto: "tcp", Port: 1}} {
		if ep.Accept = []spec.Accept{bad}; n.Update(ep) == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	ep.Accept = []spec.Accept{{From: "a", Proto: "tcp", Port: 80}}
	if err := n.Update(ep); err != nil {
		t.Fatal(err)
	}
	a.send(syn)
	b.next("SYN through the hole", func(f l2.Frame, _ packettest.Decoded) bool { return packettest.Equal(f, syn) })
}
