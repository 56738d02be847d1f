package gateway

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/bridge"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// delivered is a segment as netstack's transport layer sees it.
type delivered struct {
	ID              gvstack.TransportEndpointID
	Network         uint32
	NIC             int32
	Transport       uint32
	SumChecked      bool
	IPHeader        string
	Header, Payload string
}

// twins are two gateways that differ in one thing: the second has no short cut to the transport layer, so that all its segments pass
// netstack's network layer.
type twins struct {
	short, long *bench
	got         [2][]delivered
}

func newTwins(t testing.TB) *twins {
	p := new(twins)
	for i, b := range []**bench{&p.short, &p.long} {
		*b = newBench(t)
		(*b).gw.svc.DNS = nil                         // whose listeners would take their segments out of our sight
		(*b).gw.icmpErrors = ip.NewLimiters(1e6, 1e6) // one of them may be later than the other
		stackOf(t, (*b).gw).SetTransportProtocolHandler(tcp.ProtocolNumber, func(id gvstack.TransportEndpointID, pkt *gvstack.PacketBuffer) bool {
			payload := pkt.Data().AsRange().ToSlice()
			p.got[i] = append(p.got[i], delivered{
				ID: id, Network: uint32(pkt.NetworkProtocolNumber), NIC: int32(pkt.NICID),
				Transport: uint32(pkt.TransportProtocolNumber), SumChecked: pkt.RXChecksumValidated,
				IPHeader: string(pkt.NetworkHeader().Slice()), Header: string(pkt.TransportHeader().Slice()), Payload: string(payload),
			})
			return true
		})
	}
	p.long.gw.link.mu.Lock()
	p.long.gw.link.segments = nil
	p.long.gw.link.mu.Unlock()
	return p
}

// send gives both the same frame and reports in what they differ, and how many segments came through.
func (p *twins) send(f l2.Frame) (segments int, err error) {
	p.got = [2][]delivered{}
	var sent [2][][]byte
	var drops [2]any
	for i, b := range []*bench{p.short, p.long} {
		b.frames(packettest.Clone(f))
		for _, s := range b.link.take() {
			raw := packettest.Bytes(s)
			if s.Header.Type() == l2.TypeIPv4 { // netstack's identification is random
				binary.BigEndian.PutUint16(raw[l2.HeaderLen+4:], 0)
				packettest.FixIPv4(raw[l2.HeaderLen:])
			}
			sent[i] = append(sent[i], raw)
		}
		drops[i] = b.drops.Snapshot()
	}
	switch {
	case !reflect.DeepEqual(p.got[0], p.got[1]):
		return 0, fmt.Errorf("by the short cut arrives\n%+v\nand by the network layer\n%+v", p.got[0], p.got[1])
	case !slices.EqualFunc(sent[0], sent[1], bytes.Equal):
		return 0, fmt.Errorf("answered by % x with the short cut and by % x without", sent[0], sent[1])
	case !reflect.DeepEqual(drops[0], drops[1]):
		return 0, fmt.Errorf("drops %v with the short cut and %v without", drops[0], drops[1])
	}
	return len(p.got[0]), nil
}

