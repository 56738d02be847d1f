package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// made tells whether the gateway has a netstack.
func (b *bench) made() bool { return b.gw.stack.known.Load() != nil }

// TestSilentNetwork: what containers say without TCP makes no netstack (RX-11).
func TestSilentNetwork(t *testing.T) {
	b := newBench(t)
	outside := netip.MustParseAddr("198.51.100.1")
	b.frames(
		packettest.ARP(packettest.ARPRequest, containerMAC, container4, l2.MAC{}, testNet.Gateway4),
		packettest.ARP(packettest.ARPReply, containerMAC, container4, testNet.GatewayMAC, testNet.Gateway4),
		packettest.NS(containerMAC, container6, testNet.Gateway6),
		packettest.NS(containerMAC, netip.IPv6Unspecified(), container6),
		packettest.NA(containerMAC, container6),
	)
	b.send(
		datagram("10.0.2.100:1000", "198.51.100.1:7"), datagram("10.0.2.100:1000", netip.AddrPortFrom(testNet.DNS4, 53).String()),
		datagram("0.0.0.0:68", "255.255.255.255:67"), packettest.Echo(container4, outside, 1, 1, nil),
		packettest.ICMP(container4, outside, 3, 4, 1000, packettest.TCP(ap(outside4), netip.AddrPortFrom(container4, 1000), packettest.ACK, 1, 1, nil)),
	)
	b.gw.AddNeighbour(other4, otherMAC)
	b.gw.RemoveNeighbour(other4)
	if b.made() {
		t.Error("there is a netstack, and nobody needed it")
	}
	if got := len(b.link.take()); got != 3 {
		t.Errorf("%d answers, want those for two addresses of the gateway and the name server's", got)
	}
	b.gw.Close()
	if _, err := b.gw.netstack(); !errors.Is(err, net.ErrClosed) || b.made() {
		t.Errorf("a netstack after the end: %v", err)
	}
	b.send(packettest.TCP(netip.AddrPortFrom(container4, 1), netip.AddrPortFrom(outside, 80), packettest.SYN, 1, 0, nil))
	if b.drops.Get(drop.QueueFull) != 1 {
		t.Errorf("a segment after the end is not counted: %v", b.drops.Snapshot())
	}
}

// TestFirstPacket: the packet that makes the netstack is answered as any other.
func TestFirstPacket(t *testing.T) {
	container := netip.AddrPortFrom(container4, 1)
	for name, tc := range map[string]struct {
		packet []byte
		flags  uint8 // of the answer, if that is TCP
	}{
		"a SYN to a port that is refused": {packettest.TCP(container, ap(outside4), packettest.SYN, 1, 0, nil), packettest.RST | packettest.ACK},
		"a SYN to the name server": {
			packettest.TCP(container, netip.AddrPortFrom(testNet.DNS4, 53), packettest.SYN, 1, 0, nil), packettest.SYN | packettest.ACK,
		},
		"a SYN to the resolver": {
			packettest.TCP(container, netip.AddrPortFrom(spec.LoopbackDNS, 53), packettest.SYN, 1, 0, nil), packettest.SYN | packettest.ACK,
		},
		"a segment of a connection that is gone": {packettest.TCP(container, ap(outside4), packettest.ACK, 1, 1, nil), packettest.RST},
		"a ping of the gateway":                  {packettest.Echo(container4, testNet.Gateway4, 1, 1, nil), 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, withDial(refuseAll(make(chan netip.AddrPort, 1))))
			b.send(tc.packet)
			p := b.next("answer to "+name, func(segment) bool { return true })
			if p.Proto == ip.TCP && p.Flags != tc.flags {
				t.Errorf("answered with flags %#x, want %#x", p.Flags, tc.flags)
			}
			if !b.made() {
				t.Error("answered without a netstack")
			}
		})
	}
}

