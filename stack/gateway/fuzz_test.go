package gateway

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/bridge"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
)

// A fuzz input is a sequence of frames: a byte of marks, two of length, the frame. The marks let the fuzzer past
// what it cannot guess, and leave it everything else.
const (
	markSums   = 1 << iota // the checksums are left to the receiver, as a container's kernel does
	markACK                // the ACK number is what the gateway expects
	markAnswer             // wait until the gateway has sent something
)

const (
	fuzzFrames = 64
	fuzzWait   = 20 * time.Millisecond
)

func fuzzInput(frames ...fuzzFrame) (in []byte) {
	for _, f := range frames {
		b := packettest.Bytes(f.Frame)
		in = append(in, f.marks)
		in = binary.BigEndian.AppendUint16(in, uint16(len(b)))
		in = append(in, b...)
	}
	return in
}

type fuzzFrame struct {
	l2.Frame
	marks byte
}

func (f fuzzFrame) with(marks byte) fuzzFrame { return fuzzFrame{f.Frame, marks} }

func plain(f l2.Frame) fuzzFrame { return fuzzFrame{Frame: f} }
func packet(p []byte) fuzzFrame  { return plain(packettest.Frame(containerMAC, testNet.GatewayMAC, p)) }
func packetFrames(ps ...[]byte) (fs []fuzzFrame) {
	for _, p := range ps {
		fs = append(fs, packet(p))
	}
	return fs
}

func seeds() (all [][]byte) {
	for _, pair := range [][2]string{{"10.0.2.100:1000", outside4}, {"[fd00::100]:1000", outside6}} {
		src, dst := ap(pair[0]), ap(pair[1])
		segment := func(flags uint8, seq uint32, payload string) fuzzFrame {
			return packet(packettest.TCP(src, dst, flags, seq, 0, []byte(payload))).with(markSums | markACK)
		}
		all = append(all, fuzzInput(
			segment(packettest.SYN, 1000, "").with(markAnswer),
			segment(packettest.ACK, 1001, ""),
			segment(packettest.ACK|packettest.PSH, 1001, "hello").with(markSums|markACK|markAnswer),
			segment(packettest.ACK|packettest.FIN, 1006, "bye").with(markSums|markACK|markAnswer),
			segment(packettest.RST, 1010, ""),
		))
		own := testNet.Gateway4
		if src.Addr().Is6() {
			own = testNet.Gateway6
		}
		quote := packettest.TCP(dst, src, packettest.ACK, 1, 1, make([]byte, 64))
		unreachable := packettest.ICMP(src.Addr(), dst.Addr(), 3, 4, 600, quote)
		if src.Addr().Is6() {
			unreachable = packettest.ICMP(src.Addr(), dst.Addr(), 2, 0, 1300, quote)
		}
		all = append(all,
			fuzzInput(packet(packettest.UDP(src, dst, []byte("hello"))), packet(packettest.Echo(src.Addr(), own, 1, 1, []byte("ping")))),
			fuzzInput(packet(packettest.UDP(src, netip.AddrPortFrom(own, 9), []byte("x"))), packet(withTTL(packettest.UDP(src, dst, nil), 1))),
			fuzzInput(segment(packettest.SYN, 1, "").with(markAnswer), packet(unreachable)),
		)
	}
	large := packettest.UDP(ap("10.0.2.100:1000"), ap("198.51.100.1:7"), make([]byte, 200))
	large6 := packettest.UDP(ap("[fd00::100]:1000"), ap("[2001:db8::1]:7"), make([]byte, 200))
	options := tcpPacket(ap("10.0.2.100:1000"), ap(outside4), packettest.SYN, 1, 0, 100, 0,
		[]byte{2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7}, nil)
	return append(all,
		fuzzInput(packetFrames(fragments(large, 1, 80, 160)...)...), fuzzInput(packetFrames(fragments6(large6, 1, 80, 160)...)...),
		fuzzInput(packet(options), packet(options).with(markAnswer)),
		fuzzInput(plain(packettest.ARP(packettest.ARPRequest, containerMAC, container4, l2.MAC{}, testNet.Gateway4)),
			plain(packettest.ARP(packettest.ARPReply, containerMAC, container4, testNet.GatewayMAC, testNet.Gateway4))),
		fuzzInput(plain(packettest.NS(containerMAC, container6, testNet.Gateway6)), plain(packettest.NA(containerMAC, container6)),
			plain(packettest.RS(containerMAC, packettest.LinkLocal(containerMAC)))),
		fuzzInput(plain(packettest.DHCPDiscover(containerMAC, 1))),
	)
}