// addresses that a packet may be from or to, ordinary and not.
func oddAddresses(own ...netip.Addr) (v4, v6 []netip.Addr) {
	for _, s := range []string{
		"10.0.2.100", "198.51.100.1", "10.0.2.255", "10.0.2.0", "10.0.2.101", "0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "239.1.2.3",
		"240.0.0.1", "255.255.255.255", "169.254.1.1",
		"fd00::100", "2001:db8::1", "::", "::1", "::ffff:10.0.2.100", "::ffff:127.0.0.1", "::10.0.2.2", "ff02::1", "ff0e::1",
		"fe80::1", "64:ff9b::a00:202", "2002:a00:202::1",
	} {
		own = append(own, netip.MustParseAddr(s))
	}
	for _, a := range own {
		if a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	return v4, v6
}

// TestShortCut: what netstack's network layer would refuse, or change, comes to its transport layer no other way either. The network
// layer is the slow and obvious one of two ways that must lead to the same (RFC 1122 §3.2.1.3, RFC 4291 §2.7, RFC 6890).
func TestShortCut(t *testing.T) {
	p := newTwins(t)
	v4, v6 := oddAddresses(testNet.Gateway4, testNet.DNS4, testNet.Gateway6, testNet.DNS6, spec.LoopbackDNS, p.short.gw.linkLL)
	through := 0
	try := func(name string, l3 []byte, edit func(f *l2.Frame)) {
		f := packettest.Frame(containerMAC, testNet.GatewayMAC, l3)
		if edit != nil {
			edit(&f)
		}
		n, err := p.send(f)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		through += n
	}
	const port = 80
	for _, all := range [][]netip.Addr{v4, v6} {
		for _, src := range all {
			for _, dst := range all {
				for _, ttl := range []uint8{0, 1, 64} {
					l3 := withTTL(packettest.TCP(netip.AddrPortFrom(src, 1000), netip.AddrPortFrom(dst, port), packettest.ACK, 1, 1, []byte("data")), ttl)
					name := fmt.Sprintf("%s to %s, TTL %d", src, dst, ttl)
					try(name, l3, nil)
					try(name+", to a group", l3, func(f *l2.Frame) { f.Header = l2.MakeHeader(l2.Broadcast, containerMAC, f.Header.Type()) })
				}
			}
		}
	}
	for _, dst := range []netip.AddrPort{ap("198.51.100.1:80"), ap("[2001:db8::1]:80")} {
		src := netip.AddrPortFrom(container4, 1000)
		if dst.Addr().Is6() {
			src = netip.AddrPortFrom(container6, 1000)
		}
		for size := range 40 {
			l3 := packettest.TCP(src, dst, packettest.ACK, 1, 1, make([]byte, size*40))
			try(fmt.Sprintf("%d bytes to %s", size*40, dst), l3, nil)
			try(fmt.Sprintf("%d bytes and padding to %s", size*40, dst), append(slices.Clone(l3), make([]byte, 20)...), nil)
		}
		for flags := range 64 {
			try(fmt.Sprintf("flags %#x to %s", flags, dst), packettest.TCP(src, dst, uint8(flags), 1, 1, []byte("data")), nil)
		}
		for offset := range 16 { // behind the header's end, and behind the packet's
			l3 := packettest.TCP(src, dst, packettest.ACK, 1, 1, []byte("some data"))
			at := len(l3) - 20 - 9
			l3[at+12] = byte(offset << 4)
			try(fmt.Sprintf("data offset %d to %s", offset, dst), l3, leaveSum)
		}
	}
	for _, options := range [][]byte{
		nil, {1, 1, 1, 1}, {0, 0, 0, 0}, bytes.Repeat([]byte{1}, 40), {148, 4, 0, 0},
		{7, 7, 4, 0, 0, 0, 0, 0}, {7, 7, 5, 0, 0, 0, 0, 0}, {7, 3, 4, 0}, {68, 8, 9, 0, 0, 0, 0, 0}, {68, 8, 9, 0xf0, 0, 0, 0, 0}, {68, 3, 5, 0},
	} { // a route is filled in where there is room; what is too short is refused
		l3 := packettest.TCP(netip.AddrPortFrom(container4, 1000), ap(outside4), packettest.ACK, 1, 1, []byte("data"))
		l3 = slices.Insert(l3, 20, options...)
		l3[0] += byte(len(options) / 4)
		binary.BigEndian.PutUint16(l3[2:], uint16(len(l3)))
		try(fmt.Sprintf("options % x", options), packettest.FixIPv4(l3), nil)
	}
	if through < 200 {
		t.Errorf("%d segments came through: the others cannot have been compared", through)
	}
}

// leaveSum leaves the checksum of a segment to its receiver, as a container's kernel does.
func leaveSum(f *l2.Frame) { mark(f, markSums, 0) }

// TestShortCutFragments: of a datagram that was put together there is one header, whichever way it goes.
func TestShortCutFragments(t *testing.T) {
	p := newTwins(t)
	for _, parts := range [][][]byte{
		fragments(packettest.TCP(ap("10.0.2.100:1000"), ap(outside4), packettest.ACK, 1, 1, make([]byte, 200)), 7, 80, 160),
		fragments6(packettest.TCP(ap("[fd00::100]:1000"), ap(outside6), packettest.ACK, 1, 1, make([]byte, 200)), 7, 80, 160),
	} {
		n := 0
		for _, l3 := range parts {
			more, err := p.send(packettest.Frame(containerMAC, testNet.GatewayMAC, l3))
			if err != nil {
				t.Fatal(err)
			}
			n += more
		}
		if n != 1 {
			t.Errorf("%d segments of one", n)
		}
	}
}

// FuzzShortCut is TestShortCut for whatever the fuzzer thinks of, past the checksums that it cannot guess.
func FuzzShortCut(f *testing.F) {
	for _, l3 := range [][]byte{
		packettest.TCP(ap("10.0.2.100:1000"), ap(outside4), packettest.SYN, 1, 0, nil),
		packettest.TCP(ap("10.0.2.100:1000"), ap(outside4), packettest.ACK, 1, 1, make([]byte, 600)),
		packettest.TCP(ap("[fd00::100]:1000"), ap(outside6), packettest.SYN, 1, 0, nil),
		packettest.TCP(ap("[fd00::100]:1000"), ap("[::ffff:10.0.2.2]:80"), packettest.ACK, 1, 1, []byte("data")),
	} {
		f.Add(l3)
	}
	f.Fuzz(func(t *testing.T, l3 []byte) {
		if len(l3) < header.IPv4MinimumSize {
			return
		}
		if l3 = slices.Clone(l3); l3[0]>>4 == 4 {
			if n := int(l3[0]&15) * 4; n < header.IPv4MinimumSize || n > len(l3) {
				return
			}
			l3 = packettest.FixIPv4(l3)
		}
		fr := packettest.Frame(containerMAC, testNet.GatewayMAC, l3)
		leaveSum(&fr)
		if _, why := bridge.Validate(&fr); why != drop.None {
			return
		}
		var parsed ip.Packet
		if ip.Parse(&parsed, &fr) != drop.None || parsed.Proto != ip.TCP {
			return
		}
		p := newTwins(t)
		defer p.short.gw.Close()
		defer p.long.gw.Close()
		if _, err := p.send(fr); err != nil {
			t.Error(err)
		}
	})
}
