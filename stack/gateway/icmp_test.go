package gateway

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
)

// TestARP: requests for our addresses are answered, and no others: a probe for a container's own address
// (RFC 5227) that we answered would make the container give it up.
func TestARP(t *testing.T) {
	none := l2.MAC{}
	zero := netip.IPv4Unspecified()
	for _, tc := range []struct {
		name   string
		frame  l2.Frame
		answer netip.Addr // whose address is told; invalid: none
		reason drop.Reason
	}{
		{"for the gateway", packettest.ARP(packettest.ARPRequest, containerMAC, container4, none, testNet.Gateway4), testNet.Gateway4, 0},
		{"for the name server", packettest.ARP(packettest.ARPRequest, containerMAC, container4, none, testNet.DNS4), testNet.DNS4, 0},
		{"to us alone", packettest.ARP(packettest.ARPRequest, containerMAC, container4, testNet.GatewayMAC, testNet.Gateway4), testNet.Gateway4, 0},
		{"for the outside", packettest.ARP(packettest.ARPRequest, containerMAC, container4, none, netip.MustParseAddr("198.51.100.1")), netip.Addr{}, drop.NotForUs},
		{"for a neighbour", packettest.ARP(packettest.ARPRequest, containerMAC, container4, none, other4), netip.Addr{}, drop.NotForUs},
		{"announcement", packettest.ARP(packettest.ARPRequest, containerMAC, container4, none, container4), netip.Addr{}, drop.NotForUs},
		{"probe for its own", packettest.ARP(packettest.ARPRequest, containerMAC, zero, none, container4), netip.Addr{}, drop.NotForUs},
		{"probe for ours", packettest.ARP(packettest.ARPRequest, containerMAC, zero, none, testNet.Gateway4), testNet.Gateway4, 0},
		{"reply", packettest.ARP(packettest.ARPReply, containerMAC, container4, testNet.GatewayMAC, testNet.Gateway4), netip.Addr{}, 0},
		{"cut off", packettest.Ether(containerMAC, l2.Broadcast, l2.TypeARP, make([]byte, 27)), netip.Addr{}, drop.IPMalformed},
		{"empty", packettest.Ether(containerMAC, l2.Broadcast, l2.TypeARP, nil), netip.Addr{}, drop.IPMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t)
			b.frames(tc.frame)
			checkDrops(t, b, tc.reason)
			got := b.link.take()
			if !tc.answer.IsValid() {
				if len(got) != 0 {
					t.Fatalf("answered by %s", packettest.Dump(got[0]))
				}
				return
			}
			if len(got) != 1 {
				t.Fatalf("%d answers, want 1", len(got))
			}
			to := netip.AddrFrom4([4]byte(tc.frame.L3[0][14:18]))
			want := packettest.ARP(packettest.ARPReply, testNet.GatewayMAC, tc.answer, containerMAC, to)
			if err := packettest.Same(want)(got[0]); err != nil {
				t.Errorf("%v\nanswered by %s", err, packettest.Dump(got[0]))
			}
		})
	}
}

// TestNeighborDiscovery is TestARP for IPv6 (RFC 4861, RFC 4862).
func TestNeighborDiscovery(t *testing.T) {
	b := newBench(t)
	own := []netip.Addr{testNet.Gateway6, testNet.DNS6, LinkLocal(testNet.GatewayMAC)}
	for _, src := range []netip.Addr{container6, packettest.LinkLocal(containerMAC), netip.IPv6Unspecified()} {
		for _, target := range own {
			b.frames(packettest.NS(containerMAC, src, target))
			p := b.next(fmt.Sprintf("advertisement of %s to %s", target, src), func(p segment) bool { return p.Kind == 136 })
			dst := src
			if src.IsUnspecified() {
				dst = packettest.AllNodes // somebody wants our address: RFC 4861 §7.2.4
			}
			if got := netip.AddrFrom16([16]byte(p.l4[8:24])); got != target || p.Dst.Addr() != dst || p.TTL != 255 || !bytes.HasSuffix(p.l4, testNet.GatewayMAC[:]) {
				t.Errorf("%s asked for %s, told %s: %v ttl %d % x", src, target, got, p.Decoded, p.TTL, p.l4)
			}
			// A router's, or Linux takes it for one no longer and the default route away. Solicited: by a station with an address.
			flags := byte(0xa0)
			if !src.IsUnspecified() {
				flags = 0xe0
			}
			if p.l4[4] != flags {
				t.Errorf("%s asked for %s: flags %#x, want %#x", src, target, p.l4[4], flags)
			}
		}
		for _, target := range []netip.Addr{container6, packettest.LinkLocal(containerMAC), netip.MustParseAddr("fd00::101"), netip.MustParseAddr("2001:db8::1")} {
			drops := b.drops.Get(drop.NotForUs)
			b.frames(packettest.NS(containerMAC, src, target))
			if got := b.link.take(); len(got) != 0 || b.drops.Get(drop.NotForUs) != drops+1 {
				t.Errorf("solicitation of %s by %s: %d answers, drops %v", target, src, len(got), b.drops.Snapshot())
			}
		}
	}
	// A router on the way would have made the hop limit less: not from this link, not to be believed.
	far := packettest.NS(containerMAC, container6, testNet.Gateway6)
	withTTL(far.L3[0], 254)
	b.frames(far)
	b.frames(packettest.NA(containerMAC, testNet.Gateway6), packettest.NA(containerMAC, netip.MustParseAddr("2001:db8::1")))
	short := packettest.ICMP(container6, testNet.Gateway6, 135, 0, 0, make([]byte, 15))
	b.send(withTTL(short, 255))
	if got := b.link.take(); len(got) != 0 {
		t.Errorf("answered by %s", packettest.Dump(got[0]))
	}
}

