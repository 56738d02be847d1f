package sys

import (
	"net/netip"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// aligned copies b to where the kernel would have put control messages.
func aligned(b []byte) []byte {
	words := make([]uint64, len(b)/8+1)
	c := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(words)*8)
	return c[:copy(c, b)]
}

// What Datagram asks for reads back as what Received says, where the two have one form.
func TestControlRoundTrip(t *testing.T) {
	v6 := Datagram{To: netip.MustParseAddrPort("[fd00::1]:1"), Local: netip.MustParseAddr("fd00::2"), IfIndex: 7, TTL: 9, TOS: 0x2e}
	var m Received
	m.readControl(v6.control(aligned(make([]byte, controlLen))[:0]))
	if m.Local != v6.Local || m.IfIndex != 7 || m.TTL != 9 || m.TOS != 0x2e {
		t.Errorf("IPv6: %+v", m)
	}
	v4 := Datagram{To: netip.MustParseAddrPort("192.0.2.1:1"), Local: netip.MustParseAddr("192.0.2.2"), IfIndex: 7, TTL: 9, TOS: 0x2e, Segment: 1200}
	m = Received{}
	c := v4.control(aligned(make([]byte, controlLen))[:0])
	m.readControl(c)
	// The source is ipi_spec_dst on the way out and ipi_addr on the way in.
	if m.Local != netip.IPv4Unspecified() || m.IfIndex != 7 || m.TTL != 9 || m.TOS != 0x2e {
		t.Errorf("IPv4: %+v", m)
	}
	if n := unix.CmsgSpace(2); len(c) > controlLen || n > len(c) {
		t.Errorf("%d bytes of control messages, room for %d", len(c), controlLen)
	}
}

func FuzzControl(f *testing.F) {
	d := Datagram{To: netip.MustParseAddrPort("[fd00::1]:1"), Local: netip.MustParseAddr("fd00::2"), TTL: 9, TOS: 1, Segment: 100}
	f.Add(d.control(aligned(make([]byte, controlLen))[:0]))
	f.Add(unix.UnixRights(3, 4, 5))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = aligned(b)
		var m Received
		m.readControl(b)
		var e SockError
		e.readExtended(b)
		if n := len(rights(b)); n*4 > len(b) {
			t.Errorf("%d descriptors in %d bytes", n, len(b))
		}
		ap, _ := parseSockaddr(b)
		if ap.Addr().Is4In6() {
			t.Errorf("%v is 4-in-6", ap)
		}
	})
}
