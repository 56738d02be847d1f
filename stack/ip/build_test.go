package ip

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

func TestPutUDPHeaders(t *testing.T) {
	for _, c := range []struct{ src, dst netip.AddrPort }{{ap(far4, 53), ap(con4, 4000)}, {ap(far6, 53), ap(con6, 4000)}} {
		for _, n := range []int{0, 1, 1472, 65507} {
			payload := pattern(n)
			b := make([]byte, 48+n)
			h := PutUDPHeaders(b, c.src, c.dst, n, UDPOpts{TTL: 7, TOS: 0x2e, DF: true, Payload: payload})
			if h != UDPHeadersLen(c.src.Addr()) {
				t.Fatalf("%v: wrote %d bytes", c.src, h)
			}
			copy(b[h:], payload)
			p := mustParse(t, b[:h+n])
			src, dst, _ := p.Ports()
			if ap(p.Src, src) != c.src || ap(p.Dst, dst) != c.dst || p.TTL != 7 || p.TOS != 0x2e || !p.DF {
				t.Errorf("%+v", p)
			}
			if data, ok := p.UDPPayload(); !ok || !bytes.Equal(data, payload) || !p.VerifyTransport() {
				t.Errorf("%v: %d bytes: payload %v, checksum %v", c.src, n, ok, p.VerifyTransport())
			}
		}
	}
}

func TestPutUDPHeadersDefaults(t *testing.T) {
	b := make([]byte, 48)
	mapped := netip.AddrFrom16(far4.As16())
	ids := map[uint32]bool{}
	for range 50 {
		n := PutUDPHeaders(b, ap(mapped, 1), ap(con4, 2), 0, UDPOpts{})
		p := mustParse(t, b[:n])
		if p.TTL != DefaultTTL || p.DF || p.Src != far4 || p.ID == 0 {
			t.Fatalf("%+v", p)
		}
		ids[p.ID] = true
	}
	if len(ids) < 45 {
		t.Errorf("%d identifications in 50 packets", len(ids))
	}
	if mustParse(t, b[:PutUDPHeaders(b, ap(far4, 1), ap(con4, 2), 0, UDPOpts{DF: true})]).ID != 0 {
		t.Error("a packet with DF has an identification")
	}
	for name, n := range map[string]int{
		"two families":      PutUDPHeaders(b, ap(far4, 1), ap(con6, 2), 0, UDPOpts{}),
		"IPv4 too long":     PutUDPHeaders(b, ap(far4, 1), ap(con4, 2), 65508, UDPOpts{Partial: true}),
		"IPv6 too long":     PutUDPHeaders(b, ap(far6, 1), ap(con6, 2), 65528, UDPOpts{Partial: true}),
		"no address":        PutUDPHeaders(b, netip.AddrPort{}, ap(con6, 2), 0, UDPOpts{}),
		"no address at all": PutUDPHeaders(b, netip.AddrPort{}, netip.AddrPort{}, 0, UDPOpts{}),
	} {
		if n != 0 {
			t.Errorf("%s: wrote %d bytes", name, n)
		}
	}
}

// TestUDPChecksumNeverZero finds a payload whose checksum comes out as 0 and must be sent as 0xffff.
func TestUDPChecksumNeverZero(t *testing.T) {
	payload, b := []byte{0, 0}, make([]byte, 48)
	src, dst := ap(far6, 1), ap(con6, 2)
	sum := AddSum(PseudoSum(far6, con6, UDP, 10), AddSum(1+2, 10))
	payload[0], payload[1] = byte(^sum>>8), byte(^sum)
	n := PutUDPHeaders(b, src, dst, 2, UDPOpts{Payload: payload})
	if b[n-2] != 0xff || b[n-1] != 0xff {
		t.Errorf("checksum %02x%02x, want ffff", b[n-2], b[n-1])
	}
	if !mustParse(t, append(b[:n], payload...)).VerifyTransport() {
		t.Error("does not verify")
	}
}

func TestUDPPartial(t *testing.T) {
	for _, c := range []struct{ src, dst netip.AddrPort }{{ap(far4, 53), ap(con4, 4000)}, {ap(far6, 53), ap(con6, 4000)}} {
		b := make([]byte, 48)
		payload := pattern(999)
		n := PutUDPHeaders(b, c.src, c.dst, len(payload), UDPOpts{Partial: true})
		f := frameFor(append(b[:n], payload...))
		f.VNet = UDPVNet(c.src.Addr(), 500)
		if v := f.VNet; v.GSOType != l2.GSOUDPL4 || v.GSOSize != 500 || int(v.HdrLen) != 14+n {
			t.Errorf("VNet %+v", v)
		}
		var p Packet
		if r := Parse(&p, f); r != drop.None || !p.VerifyTransport() {
			t.Errorf("%v: %v", c.src, r)
		}
		if data, ok := p.UDPPayload(); !ok || len(data) != 999 {
			t.Errorf("USO payload %d %v", len(data), ok)
		}
	}
}

func TestEcho(t *testing.T) {
	for _, c := range []struct{ src, dst netip.Addr }{{con4, far4}, {con6, far6}} {
		prefix := []byte("kept")
		b := AppendEcho(bytes.Clone(prefix), Echo{Src: c.src, Dst: c.dst, ID: 0x1234, Seq: 7, TTL: 3, TOS: 4, Data: pattern(57)})
		if !bytes.HasPrefix(b, prefix) {
			t.Fatal("does not append")
		}
		p := mustParse(t, b[4:])
		id, seq, ok := p.ICMPEcho()
		if !ok || id != 0x1234 || seq != 7 || p.TTL != 3 || p.TOS != 4 || !p.VerifyTransport() {
			t.Errorf("request: %x %d %v %+v", id, seq, ok, p)
		}
		r := mustParse(t, EchoReply(nil, p))
		if r.Src != c.dst || r.Dst != c.src || !r.VerifyTransport() || r.TTL != DefaultTTL {
			t.Errorf("reply %+v", r)
		}
		if !bytes.Equal(r.Payload()[4:], p.Payload()[4:]) || r.Payload()[0] == p.Payload()[0] {
			t.Errorf("reply % x to % x", r.Payload()[:8], p.Payload()[:8])
		}
		if _, _, ok := r.ICMPEcho(); ok || EchoReply(nil, r) != nil {
			t.Error("a reply was answered")
		}
	}
	if AppendEcho(nil, Echo{Src: con4, Dst: far6}) != nil || AppendEcho(nil, Echo{Src: con4, Dst: far4, Data: make([]byte, 65508)}) != nil {
		t.Error("impossible echo was built")
	}
	for name, r := range map[string]raw4{
		"code 1":   {proto: ICMP, payload: []byte{8, 1, 0, 0, 0, 0, 0, 0}},
		"short":    {proto: ICMP, payload: []byte{8, 0, 0, 0, 0, 0, 0}},
		"v6 in v4": {proto: ICMPv6, payload: []byte{128, 0, 0, 0, 0, 0, 0, 0}},
		"fragment": {proto: ICMP, more: true, payload: []byte{8, 0, 0, 0, 0, 0, 0, 0}},
	} {
		if _, _, ok := mustParse(t, r.bytes()).ICMPEcho(); ok {
			t.Errorf("%s: taken for a request", name)
		}
	}
}