// TestTTL: what would only pass through with TTL 1 ends here and its sender is told; what is for us does not (NAT-19).
func TestTTL(t *testing.T) {
	outside, outsideSix := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1")
	for name, p := range map[string][]byte{
		"UDP":           datagram("10.0.2.100:1000", "198.51.100.1:33434"),
		"TCP":           packettest.TCP(ap("10.0.2.100:1000"), ap("198.51.100.1:80"), packettest.SYN, 7, 0, nil),
		"ping":          packettest.Echo(container4, outside, 5, 6, make([]byte, 2000)),
		"protocol 132":  packettest.IP(container4, outside, 132, make([]byte, 12)),
		"UDP over IPv6": datagram("[fd00::100]:1000", "[2001:db8::1]:33434"),
		"ping of IPv6":  packettest.Echo(container6, outsideSix, 5, 6, make([]byte, 3000)),
	} {
		for _, ttl := range []uint8{0, 1} {
			b := newBench(t)
			b.send(withTTL(p, ttl))
			e := b.next("answer to "+name, func(segment) bool { return true })
			q := quoted(t, e)
			from, limit := testNet.Gateway4, 576
			if p[0]>>4 == 6 {
				from, limit = testNet.Gateway6, 1280
			}
			if q.Kind != ip.TTLExceeded || q.From != from {
				t.Errorf("%s with TTL %d answered by %+v", name, ttl, q)
			}
			// The quote is the packet itself, as much of it as fits.
			if quote := e.l4[8:]; !bytes.HasPrefix(p, quote) || len(quote) < min(len(p), limit-48) {
				t.Errorf("%s: quoted %d of %d bytes: % x", name, len(quote), len(p), quote[:28])
			}
			checkDrops(t, b, drop.TTLExceeded)
			if got := append(b.udp.take(), b.ping.take()...); len(got) != 0 {
				t.Errorf("%s passed through with TTL %d: %v", name, ttl, got)
			}
		}
	}
	b := newBench(t)
	b.send(withTTL(packettest.Echo(container4, testNet.Gateway4, 1, 1, nil), 1))
	b.next("echo reply", func(p segment) bool { return p.Proto == ip.ICMP && p.Kind == 0 })
	b.send(withTTL(datagram("10.0.2.100:1000", "10.0.2.3:53"), 1))
	b.next("answer of the name server", func(p segment) bool { return p.Proto == ip.UDP })
	b.send(withTTL(datagram("10.0.2.100:5353", "224.0.0.251:5353"), 1))
	checkDrops(t, b, drop.NotForUs)
	// Of a datagram in fragments only the first has what an error must quote.
	for _, f := range fragments(packettest.UDP(ap("10.0.2.100:1"), ap("198.51.100.1:7"), make([]byte, 3000)), 9, 1480, 2960) {
		b.send(withTTL(f, 1))
	}
	if got := b.link.take(); len(got) != 1 {
		t.Errorf("%d errors about one datagram in three fragments, want 1", len(got))
	}
}

