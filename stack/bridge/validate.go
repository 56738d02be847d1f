package bridge

import (
	"encoding/binary"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/gso"
	"github.com/usernet/usernet/stack/l2"
)

// What a VNet header may say. The kernel builds the header of every frame that a TAP delivers, so an
// honest one always passes; a lie comes from a kernel we did not expect or a reader's mistake, and would
// otherwise make a port that segments or sums read outside the frame.
const (
	// MaxSegments bounds the work of one frame for a port that segments: a 64 KiB frame with the MSS of
	// a link with the IPv4 minimum MTU of 576 bytes and timestamps makes 65 535 / 524 = 125. The kernel's own
	// bound for UDP is the same (UDP_MAX_SEGMENTS).
	MaxSegments = gso.MaxSegments

	// minGSOSize is the kernel's smallest gso_size, TCP_MIN_GSO_SIZE: the least MSS, 48, less 40 bytes of
	// options. With MaxSegments, small segments cost no more than those of an honest frame.
	minGSOSize = 8
)

// Numbers of IP protocols that the switch looks at.
const (
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoICMPv6   = 58
	minTCPHeader  = 20
	udpHeader     = 8
	minIPv4Header = 20
	ipv6Header    = 40
)

// Validate checks what can be said of a frame without knowing its port: EtherType, source address, VNet
// header, and that L3[0] is there. segments is how many packets a port without GSO makes of it. After
// that CsumStart, CsumOffset and GSOSize can be used without further checks, and the headers of a frame
// with GSO are whole in L3[0].
func Validate(f *l2.Frame) (segments int, r drop.Reason) {
	switch f.Header.Type() {
	case l2.TypeIPv4, l2.TypeIPv6, l2.TypeARP:
	default:
		return 0, drop.EtherTypeDenied
	}
	if src := f.Header.Src(); src.IsMulticast() || src.IsZero() {
		return 0, drop.SrcGroup
	}
	if len(f.L3) == 0 || len(f.L3[0]) == 0 {
		return 0, drop.IPMalformed
	}
	if f.VNet == (l2.VNet{}) {
		return 1, drop.None
	}
	segments, ok := validateVNet(f)
	if !ok {
		return 0, drop.VNetBad
	}
	return segments, drop.None
}

// validateVNet checks a VNet header against the frame it is on. HdrLen is a hint that honest kernels fill
// with anything from the length of the headers to that of the frame.
func validateVNet(f *l2.Frame) (segments int, ok bool) {
	v, size := &f.VNet, l2.HeaderLen+f.Len()
	if v.Flags&^(l2.VNetNeedsCsum|l2.VNetDataValid) != 0 || int(v.HdrLen) > size {
		return 0, false
	}
	partial := v.Flags&l2.VNetNeedsCsum != 0
	if v.GSOType == l2.GSONone && !partial {
		return 1, true
	}
	t, ok := findTransport(f)
	if !ok || t.fragment {
		// Nobody leaves the checksum of a fragment open: it covers the whole datagram.
		return 0, false
	}
	start, field := int(v.CsumStart), int(v.CsumStart)+int(v.CsumOffset)
	if partial && (start < l2.HeaderLen+t.off || field+2 > size) {
		return 0, false
	}
	if v.GSOType == l2.GSONone {
		// CsumStart may be further on than the transport header: the sum of an inner packet when
		// the container has a tunnel of its own.
		return 1, true
	}
	if !partial || start != l2.HeaderLen+t.off {
		return 0, false // every segment needs a sum, and GSO of tunnels has no VNet form
	}
	return validateGSO(f, t)
}

// validateGSO checks kind, size and lengths of a frame that is to be cut, and counts its segments.
func validateGSO(f *l2.Frame, t transport) (segments int, ok bool) {
	v, h := &f.VNet, f.L3[0]
	headers := t.off
	switch v.GSOType {
	case l2.GSOTCPv4, l2.GSOTCPv4 | l2.GSOECN, l2.GSOTCPv6, l2.GSOTCPv6 | l2.GSOECN:
		want := l2.TypeIPv4
		if v.GSOType&^l2.GSOECN == l2.GSOTCPv6 {
			want = l2.TypeIPv6
		}
		if f.Header.Type() != want || t.proto != protoTCP || v.CsumOffset != 16 || len(h) < t.off+minTCPHeader {
			return 0, false
		}
		n := int(h[t.off+12]>>4) * 4
		if n < minTCPHeader {
			return 0, false
		}
		headers += n
	case l2.GSOUDPL4:
		if t.proto != protoUDP || v.CsumOffset != 6 {
			return 0, false
		}
		headers += udpHeader
	default: // UFO and kinds that were never offered to the kernel
		return 0, false
	}
	payload := f.Len() - headers
	if len(h) < headers || t.total != f.Len() || v.GSOSize < minGSOSize {
		return 0, false
	}
	segments = max(1, (payload+int(v.GSOSize)-1)/int(v.GSOSize))
	return segments, segments <= MaxSegments
}

// transport is where the transport header of a packet is.
type transport struct {
	off      int   // from the start of L3[0]
	proto    uint8 // of the header at off
	total    int   // length of the packet as its IP header has it
	fragment bool
}

// findTransport reads the IP headers in f.L3[0]. It is false when they are cut short or too many, or when
// there are none.
func findTransport(f *l2.Frame) (t transport, ok bool) {
	b := f.L3[0]
	switch f.Header.Type() {
	case l2.TypeIPv4:
		if len(b) < minIPv4Header || b[0]>>4 != 4 {
			return t, false
		}
		t = transport{
			off: int(b[0]&15) * 4, proto: b[9],
			total:    int(binary.BigEndian.Uint16(b[2:])),
			fragment: binary.BigEndian.Uint16(b[6:])&0x3fff != 0,
		}
		return t, t.off >= minIPv4Header && t.off <= len(b)
	case l2.TypeIPv6:
		u, r := upperLayer(b)
		t = transport{off: u.off, proto: u.proto, fragment: u.fragment}
		if r == drop.None {
			t.total = ipv6Header + int(binary.BigEndian.Uint16(b[4:]))
		}
		return t, r == drop.None
	}
	return t, false
}
