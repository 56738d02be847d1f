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
	"github.com/usernet/usernet/stack/l2"
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
	for name, p := range map[string][]byte{
		"a SYN to a port that is refused": packettest.TCP(netip.AddrPortFrom(container4, 1), ap(outside4), packettest.SYN, 1, 0, nil),
		"a SYN to the name server":        packettest.TCP(netip.AddrPortFrom(container4, 1), netip.AddrPortFrom(testNet.DNS4, 53), packettest.SYN, 1, 0, nil),
		"a ping of the gateway":           packettest.Echo(container4, testNet.Gateway4, 1, 1, nil),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, withDial(refuseAll(make(chan netip.AddrPort, 1))))
			b.send(p)
			b.next("answer to "+name, func(segment) bool { return true })
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