// TestEcho: our own addresses answer pings of every size, also those that come in fragments (ICMP-01).
func TestEcho(t *testing.T) {
	b := newBench(t)
	body := make([]byte, 65507)
	for i := range body {
		body[i] = byte(i * 7)
	}
	for _, own := range []netip.Addr{testNet.Gateway4, testNet.DNS4, testNet.Gateway6, testNet.DNS6, LinkLocal(testNet.GatewayMAC)} {
		for _, n := range []int{0, 56, 1452, 1473, 8000, 65507} {
			src := container4
			if own.Is6() {
				src = container6
			}
			request := packettest.Echo(src, own, 0, 65535, body[:n])
			b.send(toMTU(request)...)
			reply := joined(t, b.link.take())
			if reply == nil || !reply.VerifyTransport() || reply.Src != own || reply.Dst != src {
				t.Errorf("ping of %s with %d bytes: reply %+v", own, n, reply)
				continue
			}
			if got := reply.Payload(); !bytes.Equal(got[8:], body[:n]) || !bytes.Equal(got[4:8], []byte{0, 0, 0xff, 0xff}) {
				t.Errorf("ping of %s with %d bytes: reply has %d bytes, id and seq % x", own, n, len(got)-8, got[4:8])
			}
		}
	}
	packettest.Run(t, &packettest.Result{Drops: b.drops}, packettest.NoDrops())
}

// toMTU cuts a packet into fragments where it needs it.
func toMTU(p []byte) [][]byte {
	var cuts []int
	for at := 1448; at < len(p)-40; at += 1448 {
		cuts = append(cuts, at)
	}
	if p[0]>>4 == 6 {
		return fragments6(p, 77, cuts...)
	}
	return fragments(p, 77, cuts...)
}

// joined puts together the one packet the frames carry; nil when they carry none or part of one.
func joined(t *testing.T, fs []l2.Frame) *ip.Packet {
	t.Helper()
	r := ip.NewReassembler(0, 0, 0)
	var whole *ip.Packet
	for _, f := range fs {
		var p ip.Packet
		if why := ip.Parse(&p, &f); why != drop.None || len(p.Data) > testNet.MTU {
			t.Errorf("packet of %d bytes, MTU %d: %v", len(p.Data), testNet.MTU, why)
		}
		w, why := r.Add(time.Now(), &p)
		if why != drop.None || w != nil && whole != nil {
			t.Errorf("fragments do not fit: %v", why)
		}
		if w != nil {
			whole = w
		}
	}
	return whole
}

// TestNoSmurf: a ping to a group or to everybody brings no answer, whatever else it is to (HC-26).
func TestNoSmurf(t *testing.T) {
	b := newBench(t)
	for _, p := range [][]byte{
		packettest.Echo(container4, netip.MustParseAddr("255.255.255.255"), 1, 1, nil),
		packettest.Echo(container4, netip.MustParseAddr("10.0.2.255"), 1, 1, nil),
		packettest.Echo(container4, netip.MustParseAddr("224.0.0.1"), 1, 1, nil),
		packettest.Echo(container6, packettest.AllNodes, 1, 1, nil),
		packettest.Echo(container6, packettest.AllRouters, 1, 1, nil),
	} {
		b.frames(packettest.Frame(containerMAC, l2.Broadcast, p))
	}
	if got := append(b.ping.take(), b.udp.take()...); len(b.link.take()) != 0 || len(got) != 0 {
		t.Errorf("answered or passed on: %v", got)
	}
	packettest.Run(t, &packettest.Result{Drops: b.drops}, packettest.OnlyDropped(drop.NotForUs, 5))
}

// HC-26, HC-32: of a flood of pings a thousand a second are answered, and another container's are all.
func TestHC26EchoLimit(t *testing.T) {
	b := newBench(t)
	start := time.Now()
	const asked = 3000
	for i := range asked {
		b.send(packettest.Echo(container4, testNet.Gateway4, 1, uint16(i), nil))
	}
	most := echoesPerSecond + int(time.Since(start)/(time.Second/echoesPerSecond)) + 1
	if n := len(b.link.take()); n < echoesPerSecond || n > most {
		t.Errorf("%d of %d pings were answered, want %d to %d", n, asked, echoesPerSecond, most)
	}
	for i := range 100 {
		b.frames(packettest.Frame(otherMAC, testNet.GatewayMAC, packettest.Echo(other4, testNet.Gateway4, 2, uint16(i), nil)))
	}
	if n := len(b.link.take()); n != 100 {
		t.Errorf("%d of another's 100 pings were answered", n)
	}
}

