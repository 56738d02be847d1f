package ip

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

func TestParse4(t *testing.T) {
	u := udpBytes(ap(con4, 4000), ap(far4, 53), []byte("query"))
	b := raw4{proto: UDP, ttl: 9, tos: 0xb8, id: 77, df: true, opts: []byte{1, 148, 4, 0, 0}, payload: u}.bytes()
	f := frame(l2.TypeIPv4, append(bytes.Clone(b), make([]byte, 18)...)) // Ethernet padding
	f.VNet = l2.VNet{Flags: l2.VNetDataValid}
	var p Packet
	if r := Parse(&p, f); r != drop.None {
		t.Fatal(r)
	}
	if p.Src != con4 || p.Dst != far4 || p.Proto != UDP || p.TTL != 9 || p.TOS != 0xb8 || !p.DF || p.HdrLen != 28 || p.IsFragment() {
		t.Errorf("parsed %+v", p)
	}
	if p.MAC != conMAC || p.Group || p.VNet != f.VNet {
		t.Errorf("of the frame: MAC %v, group %v, VNet %+v", p.MAC, p.Group, p.VNet)
	}
	if !bytes.Equal(p.Data, b) || cap(p.Data) != len(b) {
		t.Errorf("data has %d bytes, capacity %d, want the packet's %d without padding", len(p.Data), cap(p.Data), len(b))
	}
	if src, dst, ok := p.Ports(); !ok || src != 4000 || dst != 53 {
		t.Errorf("ports %d %d %v", src, dst, ok)
	}
	if data, ok := p.UDPPayload(); !ok || string(data) != "query" {
		t.Errorf("payload %q %v", data, ok)
	}
	if !p.VerifyTransport() {
		t.Error("right checksum refused")
	}
}

