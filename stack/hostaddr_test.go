package stack_test

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap/taptest"
)

// guestOf gives a network with what edit changes one container that configures itself.
func guestOf(t *testing.T, edit func(*spec.Network)) (*stack.Network, *container) {
	t.Helper()
	network := testNet
	edit(&network)
	n, err := stack.NewHost(stack.HostOptions{}).New(network, stack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	f, info, far, err := taptest.Socket("g", network.MTU, true)
	if err != nil {
		t.Fatal(err)
	}
	c := &container{Station: packettest.NewStation(100), t: t, far: far, got: make(chan l2.Frame, 1000)}
	ep := endpointSpec("g", c.Station)
	ep.Strict = false
	if err := n.Attach(ep, f, info); err != nil {
		t.Fatal(err)
	}
	c.reader.Go(func() {
		defer close(c.got)
		for {
			f, err := far.Recv()
			if err != nil {
				return
			}
			c.got <- f
		}
	})
	t.Cleanup(c.gone)
	return n, c
}

// TestLease: DHCP gives an Endpoint that is not strict the Lease, and it may use that and its own address.
func TestLease(t *testing.T) {
	lease := netip.MustParseAddr("10.0.2.15")
	n, c := guestOf(t, func(n *spec.Network) { n.Autoconf.Lease = lease })
	c.send(packettest.DHCPDiscover(c.MAC, 7))
	_, p := c.next("an offer", func(_ l2.Frame, p packettest.Decoded) bool {
		return p.Proto == packettest.ProtoUDP && p.Src.Port() == 67
	})
	if got := netip.AddrFrom4([4]byte(p.Payload[16:20])); got != lease {
		t.Errorf("offered %v, want %v", got, lease)
	}
	for i, src := range []netip.Addr{lease, c.IP4} {
		c.toGateway(packettest.Echo(src, testNet.Gateway4, uint16(i), 1, nil))
		c.next("a reply to "+src.String(), echoReply(uint16(i)))
	}
	if d := n.Stats().Drops; len(d) != 0 {
		t.Errorf("drops %v", d)
	}
}

// TestPublishTo: a published port leads to an address behind the container, whose answers are let through, until it is
// taken back; a strict container has nothing behind it.
func TestPublishTo(t *testing.T) {
	n, c := guestOf(t, func(n *spec.Network) { n.AnyNeighbour = true })
	behind := netip.MustParseAddr("10.89.0.2")
	publish := func(s portfwd.Spec, endpoint string) (string, error) {
		ls, err := portfwd.Listen([]portfwd.Spec{s}, false)
		if err != nil {
			t.Fatal(err)
		}
		at := netip.AddrPortFrom(ls[0].Spec.HostIP, ls[0].Spec.HostPort).String()
		return at, n.Publish("p", ls[0].Spec, ls[0].File, endpoint)
	}
	at, err := publish(portfwd.Spec{Proto: portfwd.UDP, HostIP: netip.MustParseAddr("127.0.0.1"), Port: 80, To: behind}, "g")
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("udp4", at)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := io.WriteString(client, "hello"); err != nil {
		t.Fatal(err)
	}
	f, p := c.next("the datagram", func(_ l2.Frame, p packettest.Decoded) bool { return p.Proto == packettest.ProtoUDP })
	if p.Dst != netip.AddrPortFrom(behind, 80) || p.Src.Addr() != testNet.Gateway4 || f.Header.Dst() != c.MAC {
		t.Errorf("came as %v", p)
	}
	c.toGateway(packettest.UDP(p.Dst, p.Src, []byte("world")))
	client.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 100)
	if k, err := client.Read(b); err != nil || string(b[:k]) != "world" {
		t.Errorf("answer %q, %v; drops %v", b[:k], err, n.Stats().Drops)
	}
	if !n.Reaches(behind) {
		t.Error("the address is not known")
	}
	if err := n.Unpublish("p"); err != nil {
		t.Error(err)
	}
	if n.Reaches(behind) {
		t.Error("the address is known without a port that leads there")
	}
	if _, err := publish(portfwd.Spec{Proto: portfwd.UDP, HostIP: netip.MustParseAddr("127.0.0.1"), Port: 80, To: testNet.Gateway4}, "g"); err == nil {
		t.Error("a port leads to the gateway")
	}
}

func TestPublishToStrict(t *testing.T) {
	n := newNetwork(t, stack.Options{})
	attach(t, n, "a", 100, true)
	ls, err := portfwd.Listen([]portfwd.Spec{{Proto: portfwd.TCP, Port: 80, To: netip.MustParseAddr("10.89.0.2")}}, false)
	if err != nil {
		t.Fatal(err)
	}
	before := openFiles(t)
	if err := n.Publish("p", ls[0].Spec, ls[0].File, "a"); err == nil {
		t.Error("a port leads past a strict endpoint")
	}
	if after := openFiles(t); after != before-1 || n.Stats().Ports != 0 {
		t.Errorf("%d open files, want %d; %d ports", after, before-1, n.Stats().Ports)
	}
}
