package ip

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

func TestICMPErrors(t *testing.T) {
	rows := []struct {
		kind         ErrorKind
		type4, code4 byte
		word4        uint32
		type6, code6 byte
		word6        uint32
	}{
		{NetUnreachable, 3, 0, 0, 1, 0, 0},
		{HostUnreachable, 3, 1, 0, 1, 3, 0},
		{ProtoUnreachable, 3, 2, 0, 4, 1, 40},
		{PortUnreachable, 3, 3, 0, 1, 4, 0},
		{AdminProhibited, 3, 13, 0, 1, 1, 0},
		{FragNeeded, 3, 4, 1280, 2, 0, 1280},
		{TTLExceeded, 11, 0, 0, 3, 0, 0},
		{ReassemblyExceeded, 11, 1, 0, 3, 1, 0},
		{ParamProblem, 12, 0, 0, 4, 0, 0},
	}
	v4 := mustParse(t, raw4{proto: UDP, payload: udpBytes(ap(con4, 4000), ap(far4, 53), pattern(2000))}.bytes())
	v6 := mustParse(t, raw6(60, ext6(UDP), udpBytes(ap(con6, 4000), ap(far6, 53), pattern(2000))))
	for _, row := range rows {
		for _, c := range []struct {
			orig      *Packet
			from      netip.Addr
			most      int
			typ, code byte
			word      uint32
		}{
			{v4, gw4, 576, row.type4, row.code4, row.word4},
			{v6, gw6, 1280, row.type6, row.code6, row.word6},
		} {
			t.Run(fmt.Sprintf("%v to %v", row.kind, c.orig.Src), func(t *testing.T) {
				b := ICMPError(make([]byte, 0, 1280), c.orig, c.from, row.kind, 1280)
				p := mustParse(t, b)
				if len(b) != c.most || p.Src != c.from || p.Dst != c.orig.Src || p.TTL != DefaultTTL || !p.VerifyTransport() {
					t.Errorf("%d bytes, %v to %v, TTL %d, checksum %v", len(b), p.Src, p.Dst, p.TTL, p.VerifyTransport())
				}
				m := p.Payload()
				if m[0] != c.typ || m[1] != c.code || binary.BigEndian.Uint32(m[4:]) != c.word {
					t.Errorf("type %d code %d word %d, want %d %d %d", m[0], m[1], binary.BigEndian.Uint32(m[4:]), c.typ, c.code, c.word)
				}
				if !bytes.Equal(m[8:], c.orig.Data[:len(m)-8]) {
					t.Error("quote differs from the packet")
				}
				var q Quoted
				if r := ParseQuoted(&q, p); r != drop.None {
					t.Fatal(r)
				}
				if q.Kind != row.kind || q.Proto != UDP || q.Src != ap(c.orig.Src, 4000) || q.Dst != ap(c.orig.Dst, 53) {
					t.Errorf("read back %+v", q)
				}
				if row.kind == FragNeeded && q.MTU != 1280 {
					t.Errorf("MTU %d", q.MTU)
				}
			})
		}
	}
}

func TestICMPErrorAboutAProblem(t *testing.T) {
	var p Packet
	Parse(&p, frame(l2.TypeIPv6, raw6(60, ext6(UDP, 0, 0, 0x9e, 0), pattern(20))))
	m := mustParse(t, ICMPError(nil, &p, gw6, ParamProblem, 0)).Payload()
	if m[0] != 4 || m[1] != 2 || binary.BigEndian.Uint32(m[4:]) != 44 {
		t.Errorf("type %d code %d pointer %d, want 4 2 44", m[0], m[1], binary.BigEndian.Uint32(m[4:]))
	}
	big := mustParse(t, raw4{proto: UDP, payload: pattern(20)}.bytes())
	if m := mustParse(t, ICMPError(nil, big, gw4, FragNeeded, 70000)).Payload(); binary.BigEndian.Uint32(m[4:]) != 0xffff {
		t.Errorf("MTU 70000 is told as %d in 16 bits", binary.BigEndian.Uint32(m[4:]))
	}
	// An unknown transport is objected to where it is named: in the last extension header.
	chain := raw6(0, ext6(nextFragment), frag6(60, 0, false, 1), ext6(253), pattern(20))
	m = mustParse(t, ICMPError(nil, mustParse(t, chain), gw6, ProtoUnreachable, 0)).Payload()
	if m[0] != 4 || m[1] != 1 || binary.BigEndian.Uint32(m[4:]) != 56 {
		t.Errorf("type %d code %d pointer %d, want 4 1 56", m[0], m[1], binary.BigEndian.Uint32(m[4:]))
	}
	small := raw4{proto: UDP, payload: udpBytes(ap(con4, 1), ap(far4, 2), nil)}.bytes()
	if b := ICMPError(nil, mustParse(t, small), gw4, PortUnreachable, 0); len(b) != 28+len(small) {
		t.Errorf("error about %d bytes has %d", len(small), len(b))
	}
}

