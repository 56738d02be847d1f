package ip

import (
	"bytes"
	"testing"

	"github.com/usernet/usernet/stack/l2"
)

// TestTransportChecksums is TCP-12 for transports, in both families.
func TestTransportChecksums(t *testing.T) {
	type packet struct {
		b   []byte
		at  int // checksum field
		hdr int // its transport header
	}
	data := pattern(101)
	v6 := func(proto uint8, t []byte) []byte { return raw6(60, ext6(proto), t) }
	echo4 := AppendEcho(nil, Echo{Src: con4, Dst: far4, Data: data})
	echo6 := AppendEcho(nil, Echo{Src: con6, Dst: far6, Data: data})
	packets := map[string]packet{
		"TCP4":    {raw4{proto: TCP, payload: tcpBytes(ap(con4, 1), ap(far4, 2), data)}.bytes(), 36, 20},
		"UDP4":    {raw4{proto: UDP, opts: []byte{1}, payload: udpBytes(ap(con4, 1), ap(far4, 2), data)}.bytes(), 30, 24},
		"ICMP":    {echo4, 22, 20},
		"TCP6":    {v6(TCP, tcpBytes(ap(con6, 1), ap(far6, 2), data)), 64, 48},
		"UDP6":    {v6(UDP, udpBytes(ap(con6, 1), ap(far6, 2), data)), 54, 48},
		"ICMPv6":  {echo6, 42, 40},
		"trailer": {raw4{proto: UDP, payload: append(udpBytes(ap(con4, 1), ap(far4, 2), data), 9, 9, 9)}.bytes(), 26, 20},
	}
	for name, c := range packets {
		verify := func(b []byte, v l2.VNet) bool {
			f := frameFor(b)
			f.VNet = v
			p := new(Packet)
			Parse(p, f)
			return p.VerifyTransport()
		}
		t.Run(name, func(t *testing.T) {
			wrong := bytes.Clone(c.b)
			wrong[c.at] ^= 0x10
			needs := l2.VNet{Flags: l2.VNetNeedsCsum, CsumStart: uint16(14 + c.hdr), CsumOffset: uint16(c.at - c.hdr)}
			elsewhere, otherField := needs, needs
			elsewhere.CsumStart += 8
			otherField.CsumOffset += 2
			for _, row := range []struct {
				name string
				b    []byte
				v    l2.VNet
				want bool
			}{
				{"right", c.b, l2.VNet{}, true},
				{"wrong", wrong, l2.VNet{}, false},
				{"wrong but said to be valid", wrong, l2.VNet{Flags: l2.VNetDataValid}, false},
				{"partial", wrong, needs, name != "ICMP"}, // no kernel offloads ICMP
				{"partial of something else", wrong, elsewhere, false},
				{"partial in another field", wrong, otherField, false},
				{"complete, partial of something else", c.b, elsewhere, true},
			} {
				if got := verify(row.b, row.v); got != row.want {
					t.Errorf("%s: %v, want %v", row.name, got, row.want)
				}
			}
		})
	}
}

func TestUDPChecksumZero(t *testing.T) {
	zero := func(b []byte, at int) []byte { b[at], b[at+1] = 0, 0; return b }
	v4 := raw4{proto: UDP, payload: udpBytes(ap(con4, 1), ap(far4, 2), pattern(9))}.bytes()
	if p := mustParse(t, zero(v4, 26)); !p.VerifyTransport() {
		t.Error("IPv4: means none, and was refused")
	}
	v6 := raw6(UDP, udpBytes(ap(con6, 1), ap(far6, 2), pattern(9)))
	if p := mustParse(t, zero(v6, 46)); p.VerifyTransport() {
		t.Error("IPv6: not allowed, and was accepted")
	}
}

func TestVerifyShortTransports(t *testing.T) {
	for _, c := range []struct {
		proto uint8
		n     int
	}{{TCP, 19}, {UDP, 7}, {ICMP, 7}} {
		for n := range c.n + 1 {
			if p := mustParse(t, raw4{proto: c.proto, payload: make([]byte, n)}.bytes()); p.VerifyTransport() {
				t.Errorf("protocol %d with %d bytes was accepted", c.proto, n)
			}
		}
	}
	if p := mustParse(t, raw4{proto: UDP, more: true, payload: pattern(64)}.bytes()); p.VerifyTransport() {
		t.Error("a fragment was accepted")
	}
	for _, proto := range []uint8{132, 253} {
		if p := mustParse(t, raw4{proto: proto}.bytes()); !p.VerifyTransport() {
			t.Errorf("protocol %d was refused for a checksum we know nothing of", proto)
		}
	}
}