// TestUnknownProtocol: what the NAT does not carry is said so.
func TestUnknownProtocol(t *testing.T) {
	b := newBench(t)
	n := uint64(0)
	for _, proto := range []uint8{2, 4, 33, 41, 47, 50, 51, 59, 132, 136, 253, 255} {
		for _, to := range []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1")} {
			src := container4
			if to.Is6() {
				src = container6
			}
			p := packettest.IP(src, to, proto, []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
			b.send(p)
			e := b.next(fmt.Sprintf("error about protocol %d", proto), func(p segment) bool { return p.Dst.Addr() == src })
			if q := quoted(t, e); q.Kind != ip.ProtoUnreachable || q.Proto != proto || !bytes.Equal(e.l4[8:], p) {
				t.Errorf("protocol %d to %s: told %+v", proto, to, q)
			}
			n++
		}
	}
	packettest.Run(t, &packettest.Result{Drops: b.drops}, packettest.OnlyDropped(drop.IPProtocol, n))
}

// TestErrorsAreNotAnswered: no ICMP error about an ICMP error, a group or a later fragment
// (RFC 1122 §3.2.2, RFC 4443 §2.4).
func TestErrorsAreNotAnswered(t *testing.T) {
	b := newBench(t)
	inner := datagram("198.51.100.1:7", "10.0.2.100:1000")
	unreachable := packettest.ICMP(container4, netip.MustParseAddr("198.51.100.1"), 3, 3, 0, inner)
	b.send(withTTL(unreachable, 1))
	later := packettest.IP(container4, netip.MustParseAddr("198.51.100.1"), 132, make([]byte, 16))
	for _, f := range fragments(later, 3, 8)[1:] {
		b.send(withTTL(f, 1))
	}
	b.frames(packettest.Frame(containerMAC, l2.Broadcast, packettest.IP(container4, netip.MustParseAddr("198.51.100.1"), 132, nil)))
	b.send(packettest.UDP(netip.AddrPortFrom(netip.IPv4Unspecified(), 1), ap("10.0.2.2:9"), nil))
	for _, f := range b.link.take() {
		t.Errorf("answered by %s", packettest.Dump(f))
	}
}

// TestErrorLimit: a container gets so many ICMP errors a second and no more, and what one provokes is not
// taken from another (HC-26, HC-32).
func TestErrorLimit(t *testing.T) {
	b := newBench(t)
	start := time.Now()
	const asked = 2000
	for range asked {
		b.send(datagram("10.0.2.100:1000", "10.0.2.2:9"))
	}
	most := ip.ErrorBurst + int(time.Since(start)/(time.Second/ip.ErrorsPerSecond)) + 1
	n := len(b.link.take())
	if n < ip.ErrorBurst || n > most {
		t.Errorf("%d errors, want %d to %d", n, ip.ErrorBurst, most)
	}
	if got := b.drops.Get(drop.ICMPLimit); got != uint64(asked-n) {
		t.Errorf("%d errors and %d over the limit of %d datagrams", n, got, asked)
	}
	b.frames(packettest.Frame(otherMAC, testNet.GatewayMAC, datagram("10.0.2.101:1000", "10.0.2.2:9")))
	b.next("error to the other container", func(p segment) bool { return p.Dst.Addr() == other4 })
}