// TestICMPErrorIsNotSent goes through RFC 1122 §3.2.2 and RFC 4443 §2.4 (e).
func TestICMPErrorIsNotSent(t *testing.T) {
	udp4, udp6 := udpBytes(ap(con4, 1), ap(far4, 2), pattern(32)), udpBytes(ap(con6, 1), ap(far6, 2), pattern(32))
	icmp := func(typ byte) []byte { return append([]byte{typ, 0, 0, 0, 0, 0, 0, 0}, pattern(20)...) }
	group6 := func(b []byte) []byte { copy(b[24:], netip.MustParseAddr("ff02::1").AsSlice()); return b }
	unspecified6 := func(b []byte) []byte { copy(b[8:24], make([]byte, 16)); return b }
	addr := netip.MustParseAddr
	rows := []struct {
		name string
		b    []byte
		kind ErrorKind
		sent bool
	}{
		{"UDP", raw4{proto: UDP, payload: udp4}.bytes(), PortUnreachable, true},
		{"unknown transport 132", raw4{proto: 132, payload: udp4}.bytes(), ProtoUnreachable, true},
		{"unknown transport 253", raw4{proto: 253}.bytes(), ProtoUnreachable, true},
		{"options", raw4{proto: 253, opts: []byte{7, 7, 4, 0, 0, 0, 0}}.bytes(), TTLExceeded, true},
		{"echo request", raw4{proto: ICMP, payload: icmp(8)}.bytes(), TTLExceeded, true},
		{"echo reply", raw4{proto: ICMP, payload: icmp(0)}.bytes(), TTLExceeded, true},
		{"unreachable", raw4{proto: ICMP, payload: icmp(3)}.bytes(), TTLExceeded, false},
		{"source quench", raw4{proto: ICMP, payload: icmp(4)}.bytes(), TTLExceeded, false},
		{"redirect", raw4{proto: ICMP, payload: icmp(5)}.bytes(), TTLExceeded, false},
		{"time exceeded", raw4{proto: ICMP, payload: icmp(11)}.bytes(), TTLExceeded, false},
		{"parameter problem", raw4{proto: ICMP, payload: icmp(12)}.bytes(), TTLExceeded, false},
		{"ICMP without a type", raw4{proto: ICMP}.bytes(), TTLExceeded, false},
		{"first fragment", raw4{proto: UDP, more: true, payload: udp4}.bytes(), TTLExceeded, true},
		{"later fragment", raw4{proto: UDP, off: 8, payload: udp4}.bytes(), TTLExceeded, false},
		{"to multicast", raw4{proto: UDP, dst: addr("239.1.2.3"), payload: udp4}.bytes(), TTLExceeded, false},
		{"to broadcast", raw4{proto: UDP, dst: broadcast4, payload: udp4}.bytes(), TTLExceeded, false},
		{"from nobody", raw4{proto: UDP, src: addr("0.0.0.0"), payload: udp4}.bytes(), TTLExceeded, false},
		{"no such kind", raw4{proto: UDP, payload: udp4}.bytes(), errorKinds, false},
		{"kind 0", raw4{proto: UDP, payload: udp4}.bytes(), 0, false},

		{"UDP6", raw6(UDP, udp6), PortUnreachable, true},
		{"unknown transport behind a chain", raw6(60, ext6(253)), ProtoUnreachable, true},
		{"echo request 6", raw6(ICMPv6, icmp(128)), TTLExceeded, true},
		{"unreachable 6", raw6(ICMPv6, icmp(1)), TTLExceeded, false},
		{"too big 6", raw6(60, ext6(ICMPv6), icmp(2)), TTLExceeded, false},
		{"unknown error 6", raw6(ICMPv6, icmp(127)), TTLExceeded, false},
		{"redirect 6", raw6(ICMPv6, icmp(137)), TTLExceeded, false},
		{"later fragment 6", raw6(nextFragment, frag6(UDP, 8, true, 1), udp6), TTLExceeded, false},
		{"to a group 6", group6(raw6(UDP, udp6)), PortUnreachable, false},
		{"too big for a group 6", group6(raw6(UDP, udp6)), FragNeeded, true},
		{"parameter problem from a group 6", group6(raw6(UDP, udp6)), ParamProblem, false},
		{"option problem from a group 6", group6(raw6(60, ext6(UDP, 0x9e, 0), udp6)), ParamProblem, true},
		{"from nobody 6", unspecified6(raw6(UDP, udp6)), PortUnreachable, false},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			var p Packet
			Parse(&p, frameFor(row.b))
			from := gw4
			if p.Is6() {
				from = gw6
			}
			if got := ICMPError(nil, &p, from, row.kind, 0) != nil; got != row.sent {
				t.Errorf("sent %v, want %v", got, row.sent)
			}
			p.Group = true
			if ICMPError(nil, &p, from, row.kind, 0) != nil && row.kind != FragNeeded && row.kind != ParamProblem {
				t.Error("sent about a frame to a group")
			}
		})
	}
	p := mustParse(t, raw4{proto: UDP, payload: udp4}.bytes())
	for _, from := range []netip.Addr{gw6, {}} {
		if ICMPError(nil, p, from, PortUnreachable, 0) != nil && from.IsValid() {
			t.Errorf("sent from %v", from)
		}
	}
}

