package rootlesstests

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/rootless-tests/rig"
	"github.com/usernet/usernet/stack/l2"
)

// HC-15, HC-16: route_localnet lets a sandbox's kernel take packets for 127.0.0.0/8 from its network, for the sake of the
// resolver at 127.0.0.11. What listens on a sandbox's own loopback is still out of its neighbours' reach: they get no
// packet there, whether they say it in the frame, in ARP, or have a route.
func TestHC16LoopbackOfNeighbour(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	d.Must(t, "usernet", "network", "create", "shared")
	victim, attacker := d.Run(t, "--name", "victim", "--network", "shared"), d.Run(t, "--name", "attacker", "--network", "shared")
	from, own := addrIn(t, d, "attacker", "shared"), addrIn(t, d, "victim", "shared")
	if got := victim.ReadFile(t, "/proc/sys/net/ipv4/conf/eth0/route_localnet"); got != "1\n" {
		t.Fatalf("route_localnet is %q: this test shows nothing", got)
	}

	const port = 9
	local := netip.MustParseAddr("127.0.0.1")
	accept(t, victim.ListenTCP(t, at(local, port)), func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	udps := listenUDP(t, victim.Node, at(netip.IPv4Unspecified(), port), sendBack)

	link := attacker.OpenPacket(t, rig.DevEth0)
	mac := victim.OpenPacket(t, rig.DevEth0).MAC
	heard := victim.Capture(t, rig.DevEth0, func(p packettest.Decoded) bool {
		return p.Dst.Addr().IsLoopback() || p.Src.Addr().IsLoopback()
	})
	for _, to := range []string{"127.0.0.1", "127.0.0.11", "127.8.8.8", "127.255.255.255"} {
		to := netip.MustParseAddr(to)
		for _, dst := range []l2.MAC{mac, l2.Broadcast, {1, 0, 0x5e, 0, 0, 1}} {
			link.SendPacket(t, dst, udp(at(from, 9000), at(to, port), evil))
			link.SendPacket(t, dst, packettest.TCP(at(from, 9000), at(to, port), packettest.SYN, 1, 0, nil))
			link.SendPacket(t, dst, packettest.Echo(from, to, 1, 1, []byte(evil)))
			// As if it came from the victim itself, or from its resolver.
			link.SendPacket(t, dst, udp(at(to, 53), at(own, port), evil))
		}
		// The victim's kernel would answer that it has the address.
		link.MustSend(t, packettest.Bytes(packettest.ARP(packettest.ARPRequest, link.MAC, from, l2.MAC{}, to)))
	}
	// By the attacker's kernel, with a route.
	attacker.Run(t, "ip", "route", "add", "127.8.8.8", "via", own.String(), "dev", rig.DevEth0, "src", from.String(), "table", "local")
	unreachable(t, attacker.Node, at(netip.MustParseAddr("127.8.8.8"), port))

	// Behind all of that, one that is to arrive.
	if got := exchange(t, attacker.DialUDP(t, at(own, port)), []byte("hi")); string(got) != "hi" {
		t.Errorf("the victim answers %q", got)
	}
	for _, p := range heard.Seen() {
		t.Errorf("at the victim: %v", p)
	}
	for _, p := range udps.received() {
		if p.payload == evil {
			t.Errorf("the victim's socket got a datagram from %v", p.from)
		}
	}
	// Nor has any of it hurt the resolver, which is reached the same way.
	if out := victim.Run(t, "dig", "+short", "+time=2", "attacker", "@127.0.0.11"); out != from.String()+"\n" {
		t.Errorf("the resolver says %q, want %v", out, from)
	}
	if out := victim.Run(t, "dig", "+short", "+tcp", "+time=2", "attacker", "@127.0.0.11"); out != from.String()+"\n" {
		t.Errorf("the resolver says by TCP %q, want %v", out, from)
	}
}
