package stack_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// answerQuery makes the container a name server: every name is 192.0.2.7. It answers one query.
func (c *container) answerQuery(port uint16) {
	c.t.Helper()
	server := netip.AddrPortFrom(c.IP4, port)
	f, p := c.next("query", func(_ l2.Frame, p packettest.Decoded) bool { return p.Proto == packettest.ProtoUDP && p.Dst == server })
	var q dns.Msg
	if err := q.Unpack(p.Payload); err != nil {
		c.t.Fatal(err)
	}
	a := new(dns.Msg).SetReply(&q)
	a.Answer = []dns.RR{&dns.A{
		Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(192, 0, 2, 7),
	}}
	b, err := a.Pack()
	if err != nil {
		c.t.Fatal(err)
	}
	if f.Header.Src() != testNet.GatewayMAC || p.Src.Addr() != testNet.DNS4 {
		c.t.Errorf("asked by %s at %s, want the network's own name server", p.Src, f.Header.Src())
	}
	c.toGateway(packettest.UDP(server, p.Src, b))
}

// TestUpstreamInside: a container whose name server (--dns) is another container of the Network has its answers, as it has
// in Docker; what is sent to the same address of ours otherwise goes nowhere.
func TestUpstreamInside(t *testing.T) {
	n := networkOf(t, stack.NewHost(stack.HostOptions{}), nil)
	server := attach(t, n, "server", 101, true)
	c := attach(t, n, "c", 100, true)
	ep := endpointSpec("c", c.Station)
	ep.Resolver = spec.Resolver{Upstreams: []netip.AddrPort{netip.AddrPortFrom(server.IP4, 53)}}
	if err := n.Update(ep); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		src := netip.AddrPortFrom(c.IP4, 5353)
		c.toGateway(packettest.UDP(src, resolver, query(t, "www.example.com")))
		server.answerQuery(53)
		_, p := c.next("answer", func(_ l2.Frame, p packettest.Decoded) bool { return p.Src == resolver && p.Dst == src })
		if got, want := answerOf(t, p.Payload), "NOERROR 192.0.2.7"; got != want {
			t.Errorf("www.example.com is %q, want %q", got, want)
		}
	}
}