// TestEmitIP: where a packet goes on the link, and in how many pieces.
func TestEmitIP(t *testing.T) {
	b := newBench(t)
	body := bytes.Repeat([]byte("usernet "), 500)
	for _, tc := range []struct {
		dst  string
		mac  l2.MAC
		body int
	}{
		{"10.0.2.100", containerMAC, 100}, {"10.0.2.101", otherMAC, 100}, {"fd00::100", containerMAC, 100},
		{"255.255.255.255", l2.Broadcast, 100},
		{"224.0.0.251", l2.MAC{0x01, 0, 0x5e, 0, 0, 0xfb}, 100},
		{"239.255.255.250", l2.MAC{0x01, 0, 0x5e, 0x7f, 0xff, 0xfa}, 100},
		{"ff02::1:ff00:64", l2.MAC{0x33, 0x33, 0xff, 0, 0, 0x64}, 100},
		{"10.0.2.100", containerMAC, 1472}, {"10.0.2.100", containerMAC, 1473}, {"10.0.2.100", containerMAC, 4000},
		{"fd00::100", containerMAC, 1452}, {"fd00::100", containerMAC, 1453}, {"fd00::100", containerMAC, 4000},
	} {
		dst := netip.MustParseAddr(tc.dst)
		src := netip.MustParseAddr("198.51.100.1")
		if dst.Is6() {
			src = netip.MustParseAddr("2001:db8::1")
		}
		var hdr [48]byte
		n := ip.PutUDPHeaders(hdr[:], netip.AddrPortFrom(src, 7), netip.AddrPortFrom(dst, 8), tc.body, ip.UDPOpts{Payload: body[:tc.body]})
		if !b.gw.EmitIP(dst, l2.VNet{}, [][]byte{hdr[:n], body[:tc.body]}) {
			t.Errorf("%s: not accepted", tc.dst)
		}
		fs := b.link.take()
		for _, f := range fs {
			if f.Header.Dst() != tc.mac || f.Header.Src() != testNet.GatewayMAC {
				t.Errorf("%s: sent from %s to %s, want to %s", tc.dst, f.Header.Src(), f.Header.Dst(), tc.mac)
			}
		}
		if want := (n + tc.body + testNet.MTU - 1) / testNet.MTU; len(fs) < want || len(fs) > want+1 {
			t.Errorf("%s: %d bytes in %d frames", tc.dst, n+tc.body, len(fs))
		}
		p := joined(t, fs)
		if p == nil || !p.VerifyTransport() {
			t.Fatalf("%s: fragments of %d bytes do not make the packet", tc.dst, tc.body)
		}
		if got, _ := p.UDPPayload(); !bytes.Equal(got, body[:tc.body]) {
			t.Errorf("%s: %d bytes arrived as %d", tc.dst, tc.body, len(got))
		}
	}
	if b.gw.EmitIP(netip.MustParseAddr("10.0.2.77"), l2.VNet{}, [][]byte{make([]byte, 20)}) {
		t.Error("a packet to nobody was accepted")
	}
	checkDrops(t, b, drop.DstUnknown)
	if big := make([]byte, 3000); b.gw.EmitIP(container4, l2.VNet{}, [][]byte{big}) || len(b.link.take()) != 0 {
		t.Error("a large packet without a header was sent")
	}
}

// TestNeighbours: a container is found where it last sent from, no container fills the table, and
// one that is gone leaves nothing behind.
func TestNeighbours(t *testing.T) {
	b := newBench(t)
	moved := l2.MAC{2, 0, 0, 0, 0, 9}
	lookup := func(a netip.Addr) l2.MAC {
		m, _ := b.gw.neighbours.lookup(a)
		return m
	}
	b.frames(packettest.Frame(moved, testNet.GatewayMAC, datagram("10.0.2.100:1", "198.51.100.1:7")))
	if got := lookup(container4); got != moved {
		t.Errorf("after a change of MAC the container is at %s", got)
	}
	b.frames(packettest.ARP(packettest.ARPRequest, containerMAC, container4, l2.MAC{}, testNet.Gateway4))
	if got := lookup(container4); got != containerMAC {
		t.Errorf("after an ARP request the container is at %s", got)
	}
	a := netip.MustParseAddr("fd00::1000")
	for range 1000 {
		b.frames(packettest.Frame(moved, testNet.GatewayMAC, packettest.UDP(netip.AddrPortFrom(a, 1), ap("[2001:db8::1]:7"), nil)))
		a = a.Next()
	}
	if n := len(b.gw.neighbours.learned[moved]); n != learnedPerMAC {
		t.Errorf("%d addresses learned of one MAC, want %d", n, learnedPerMAC)
	}
	// An address control gives out is no longer on the account of whom it was learned of.
	b.gw.AddNeighbour(netip.MustParseAddr("fd00::1000"), containerMAC)
	b.gw.RemoveNeighbour(netip.MustParseAddr("fd00::1001"))
	if n := len(b.gw.neighbours.learned[moved]); n != learnedPerMAC-2 {
		t.Errorf("%d addresses of one MAC after two were given out or removed, want %d", n, learnedPerMAC-2)
	}
}

