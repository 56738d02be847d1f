package gso

import (
	"encoding/binary"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

const (
	protoTCP = 6
	protoUDP = 17

	ipv4MinLen = 20
	ipv6Len    = 40
	tcpMinLen  = 20
	udpLen     = 8

	// maxHeader bounds the headers of a frame that is cut: an IPv4 or IPv6 header, 400 bytes of
	// IPv6 extension headers, 60 of TCP.
	maxHeader = 512
	// maxPacket is the longest packet a 16-bit length describes, IPv6 header not counted there.
	maxPacket = 65535
)

// layout says where the headers of a frame to be cut are, counted in L3[0].
type layout struct {
	v6        bool
	tcp       bool
	transport int // where the transport header begins
	payload   int // where the payload begins
	length    int // of the whole packet
}

// parse checks that f is what its VNet says and returns its layout.
//
// A VNet comes from a container, so nothing here is taken on trust: a header that contradicts it
// is a drop.VNetBad.
func parse(f *l2.Frame) (layout, drop.Reason) {
	var l layout
	kind := f.VNet.GSOType &^ l2.GSOECN
	l.tcp = kind == l2.GSOTCPv4 || kind == l2.GSOTCPv6
	if !l.tcp && (kind != l2.GSOUDPL4 || f.VNet.GSOType != kind) {
		return l, drop.VNetBad
	}
	if f.VNet.Flags&l2.VNetNeedsCsum == 0 || f.VNet.GSOSize == 0 || len(f.L3) == 0 {
		return l, drop.VNetBad
	}
	l.transport = int(f.VNet.CsumStart) - l2.HeaderLen
	l.length = f.Len()
	b := f.L3[0]
	var ok bool
	switch f.Header.Type() {
	case l2.TypeIPv4:
		ok = kind != l2.GSOTCPv6 && l.parseIPv4(b)
	case l2.TypeIPv6:
		l.v6 = true
		ok = kind != l2.GSOTCPv4 && l.parseIPv6(b)
	}
	if !ok || !l.parseTransport(b, f.VNet.CsumOffset) {
		return l, drop.VNetBad
	}
	return l, drop.None
}

func (l *layout) proto() byte {
	if l.tcp {
		return protoTCP
	}
	return protoUDP
}

func (l *layout) parseIPv4(b []byte) bool {
	if len(b) < ipv4MinLen || b[0]>>4 != 4 || l.length > maxPacket {
		return false
	}
	ihl := int(b[0]&0xf) * 4
	fragment := binary.BigEndian.Uint16(b[6:]) & 0x3fff // MF and the offset
	return ihl >= ipv4MinLen && ihl == l.transport && ihl <= len(b) && fragment == 0 &&
		b[9] == l.proto() && int(binary.BigEndian.Uint16(b[2:])) == l.length
}

func (l *layout) parseIPv6(b []byte) bool {
	if len(b) < ipv6Len || b[0]>>4 != 6 || l.length-ipv6Len > maxPacket ||
		int(binary.BigEndian.Uint16(b[4:])) != l.length-ipv6Len {
		return false
	}
	next, at := b[6], ipv6Len
	for at < l.transport {
		// Hop-by-hop, routing and destination options have one shape (RFC 8200 §4). A fragment
		// header (44) is none of them, and a fragment is never cut.
		if next != 0 && next != 43 && next != 60 || at+8 > len(b) {
			return false
		}
		next, at = b[at], at+8*(int(b[at+1])+1)
	}
	return at == l.transport && next == l.proto()
}

func (l *layout) parseTransport(b []byte, csumOffset uint16) bool {
	t := l.transport
	if l.tcp {
		if csumOffset != 16 || t+tcpMinLen > len(b) {
			return false
		}
		n := int(b[t+12]>>4) * 4
		l.payload = t + n
		return n >= tcpMinLen && l.payload <= len(b) && l.payload <= maxHeader
	}
	l.payload = t + udpLen
	return csumOffset == 6 && l.payload <= len(b) && l.payload <= maxHeader &&
		int(binary.BigEndian.Uint16(b[t+4:])) == l.length-t
}

// pseudo adds the pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1) for n bytes of transport.
func (l *layout) pseudo(s *Sum, b []byte, n int) {
	if l.v6 {
		s.Add(b[8:40])
	} else {
		s.Add(b[12:20])
	}
	s.Add16(uint16(l.proto()))
	s.Add16(uint16(n))
}