// TestQuotes is NAT-14 and HC-21: what an ICMP error may quote.
func TestQuotes(t *testing.T) {
	udp, tcp := udpBytes(ap(con4, 7), ap(far4, 8), pattern(40)), tcpBytes(ap(con4, 7), ap(far4, 8), nil)
	inner := func(r raw4) []byte { return r.bytes() }
	good := inner(raw4{proto: UDP, payload: udp})
	echo := func(typ byte) []byte { return []byte{typ, 0, 0, 0, 0x12, 0x34, 0, 9, 1, 2} }
	udp6 := udpBytes(ap(con6, 7), ap(far6, 8), pattern(40))
	rows := []struct {
		name string
		typ  byte
		in   []byte
		want drop.Reason
		port bool // ports 7 and 8 were found
	}{
		{"whole", 3, good, drop.None, true},
		{"cut to 8 bytes", 3, good[:28], drop.None, true},
		{"cut to 7 bytes", 3, good[:27], drop.IPMalformed, false},
		{"cut header", 3, good[:19], drop.IPMalformed, false},
		{"nothing", 3, nil, drop.IPMalformed, false},
		{"TCP", 11, inner(raw4{proto: TCP, payload: tcp})[:28], drop.None, true},
		{"options", 3, inner(raw4{proto: UDP, opts: []byte{7, 7, 4, 0, 0, 0, 0}, payload: udp})[:36], drop.None, true},
		{"source route option", 3, inner(raw4{proto: UDP, opts: []byte{131, 3, 4}, payload: udp}), drop.None, true},
		{"40 bytes of options", 3, inner(raw4{proto: UDP, opts: bytes.Repeat([]byte{1}, 40), payload: udp})[:68], drop.None, true},
		{"options and cut", 3, inner(raw4{proto: UDP, opts: []byte{7, 7, 4, 0, 0, 0, 0}, payload: udp})[:35], drop.IPMalformed, false},
		{"broken options", 3, inner(raw4{proto: UDP, opts: []byte{7, 0}, payload: udp}), drop.None, true},
		{"bad inner checksum", 3, inner(raw4{proto: UDP, payload: udp, keepSumWrong: true}), drop.ChecksumBad, false},
		{"bad inner transport checksum", 3, inner(raw4{proto: UDP, payload: append([]byte{0, 7, 0, 8, 0, 8, 1, 1}, pattern(9)...)}), drop.None, true},
		{"IHL 4", 3, inner(raw4{proto: UDP, payload: udp, edit: func(b []byte) { b[0] = 0x44 }}), drop.IPMalformed, false},
		{"IHL beyond the quote", 3, inner(raw4{proto: UDP, payload: udp, edit: func(b []byte) { b[0] = 0x4f }})[:40], drop.IPMalformed, false},
		{"total length lies", 3, inner(raw4{proto: UDP, payload: udp, edit: func(b []byte) { b[2], b[3] = 0, 20 }}), drop.IPMalformed, false},
		{"total length beyond the quote", 3, inner(raw4{proto: UDP, payload: udp, edit: func(b []byte) { b[2], b[3] = 0xff, 0xff }}), drop.None, true},
		{"version 6", 3, raw6(UDP, udp6), drop.IPMalformed, false},
		{"first fragment", 3, inner(raw4{proto: UDP, more: true, payload: udp}), drop.None, true},
		{"later fragment", 3, inner(raw4{proto: UDP, off: 8, payload: udp}), drop.ICMPUnmatched, false},
		{"SCTP", 3, inner(raw4{proto: 132, payload: udp}), drop.None, true},
		{"protocol 253", 3, inner(raw4{proto: 253, payload: udp}), drop.None, false},
		{"protocol 253 cut", 3, inner(raw4{proto: 253, payload: udp[:4]}), drop.IPMalformed, false},
		{"ICMPv6 in IPv4", 3, inner(raw4{proto: ICMPv6, payload: udp}), drop.None, false},
		{"echo request", 3, inner(raw4{proto: ICMP, payload: echo(8)}), drop.None, false},
		{"ICMP error in an ICMP error", 3, inner(raw4{proto: ICMP, payload: echo(3)}), drop.ICMPUnmatched, false},
		{"timestamp request", 3, inner(raw4{proto: ICMP, payload: echo(13)}), drop.ICMPUnmatched, false},
		{"source quench", 4, good, drop.ICMPUnmatched, false},
		{"redirect", 5, good, drop.ICMPUnmatched, false},
		{"echo reply", 0, good, drop.ICMPUnmatched, false},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			m := append([]byte{row.typ, 0, 0, 0, 0, 0, 0, 0}, row.in...)
			checkQuote(t, raw4{src: far4, dst: con4, proto: ICMP, payload: m}.bytes(), row.want, row.port)
		})
	}
	p := mustParse(t, raw4{proto: ICMP, payload: append([]byte{11, 0, 0, 0, 0, 0, 0, 0}, inner(raw4{proto: ICMP, payload: echo(8)})...)}.bytes())
	var q Quoted
	if r := ParseQuoted(&q, p); r != drop.None || q.ID != 0x1234 || q.Seq != 9 || !q.Request || q.Kind != TTLExceeded {
		t.Errorf("quoted echo: %v %+v", r, q)
	}
	for _, b := range [][]byte{
		raw4{proto: ICMP, payload: []byte{3, 0, 0, 0, 0, 0, 0}}.bytes(),
		raw4{proto: UDP, payload: pattern(80)}.bytes(),
		raw4{proto: ICMPv6, payload: append([]byte{1, 0, 0, 0, 0, 0, 0, 0}, good...)}.bytes(),
		raw4{proto: ICMP, more: true, payload: append([]byte{3, 0, 0, 0, 0, 0, 0, 0}, good[:64]...)}.bytes(),
	} {
		if r := ParseQuoted(&q, mustParse(t, b)); r == drop.None {
			t.Errorf("% x was taken for an error", b[:30])
		}
	}
}