// TestNeighboursGone: guests that come and go leave nothing behind for good, in our table or netstack's.
func TestNeighboursGone(t *testing.T) {
	b := newBench(t)
	station := func(i int) (l2.MAC, netip.Addr) {
		m := l2.MAC{2, 1, 0, 0, byte(i >> 8), byte(i)}
		return m, packettest.LinkLocal(m)
	}
	const guests = learnedMACs + 500
	for i := range guests {
		m, a := station(i)
		b.gw.learn(a, m)
	}
	n := &b.gw.neighbours
	if len(n.learned) != learnedMACs || len(n.order) != learnedMACs || len(n.macs) != learnedMACs+len(n.fixed) {
		t.Errorf("%d MACs (%d in order) with %d addresses known, want %d", len(n.learned), len(n.order), len(n.macs), learnedMACs)
	}
	known, err := stackOf(b.t, b.gw).Neighbors(nicID, header.IPv6ProtocolNumber)
	if err != nil || len(known) > learnedMACs+1 {
		t.Errorf("netstack knows %d neighbours, %v", len(known), err)
	}
	for i, want := range map[int]bool{0: false, guests - learnedMACs - 1: false, guests - learnedMACs: true, guests - 1: true} {
		m, a := station(i)
		if got, ok := n.lookup(a); ok != want || ok && got != m {
			t.Errorf("guest %d known: %v, want %v", i, ok, want)
		}
	}
}

// TestQuotedFlows: ICMP errors about TCP flows do not end them nor make crumbs of them, and errors about
// nothing of ours are dropped before netstack (NAT-12, NAT-13).
func TestQuotedFlows(t *testing.T) {
	o := newOutside(t)
	b := newBench(t, withDial(o.dial))
	c, h := b.connect(o)
	ours := func(seq uint32) []byte { // a segment of the gateway's, as the container would quote it
		return packettest.TCP(c.dst, c.src, packettest.ACK, seq, c.seq, make([]byte, 100))
	}
	for _, code := range []uint8{0, 1, 2, 3, 5, 6, 9, 10, 13} {
		b.send(packettest.ICMP(container4, c.dst.Addr(), 3, code, 0, ours(c.ack)))
	}
	for _, mtu := range []uint32{0, 1, 67, 68, 551, 576, 1400, 65535} {
		b.send(packettest.ICMP(container4, c.dst.Addr(), 3, 4, mtu, ours(c.ack)))
	}
	for _, kind := range []uint8{4, 5, 11, 12} {
		b.send(packettest.ICMP(container4, c.dst.Addr(), kind, 0, 0, ours(c.ack)))
	}
	c.write([]byte("still there"))
	readFull(t, h, "still there")
	reply := bytes.Repeat([]byte("y"), 20000)
	if _, err := h.Write(reply); err != nil {
		t.Fatal(err)
	}
	if got, least := c.read(len(reply)); !bytes.Equal(got, reply) || least < minPathMTU4-40 {
		t.Errorf("%d bytes arrived in segments of %d bytes and more", len(got), least)
	}

	injected, drops := b.netstackPackets(), b.drops.Get(drop.ICMPUnmatched)
	strangers := [][]byte{
		packettest.UDP(ap("198.51.100.10:80"), ap("10.0.2.100:1000"), make([]byte, 20)), // UDP is never ours to end
		packettest.TCP(c.dst, ap("10.0.2.101:1000"), packettest.ACK, 1, 1, nil),         // somebody else's flow
		packettest.IP(c.dst.Addr(), container4, 132, make([]byte, 12)),
		packettest.IP(c.dst.Addr(), container4, 253, make([]byte, 12)),
	}
	for _, q := range strangers {
		b.send(packettest.ICMP(container4, c.dst.Addr(), 3, 3, 0, q))
	}
	if n := b.drops.Get(drop.ICMPUnmatched) - drops; n != uint64(len(strangers)) || b.netstackPackets() != injected {
		t.Errorf("%d of %d errors about nothing of ours dropped; netstack got %d", n, len(strangers), b.netstackPackets()-injected)
	}
	for n := range 28 { // a quote too short to say anything
		b.send(packettest.ICMP(container4, c.dst.Addr(), 3, 3, 0, ours(c.ack)[:n]))
	}
	if b.netstackPackets() != injected {
		t.Error("an error with a cut quote reached netstack")
	}
	injected = b.netstackPackets()
	quote := packettest.TCP(ap(outside6), ap("[fd00::100]:1000"), packettest.ACK, 1, 1, nil)
	for _, mtu := range []uint32{0, 68, 1279, 1280} {
		b.send(packettest.ICMP(container6, ap(outside6).Addr(), 2, 0, mtu, quote))
	}
	if n := b.netstackPackets() - injected; n != 1 {
		t.Errorf("%d of 4 Packet Too Big reached netstack, want the one of 1280", n)
	}
}
