package gateway

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"github.com/usernet/usernet/stack/ip"
)

// TestDialInsideUDP: a conversation of ours with a container has its datagrams and no other, until it ends.
func TestDialInsideUDP(t *testing.T) {
	for to, own := range map[string]netip.Addr{"10.0.2.100:53": testNet.DNS4, "[fd00::100]:53": testNet.DNS6} {
		b := newBench(t)
		c, err := b.gw.DialInside(t.Context(), "udp", ap(to))
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		p := b.next("datagram to "+to, func(p segment) bool { return p.Proto == ip.UDP })
		if p.Src.Addr() != own || p.Dst != ap(to) {
			t.Fatalf("sent from %s to %s", p.Src, p.Dst)
		}
		// From another port, and to another of ours: not part of it.
		elsewhere := netip.AddrPortFrom(p.Dst.Addr(), 54)
		b.send(datagram(elsewhere.String(), p.Src.String()), datagram(to, netip.AddrPortFrom(own, p.Src.Port()^1).String()))
		b.send(datagram(to, p.Src.String()))
		got := make([]byte, 100)
		if n, err := c.Read(got); err != nil || n != 5 {
			t.Errorf("%d bytes, %v, want the answer", n, err)
		}
		if n := b.netstackPackets(); n != 1 {
			t.Errorf("netstack has seen %d packets, want the one answer", n)
		}
		c.Close()
		b.send(datagram(to, p.Src.String()))
		if n := b.netstackPackets(); n != 1 {
			t.Error("netstack sees datagrams of a conversation that has ended")
		}
	}
}

// TestDialInsideTCP: the same as a stream.
func TestDialInsideTCP(t *testing.T) {
	w := newWorld(t)
	l, err := gonet.ListenTCP(w.c, tcpip.FullAddress{NIC: 1, Addr: toTCPIP(container4), Port: 53}, netProto(container4))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := w.gw.DialInside(testContext(t), "tcp", netip.AddrPortFrom(container4, 53))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	readFull(t, far, "hello")
}

// TestDialInsideNobody: there is nobody at that address, the conversation's end is the gateway's, and there is none after it.
func TestDialInsideNobody(t *testing.T) {
	b := newBench(t)
	for _, network := range []string{"udp", "tcp"} {
		if c, err := b.gw.DialInside(t.Context(), network, ap("10.0.2.77:53")); err == nil {
			c.Close()
			t.Errorf("%s to nobody", network)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if c, err := b.gw.DialInside(ctx, "tcp", ap("10.0.2.100:53")); err == nil {
		c.Close()
		t.Error("a connection without an answer")
	}
	c, err := b.gw.DialInside(t.Context(), "udp", ap("10.0.2.100:53"))
	if err != nil {
		t.Fatal(err)
	}
	b.gw.Close()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read after the end: %d, %v", n, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	var none net.Conn
	if none, err = b.gw.DialInside(t.Context(), "udp", ap("10.0.2.100:53")); err == nil {
		none.Close()
		t.Error("a conversation after the end")
	}
}