func TestQuotes6(t *testing.T) {
	udp := udpBytes(ap(con6, 7), ap(far6, 8), pattern(40))
	rows := []struct {
		name string
		typ  byte
		in   []byte
		want drop.Reason
		port bool
	}{
		{"whole", 1, raw6(UDP, udp), drop.None, true},
		{"cut to 8 bytes", 1, raw6(UDP, udp)[:48], drop.None, true},
		{"cut to 7 bytes", 1, raw6(UDP, udp)[:47], drop.IPMalformed, false},
		{"cut header", 1, raw6(UDP, udp)[:39], drop.IPMalformed, false},
		{"behind extension headers", 2, raw6(0, ext6(60), ext6(nextRouting), []byte{nextFragment, 0, 4, 0, 0, 0, 0, 0}, frag6(UDP, 0, true, 1), udp), drop.None, true},
		{"later fragment", 3, raw6(nextFragment, frag6(UDP, 8, false, 1), udp), drop.ICMPUnmatched, false},
		{"cut in the chain", 1, raw6(60, ext6(UDP), udp)[:47], drop.IPMalformed, false},
		{"chain longer than the quote", 1, raw6(60, []byte{UDP, 255, 0, 0, 0, 0, 0, 0}, udp), drop.IPMalformed, false},
		{"100 headers", 1, raw6(60, repeat(99, ext6(60)), ext6(UDP), udp), drop.IPMalformed, false},
		{"payload length lies", 1, append(raw6(UDP), udp...), drop.IPMalformed, false},
		{"unknown transport", 4, raw6(253, udp), drop.None, false},
		{"error in an error", 1, raw6(ICMPv6, []byte{1, 0, 0, 0, 0, 0, 0, 0}), drop.ICMPUnmatched, false},
		{"neighbour solicitation", 1, raw6(ICMPv6, []byte{135, 0, 0, 0, 0, 0, 0, 0}), drop.ICMPUnmatched, false},
		{"echo request", 1, raw6(ICMPv6, []byte{128, 0, 0, 0, 0, 0, 0, 0}), drop.None, false},
		{"version 4", 1, raw4{proto: UDP, payload: udp}.bytes(), drop.IPMalformed, false},
		{"redirect", 137, raw6(UDP, udp), drop.ICMPUnmatched, false},
		{"router advertisement", 134, raw6(UDP, udp), drop.ICMPUnmatched, false},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			checkQuote(t, raw6(ICMPv6, []byte{row.typ, 0, 0, 0, 0, 0, 0, 0}, row.in), row.want, row.port)
		})
	}
}