// TestMalformed4 is HC-20, and the fragment rows of it. Each row differs in one thing from the good one.
func TestMalformed4(t *testing.T) {
	payload := pattern(64)
	put := binary.BigEndian.PutUint16
	rows := []struct {
		name string
		raw  raw4
		cut  int // bytes off the end
		want drop.Reason
	}{
		{"good", raw4{}, 0, drop.None},
		{"IHL 4", raw4{edit: func(b []byte) { b[0] = 0x44 }}, 0, drop.IPMalformed},
		{"IHL 0", raw4{edit: func(b []byte) { b[0] = 0x40 }}, 0, drop.IPMalformed},
		{"IHL beyond total length", raw4{edit: func(b []byte) { b[0] = 0x4f; put(b[2:], 40) }}, 0, drop.IPMalformed},
		{"IHL beyond the frame", raw4{edit: func(b []byte) { b[0] = 0x4f }}, 40, drop.IPMalformed},
		{"total length beyond the frame", raw4{edit: func(b []byte) { put(b[2:], 85) }}, 0, drop.IPMalformed},
		{"total length below the header", raw4{edit: func(b []byte) { put(b[2:], 19) }}, 0, drop.IPMalformed},
		{"total length 0", raw4{edit: func(b []byte) { put(b[2:], 0) }}, 0, drop.IPMalformed},
		{"cut frame", raw4{}, 1, drop.IPMalformed},
		{"cut header", raw4{}, 65, drop.IPMalformed},
		{"nothing", raw4{}, 84, drop.IPMalformed},
		{"version 6", raw4{edit: func(b []byte) { b[0] = 0x65 }}, 0, drop.IPMalformed},
		{"version 0", raw4{edit: func(b []byte) { b[0] = 5 }}, 0, drop.IPMalformed},
		{"header checksum", raw4{keepSumWrong: true}, 0, drop.ChecksumBad},
		{"LSRR", raw4{opts: []byte{131, 7, 4, 1, 2, 3, 4}}, 0, drop.IPOptions},
		{"SSRR behind NOP", raw4{opts: []byte{1, 137, 7, 4, 1, 2, 3, 4}}, 0, drop.IPOptions},
		{"SSRR behind the end", raw4{opts: []byte{0, 137, 7, 4}}, 0, drop.None},
		{"record route", raw4{opts: []byte{7, 7, 4, 0, 0, 0, 0}}, 0, drop.None},
		{"option length 0", raw4{opts: []byte{68, 0, 1, 1}}, 0, drop.IPMalformed},
		{"option length 1", raw4{opts: []byte{68, 1, 1, 1}}, 0, drop.IPMalformed},
		{"option beyond the header", raw4{opts: []byte{68, 5, 1, 1}}, 0, drop.IPMalformed},
		{"option without a length", raw4{opts: []byte{1, 1, 1, 68}}, 0, drop.IPMalformed},
		{"first fragment", raw4{more: true}, 0, drop.None},
		{"last fragment", raw4{off: 64}, 0, drop.None},
		{"fragment ends at 65535", raw4{off: 65448}, 0, drop.None},
		{"fragment ends behind 65535", raw4{off: 65456}, 0, drop.IPFragment},
		{"ping of death", raw4{off: 65528}, 0, drop.IPFragment},
		{"fragment of no multiple of 8", raw4{more: true, payload: pattern(63)}, 0, drop.IPFragment},
		{"empty first fragment", raw4{more: true, payload: []byte{}}, 0, drop.IPFragment},
		{"empty last fragment", raw4{off: 8, payload: []byte{}}, 0, drop.IPFragment},
		{"multicast source", raw4{src: netip.MustParseAddr("224.0.0.1")}, 0, drop.SrcIPSpoofed},
		{"broadcast source", raw4{src: broadcast4}, 0, drop.SrcIPSpoofed},
		{"loopback source", raw4{src: netip.MustParseAddr("127.0.0.1")}, 0, drop.SrcIPSpoofed},
		{"no source yet (DHCP)", raw4{src: netip.MustParseAddr("0.0.0.0"), dst: broadcast4}, 0, drop.None},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			row.raw.proto = UDP
			if row.raw.payload == nil {
				row.raw.payload = payload
			}
			b := row.raw.bytes()
			var p Packet
			if got := Parse(&p, frame(l2.TypeIPv4, b[:len(b)-row.cut])); got != row.want {
				t.Errorf("got %v, want %v", got, row.want)
			}
		})
	}
}

func TestParseEtherType(t *testing.T) {
	v4, v6 := raw4{payload: pattern(8)}.bytes(), raw6(UDP, pattern(8))
	rows := []struct {
		name string
		f    *l2.Frame
		want drop.Reason
	}{
		{"IPv6 in 0x0800", frame(l2.TypeIPv4, v6), drop.IPMalformed},
		{"IPv4 in 0x86dd", frame(l2.TypeIPv6, v4, pattern(40)), drop.IPMalformed},
		{"ARP", frame(l2.TypeARP, v4), drop.EtherTypeDenied},
		{"no slices", frame(l2.TypeIPv4), drop.IPMalformed},
		{"empty slice", frame(l2.TypeIPv6, nil), drop.IPMalformed},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			if got := Parse(new(Packet), row.f); got != row.want {
				t.Errorf("got %v, want %v", got, row.want)
			}
		})
	}
}

func TestParsePacket(t *testing.T) {
	for _, b := range [][]byte{raw4{payload: pattern(8)}.bytes(), raw6(UDP, pattern(8))} {
		var p Packet
		if r := ParsePacket(&p, b); r != drop.None || len(p.Data) != len(b) || p.Is6() != (b[0]>>4 == 6) {
			t.Errorf("%v, %+v", r, p)
		}
	}
	for _, b := range [][]byte{nil, {0x45}, {0x60}, make([]byte, 60)} {
		if r := ParsePacket(new(Packet), b); r != drop.IPMalformed {
			t.Errorf("% x: %v", b, r)
		}
	}
}