// TestNeighboursBefore: netstack knows what was known before it was made, whoever came and went meanwhile.
func TestNeighboursBefore(t *testing.T) {
	b := newBench(t)
	station := func(i int) (netip.Addr, l2.MAC) {
		return netip.AddrFrom4([4]byte{10, 0, 3, byte(i)}), l2.MAC{2, 3, 0, 0, 0, byte(i)}
	}
	const all, stay = 200, 100 // the others go again
	for i := range all {
		if i%2 == 0 {
			b.gw.AddNeighbour(station(i))
		}
	}
	var changes sync.WaitGroup
	changes.Go(func() {
		for i := range all {
			a, m := station(i)
			if i%2 == 1 {
				b.gw.AddNeighbour(a, m)
			}
			if i >= stay {
				b.gw.RemoveNeighbour(a)
			}
		}
	})
	s := stackOf(t, b.gw)
	changes.Wait()
	entries, err := s.Neighbors(nicID, netProto(container4))
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[netip.Addr]tcpip.LinkAddress)
	for _, e := range entries {
		known[toNetip(e.Addr)] = e.LinkAddr
	}
	for i := range all {
		a, m := station(i)
		want := ""
		if i < stay {
			want = m.String()
		}
		if got := fmt.Sprint(known[a]); got != want {
			t.Errorf("netstack has %s at %q, want %q", a, got, want)
		}
	}
	if known[container4] != tcpip.LinkAddress(containerMAC[:]) {
		t.Errorf("netstack has the container at %q", known[container4])
	}
}

// TestNeighboursTold: however many tell of an address at a time, netstack ends up with what is known.
func TestNeighboursTold(t *testing.T) {
	b := newBench(t)
	s := stackOf(t, b.gw)
	a := netip.MustParseAddr("10.0.3.1")
	for round := range 50 {
		var changes sync.WaitGroup
		for i := range 4 {
			changes.Go(func() {
				for n := range 20 {
					if i == 0 && n%2 == 1 {
						b.gw.RemoveNeighbour(a)
					} else {
						b.gw.AddNeighbour(a, l2.MAC{2, 3, 0, byte(round), byte(i), byte(n)})
					}
				}
			})
		}
		changes.Wait()
		want := tcpip.LinkAddress("")
		if m, ok := b.gw.neighbours.lookup(a); ok {
			want = tcpip.LinkAddress(m[:])
		}
		entries, err := s.Neighbors(nicID, netProto(a))
		if err != nil {
			t.Fatal(err)
		}
		got := tcpip.LinkAddress("")
		for _, e := range entries {
			if toNetip(e.Addr) == a {
				got = e.LinkAddr
			}
		}
		if got != want {
			t.Fatalf("round %d: netstack has the station at %q, want %q", round, got, want)
		}
	}
}

// TestAddressesRefused: an address that netstack would not take is refused when the gateway is made, not with the first packet.
func TestAddressesRefused(t *testing.T) {
	for name, change := range map[string]func(n *spec.Network){
		"IPv6 without a subnet": func(n *spec.Network) { n.Subnet6 = netip.Prefix{} },
		"a group":               func(n *spec.Network) { n.DNS4 = netip.MustParseAddr("224.0.0.1") },
		"nobody":                func(n *spec.Network) { n.Gateway4 = netip.IPv4Unspecified() },
		"IPv4-mapped":           func(n *spec.Network) { n.DNS6 = netip.MustParseAddr("::ffff:10.0.2.3") },
	} {
		n := testNet
		change(&n)
		if g, err := New(Config{Spec: n, Policy: mustPolicy(t, n)}); err == nil {
			g.Close()
			t.Errorf("%s: a gateway is made", name)
		}
	}
	n := testNet // one address for all, and the resolver's own
	n.DNS4, n.Gateway6 = spec.LoopbackDNS, n.DNS6
	b := newBench(t, func(c *Config) { c.Spec = n })
	stackOf(t, b.gw)
}