// checkQuote reads the error in b and checks ports 7 and 8 of the quote.
func checkQuote(t *testing.T, b []byte, want drop.Reason, ports bool) {
	t.Helper()
	var q Quoted
	if got := ParseQuoted(&q, mustParse(t, b)); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := q.Src.Port() == 7 && q.Dst.Port() == 8; got != ports {
		t.Errorf("quoted ports %d %d, found %v, want %v", q.Src.Port(), q.Dst.Port(), got, ports)
	}
}

func TestKindOfIsTheInverse(t *testing.T) {
	for k := ErrorKind(1); k < errorKinds; k++ {
		c := codes[k]
		if got, ok := KindOf(false, c.type4, c.code4); got != k || !ok {
			t.Errorf("IPv4 %d/%d: %v, want %v", c.type4, c.code4, got, k)
		}
		if got, ok := KindOf(true, c.type6, c.code6); got != k || !ok {
			t.Errorf("IPv6 %d/%d: %v, want %v", c.type6, c.code6, got, k)
		}
		if k.String() == "unknown" || k.String() == "" {
			t.Errorf("kind %d has no name", k)
		}
	}
	if s := errorKinds.String(); s != "unknown" {
		t.Errorf("no kind is %q", s)
	}
	for _, c := range [][2]byte{{0, 0}, {3, 16}, {4, 0}, {5, 1}, {8, 0}, {11, 2}, {42, 0}} {
		if k, ok := KindOf(false, c[0], c[1]); ok {
			t.Errorf("IPv4 %d/%d is %v", c[0], c[1], k)
		}
	}
	for _, c := range [][2]byte{{0, 0}, {1, 7}, {3, 2}, {128, 0}, {137, 0}} {
		if k, ok := KindOf(true, c[0], c[1]); ok {
			t.Errorf("IPv6 %d/%d is %v", c[0], c[1], k)
		}
	}
}