func TestFragmentWithVNetIsRefused(t *testing.T) {
	for _, v := range []l2.VNet{{Flags: l2.VNetNeedsCsum, CsumStart: 34, CsumOffset: 6}, {GSOType: l2.GSOUDPL4, GSOSize: 100}} {
		for _, b := range [][]byte{
			raw4{proto: UDP, more: true, payload: pattern(64)}.bytes(),
			raw6(nextFragment, frag6(UDP, 0, true, 1), pattern(64)),
		} {
			f := frameFor(b)
			f.VNet = v
			if got := Parse(new(Packet), f); got != drop.VNetBad {
				t.Errorf("%+v: got %v, want %v", v, got, drop.VNetBad)
			}
		}
	}
}

func TestParseSlices(t *testing.T) {
	want := raw4{proto: UDP, payload: udpBytes(ap(con4, 1), ap(far4, 2), pattern(3000))}.bytes()
	var p Packet
	for _, l3 := range [][][]byte{
		{want},
		{want[:28], want[28:]},
		{want[:28], want[28:1001], nil, want[1001:], make([]byte, 30)},
		{want, pattern(100)}, // padding in a slice of its own is not even copied
	} {
		if r := Parse(&p, frame(l2.TypeIPv4, l3...)); r != drop.None {
			t.Fatal(r)
		}
		if !bytes.Equal(p.Data, want) || !p.VerifyTransport() {
			t.Errorf("%d slices: not the packet", len(l3))
		}
	}
	if r := Parse(&p, frame(l2.TypeIPv4, want[:28], want[28:500])); r != drop.IPMalformed {
		t.Errorf("slices shorter than the packet: %v", r)
	}
	if r := Parse(&p, frame(l2.TypeIPv4, want[:16], want[16:])); r != drop.IPMalformed {
		t.Errorf("header in two slices: %v", r)
	}
}

func TestPortsNeedTrueLengths(t *testing.T) {
	udp, tcp := udpBytes(ap(con4, 7), ap(far4, 8), pattern(20)), tcpBytes(ap(con4, 7), ap(far4, 8), pattern(20))
	at := func(b []byte, i int, v ...byte) []byte { b = bytes.Clone(b); copy(b[i:], v); return b }
	rows := []struct {
		name  string
		proto uint8
		t     []byte
		ok    bool
	}{
		{"UDP", UDP, udp, true},
		{"UDP with a trailer", UDP, append(bytes.Clone(udp), 1, 2, 3), true},
		{"UDP without data", UDP, udpBytes(ap(con4, 7), ap(far4, 8), nil), true},
		{"UDP header cut", UDP, udp[:7], false},
		{"UDP length 0", UDP, at(udp, 4, 0, 0), false},
		{"UDP length 7", UDP, at(udp, 4, 0, 7), false},
		{"UDP length beyond the packet", UDP, at(udp, 4, 0, 29), false},
		{"TCP", TCP, tcp, true},
		{"TCP header cut", TCP, tcp[:19], false},
		{"TCP offset 4", TCP, at(tcp, 12, 0x40), false},
		{"TCP offset beyond the packet", TCP, at(tcp, 12, 0xf0), false},
		{"SCTP", 132, tcp, false},
		{"nothing", TCP, nil, false},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			p := mustParse(t, raw4{proto: row.proto, payload: row.t}.bytes())
			src, dst, ok := p.Ports()
			if ok != row.ok || ok && (src != 7 || dst != 8) {
				t.Errorf("ports %d %d %v", src, dst, ok)
			}
			if _, ok := p.UDPPayload(); ok != (row.ok && row.proto == UDP) {
				t.Errorf("UDP payload: %v", ok)
			}
		})
	}
	for _, r := range []raw4{{proto: UDP, payload: udp[:24], more: true}, {proto: UDP, payload: udp, off: 8}} {
		p := mustParse(t, r.bytes())
		if _, _, ok := p.Ports(); ok {
			t.Error("ports of a fragment")
		}
		if _, ok := p.UDPPayload(); ok {
			t.Error("UDP payload of a fragment")
		}
	}
}