// FuzzGateway sends sequences of frames, as the switch lets them through, into a gateway with an outside that
// echoes (FZ-02). Nothing panics, what waits is bounded, and Close ends every goroutine.
func FuzzGateway(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
	}
	o := newOutside(f)
	go echoes(o.l)
	f.Fuzz(func(t *testing.T, in []byte) {
		before := runtime.NumGoroutine()
		b := newBench(t, withDial(func(ctx context.Context, network string, from netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
			return o.dial(ctx, network, from, to)
		}))
		expected := uint32(0)
		for n := 0; n < fuzzFrames && len(in) >= 3; n++ {
			marks, size := in[0], int(binary.BigEndian.Uint16(in[1:]))
			in = in[3:]
			raw := slices.Clone(in[:min(size, len(in))])
			in = in[len(raw):]
			if len(raw) < l2.HeaderLen {
				continue // the TAP drops it
			}
			fr := packettest.Raw(raw)
			mark(&fr, marks, expected)
			if _, why := bridge.Validate(&fr); why != drop.None {
				continue
			}
			b.frames(fr)
			if marks&markAnswer != 0 {
				select {
				case <-b.link.news:
				case <-time.After(fuzzWait):
				}
			}
			for _, f := range b.link.take() {
				if s, err := decode(f); err == nil && s.Proto == ip.TCP {
					expected = s.Seq + uint32(len(s.Payload))
					if s.Flags&(packettest.SYN|packettest.FIN) != 0 {
						expected++
					}
				}
			}
		}
		if n, bytes := b.gw.reasm.Pending(); n > fuzzFrames || bytes > fuzzFrames*fragmentBytes {
			t.Errorf("%d datagrams with %d bytes wait", n, bytes)
		}
		b.gw.Close()
		if b.gw.Flows() != 0 || b.gw.handshakes.inFlight() != 0 {
			t.Errorf("%d flows and %d handshakes after Close", b.gw.Flows(), b.gw.handshakes.inFlight())
		}
		b.send(datagram("10.0.2.100:1000", "10.0.2.2:9"), synPacket(container4, ap(outside4), 1)) // what was under way still comes
		const echoing = 64                                                                        // the outside's own end a little later
		waitFor(t, func() bool { return runtime.NumGoroutine() <= before+echoing })
	})
}

// mark does what a frame's marks say.
func mark(f *l2.Frame, marks byte, expected uint32) {
	var p ip.Packet
	if marks&(markSums|markACK) == 0 || ip.Parse(&p, f) != drop.None && p.Data == nil || p.IsFragment() {
		return
	}
	at := l2.HeaderLen + p.HdrLen
	if p.Proto == ip.TCP && marks&markACK != 0 && len(p.Payload()) >= 20 {
		binary.BigEndian.PutUint32(p.Payload()[8:], expected)
	}
	if marks&markSums != 0 && (p.Proto == ip.TCP || p.Proto == ip.UDP) {
		f.VNet = l2.VNet{Flags: l2.VNetNeedsCsum, CsumStart: uint16(at), CsumOffset: map[uint8]uint16{ip.TCP: 16, ip.UDP: 6}[p.Proto]}
	}
}

func echoes(l *net.TCPListener) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

// FuzzResponders sends one frame to the ARP and neighbour discovery responders (FZ-04): at most one answer,
// and only about an address of ours.
func FuzzResponders(f *testing.F) {
	for _, fr := range []l2.Frame{
		packettest.ARP(packettest.ARPRequest, containerMAC, container4, l2.MAC{}, testNet.Gateway4),
		packettest.ARP(packettest.ARPRequest, containerMAC, netip.IPv4Unspecified(), l2.MAC{}, container4),
		packettest.ARP(packettest.ARPReply, containerMAC, container4, testNet.GatewayMAC, testNet.Gateway4),
		packettest.NS(containerMAC, container6, testNet.Gateway6),
		packettest.NS(containerMAC, netip.IPv6Unspecified(), testNet.Gateway6),
		packettest.NS(containerMAC, container6, container6),
		packettest.NA(containerMAC, container6),
		packettest.RA(containerMAC, packettest.LinkLocal(containerMAC), testNet.Subnet6),
		packettest.RS(containerMAC, packettest.LinkLocal(containerMAC)),
	} {
		f.Add(packettest.Bytes(fr))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) < l2.HeaderLen {
			return
		}
		fr := packettest.Raw(slices.Clone(raw))
		if typ := fr.Header.Type(); typ != l2.TypeARP && (typ != l2.TypeIPv6 || len(raw) < 55 || raw[20] != ip.ICMPv6) {
			return
		}
		if typ := fr.Header.Type(); typ == l2.TypeIPv6 { // let the fuzzer past the checksum
			src, dst := netip.AddrFrom16([16]byte(raw[22:38])), netip.AddrFrom16([16]byte(raw[38:54]))
			l3 := packettest.IP(src, dst, ip.ICMPv6, slices.Clone(raw[54:]))
			l3[7] = raw[21]
			fr.L3[0] = l3
		}
		if _, why := bridge.Validate(&fr); why != drop.None {
			return
		}
		b := newBench(t)
		defer b.gw.Close()
		b.frames(fr)
		got := b.link.take()
		if len(got) > 1 {
			t.Errorf("%d answers", len(got))
		}
		for _, g := range got {
			l3 := packettest.Bytes(g)[l2.HeaderLen:]
			var told netip.Addr
			switch s, err := decode(g); {
			case g.Header.Type() == l2.TypeARP:
				told = netip.AddrFrom4([4]byte(l3[14:18]))
			case err == nil && s.Kind == 136:
				told = netip.AddrFrom16([16]byte(s.l4[8:24]))
			case err == nil && s.Proto == ip.ICMPv6: // an echo reply, or an error
				told = s.Src.Addr()
			}
			if !b.gw.own[told] {
				t.Errorf("answered for %s: %s", told, packettest.Dump(g))
			}
		}
	})
}
