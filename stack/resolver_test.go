package stack_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

var resolver = netip.AddrPortFrom(spec.LoopbackDNS, 53)

// query is one question for an A record.
func query(t testing.TB, name string) []byte {
	t.Helper()
	b, err := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// lookup asks the resolver for a name and returns the code and the addresses of its answer, sorted.
func (c *container) lookup(name string) string {
	c.t.Helper()
	src := netip.AddrPortFrom(c.IP4, 5353)
	c.toGateway(packettest.UDP(src, resolver, query(c.t, name)))
	_, p := c.next("answer about "+name, func(_ l2.Frame, p packettest.Decoded) bool { return p.Src == resolver && p.Dst == src })
	return answerOf(c.t, p.Payload)
}

func answerOf(t testing.TB, b []byte) string {
	t.Helper()
	var m dns.Msg
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	got := []string{}
	for _, rr := range m.Answer {
		got = append(got, rr.(*dns.A).A.String())
	}
	slices.Sort(got)
	return strings.Join(append([]string{dns.RcodeToString[m.Rcode]}, got...), " ")
}

// SD2: the resolver answers at 127.0.0.11 over UDP and TCP, from 127.0.0.11, in a Network without a gateway as well; and
// nothing else answers there.
func TestSD2Resolver(t *testing.T) {
	for name, change := range map[string]func(*spec.Network){
		"ordinary":   nil,
		"internal":   func(n *spec.Network) { n.Policy.NoEgress = true },
		"no gateway": func(n *spec.Network) { n.NoGateway = true },
	} {
		t.Run(name, func(t *testing.T) {
			n := networkOf(t, stack.NewHost(stack.HostOptions{}), change)
			a, b := attach(t, n, "a", 100, true), attach(t, n, "b", 101, true)
			if got, want := a.lookup("b"), "NOERROR "+b.IP4.String(); got != want {
				t.Errorf("b is %s, want %s", got, want)
			}
			overTCP(t, a, b)
			drops := func() uint64 { return n.Stats().Drops["loopback"] }
			before := drops()
			src := netip.AddrPortFrom(a.IP4, 4000)
			for _, p := range [][]byte{
				packettest.UDP(src, netip.AddrPortFrom(spec.LoopbackDNS, 54), []byte("x")),
				packettest.TCP(src, netip.AddrPortFrom(spec.LoopbackDNS, 80), packettest.SYN, 1, 0, nil),
				packettest.Echo(a.IP4, spec.LoopbackDNS, 9, 1, nil),
				packettest.UDP(src, netip.MustParseAddrPort("127.0.0.1:53"), query(t, "b")),
				packettest.TCP(src, netip.MustParseAddrPort("127.0.0.1:53"), packettest.SYN, 1, 0, nil),
				packettest.Echo(a.IP4, netip.MustParseAddr("127.0.0.1"), 9, 1, nil),
			} {
				a.toGateway(p)
			}
			a.lookup("b") // what came before it has been dealt with
			if got := drops() - before; got != 6 {
				t.Errorf("%d drops for loopback addresses, want 6", got)
			}
		})
	}
}

// overTCP asks the resolver for b on a connection.
func overTCP(t *testing.T, a, b *container) {
	t.Helper()
	src := netip.AddrPortFrom(a.IP4, 4001)
	is := func(flags uint8) func(l2.Frame, packettest.Decoded) bool {
		return func(_ l2.Frame, p packettest.Decoded) bool {
			return p.Src == resolver && p.Dst == src && p.Flags&flags == flags && (flags != packettest.PSH || len(p.Payload) > 2)
		}
	}
	a.toGateway(packettest.TCP(src, resolver, packettest.SYN, 1, 0, nil))
	_, p := a.next("SYN-ACK of the resolver", is(packettest.SYN|packettest.ACK))
	q := query(t, "b")
	a.toGateway(packettest.TCP(src, resolver, packettest.ACK|packettest.PSH, 2, p.Seq+1, append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)))
	_, p = a.next("answer over TCP", is(packettest.PSH))
	if got, want := answerOf(t, p.Payload[2:]), "NOERROR "+b.IP4.String(); got != want {
		t.Errorf("over TCP b is %s, want %s", got, want)
	}
}

// HC-14, DU5: from an internal Network nothing leaves, by no protocol, and the gateway still answers pings; without a
// gateway nothing answers but the resolver.
func TestHC14NoEgress(t *testing.T) {
	n := networkOf(t, stack.NewHost(stack.HostOptions{}), func(n *spec.Network) { n.Policy = spec.Policy{NoEgress: true} })
	a := attach(t, n, "a", 100, true)
	src, out := netip.AddrPortFrom(a.IP4, 1000), netip.MustParseAddrPort("192.0.2.1:80")
	a.toGateway(packettest.TCP(src, out, packettest.SYN, 1, 0, nil))
	a.next("RST", isReset)
	a.toGateway(packettest.UDP(src, out, []byte("x")))
	a.next("ICMP error for UDP", isProhibited)
	a.toGateway(packettest.Echo(a.IP4, out.Addr(), 7, 1, nil))
	a.next("ICMP error for ping", isProhibited)
	src6, out6 := netip.AddrPortFrom(a.IP6, 1000), netip.MustParseAddrPort("[2001:db8::1]:80")
	a.toGateway(packettest.UDP(src6, out6, []byte("x")))
	a.next("ICMPv6 error for UDP", isProhibited)
	a.ping(8)

	n = networkOf(t, stack.NewHost(stack.HostOptions{}), func(n *spec.Network) { n.NoGateway = true })
	b := attach(t, n, "b", 101, true)
	b.send(packettest.ARP(packettest.ARPRequest, b.MAC, b.IP4, l2.MAC{}, testNet.Gateway4))
	b.send(packettest.NS(b.MAC, b.IP6, testNet.Gateway6))
	b.toGateway(packettest.Echo(b.IP4, testNet.Gateway4, 7, 1, nil))
	b.toGateway(packettest.UDP(netip.AddrPortFrom(b.IP4, 1000), netip.AddrPortFrom(testNet.DNS4, 53), query(t, "b")))
	b.toGateway(packettest.UDP(netip.AddrPortFrom(b.IP4, 1000), out, []byte("x")))
	b.send(packettest.DHCPDiscover(b.MAC, 7))
	b.send(packettest.RS(b.MAC, packettest.LinkLocal(b.MAC)))
	src = netip.AddrPortFrom(b.IP4, 5353)
	b.toGateway(packettest.UDP(src, resolver, query(t, "b")))
	// The resolver's answer comes last, so that it is the first proves that nothing else came.
	_, p := b.next("anything", func(l2.Frame, packettest.Decoded) bool { return true })
	if p.Src != resolver {
		t.Errorf("%v answered in a network without a gateway", p)
	}
}
