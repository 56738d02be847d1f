package ip

import (
	"bytes"
	"testing"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// seeds are packets of every kind the parser distinguishes.
func seeds() [][]byte {
	udp4, udp6 := udpBytes(ap(con4, 4000), ap(far4, 53), pattern(24)), udpBytes(ap(con6, 4000), ap(far6, 53), pattern(24))
	return [][]byte{
		raw4{proto: UDP, payload: udp4}.bytes(),
		raw4{proto: TCP, df: true, payload: tcpBytes(ap(con4, 4000), ap(far4, 80), pattern(9))}.bytes(),
		raw4{proto: UDP, opts: []byte{7, 7, 4, 0, 0, 0, 0, 131, 3, 4}, payload: udp4}.bytes(),
		raw4{proto: UDP, more: true, payload: udp4}.bytes(),
		raw4{proto: UDP, off: 65480, payload: udp4}.bytes(),
		raw4{proto: 132, opts: []byte{148, 4, 0, 0}, payload: udp4}.bytes(),
		AppendEcho(nil, Echo{Src: con4, Dst: far4, Data: pattern(5)}),
		raw4{proto: ICMP, payload: append([]byte{3, 4, 0, 0, 0, 0, 5, 0}, raw4{proto: UDP, opts: []byte{148, 4, 0, 0}, payload: udp4}.bytes()...)}.bytes(),
		raw4{proto: ICMP, payload: append([]byte{11, 0, 0, 0, 0, 0, 0, 0}, raw4{proto: 253, payload: udp4}.bytes()...)}.bytes(),
		raw6(UDP, udp6),
		raw6(0, ext6(60, 5, 2, 0, 0), ext6(nextRouting, 1, 2), []byte{nextFragment, 0, 4, 0, 0, 0, 0, 0}, frag6(UDP, 0, false, 1), udp6),
		raw6(0, ext6(60, 0xc2, 4, 0, 1, 0, 0), ext6(UDP, 0x9e, 0), udp6),
		raw6(nextFragment, frag6(UDP, 8, true, 1), udp6),
		raw6(ICMPv6, []byte{2, 0, 0, 0, 0, 0, 5, 0}, raw6(60, ext6(UDP), udp6)),
		AppendEcho(nil, Echo{Src: con6, Dst: far6, Data: pattern(5)}),
	}
}

// FuzzParse: no panic, nothing claimed beyond the frame, and a packet that was accepted is accepted
// again from the bytes it was cut to.
func FuzzParse(f *testing.F) {
	for _, b := range seeds() {
		f.Add(b, uint8(0), uint16(0), uint16(0), false)
		f.Add(b, uint8(1), uint16(34), uint16(6), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, flags uint8, start, offset uint16, fixSum bool) {
		if fixSum && len(b) >= 20 && b[0]>>4 == 4 {
			if hl := int(b[0]&15) * 4; hl >= 20 && hl <= len(b) {
				putHeaderSum(b[:hl])
			}
		}
		fr := frameFor(b)
		fr.VNet = l2.VNet{Flags: flags, CsumStart: start, CsumOffset: offset}
		before := bytes.Clone(b)
		var p Packet
		r := Parse(&p, fr)
		exercise(&p)
		if !bytes.Equal(before, b) {
			t.Fatal("the frame was changed")
		}
		if p.HdrLen > len(p.Data) || len(p.Data) > len(b) || len(p.Data) > 0 && &p.Data[0] != &b[0] {
			t.Fatalf("claims %d bytes, header %d, of %d", len(p.Data), p.HdrLen, len(b))
		}
		if r != drop.None {
			return
		}
		if p.FragOff+len(p.Payload()) > maxPacket || p.Problem.Set {
			t.Fatalf("accepted %+v", p)
		}
		again := Packet{linear: p.linear}
		cut := frameFor(p.Data)
		cut.VNet = fr.VNet
		if r := Parse(&again, cut); r != drop.None {
			t.Fatalf("parsed again: %v", r)
		}
		if again.Src != p.Src || again.Proto != p.Proto || again.HdrLen != p.HdrLen || !bytes.Equal(again.Data, p.Data) || again.FragOff != p.FragOff {
			t.Fatalf("parsed again: %+v, first %+v", again, p)
		}
		split := min(len(b), p.HdrLen)
		inTwo := *cut
		inTwo.L3 = [][]byte{p.Data[:split], p.Data[split:]}
		if r := Parse(&again, &inTwo); r != drop.None || !bytes.Equal(again.Data, p.Data) {
			t.Fatalf("parsed from two slices: %v", r)
		}
	})
}

// exercise calls everything that reads a packet.
func exercise(p *Packet) {
	p.Ports()
	p.UDPPayload()
	p.ICMPEcho()
	p.VerifyTransport()
	var q Quoted
	ParseQuoted(&q, p)
	EchoReply(nil, p)
}

// FuzzICMPError is FZ-03: an error about any packet is itself right, quotes that packet, and can be
// read back; and reading any error does no harm.
func FuzzICMPError(f *testing.F) {
	for _, b := range seeds() {
		for _, k := range []ErrorKind{FragNeeded, TTLExceeded, ParamProblem} {
			f.Add(b, uint8(k), uint16(1280))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, kind uint8, mtu uint16) {
		var p Packet
		r := Parse(&p, frameFor(b))
		from := gw4
		if p.Is6() {
			from = gw6
		}
		e := ICMPError(make([]byte, 0, 1280), &p, from, ErrorKind(kind), int(mtu))
		if e == nil {
			return
		}
		var parsed Packet
		if r := ParsePacket(&parsed, e); r != drop.None {
			t.Fatalf("our error does not parse: %v", r)
		}
		if !parsed.VerifyTransport() || parsed.Dst != p.Src || len(e) > 1280 || !p.Is6() && len(e) > 576 {
			t.Fatalf("error of %d bytes to %v, checksum %v", len(e), parsed.Dst, parsed.VerifyTransport())
		}
		if !bytes.HasPrefix(p.Data, parsed.Payload()[icmpHdrLen:]) {
			t.Fatal("quotes something else")
		}
		if ICMPError(nil, &parsed, parsed.Dst, TTLExceeded, 0) != nil {
			t.Fatal("an error about an error")
		}
		var q Quoted
		if got := ParseQuoted(&q, &parsed); r == drop.None && got == drop.None {
			if q.Src.Addr() != p.Src || q.Dst.Addr() != p.Dst || q.Proto != p.Proto {
				t.Fatalf("read back %+v of %+v", q, p)
			}
			if src, dst, ok := p.Ports(); ok && (q.Src.Port() != src || q.Dst.Port() != dst) {
				t.Fatalf("read back ports %d %d, want %d %d", q.Src.Port(), q.Dst.Port(), src, dst)
			}
		}
	})
}
