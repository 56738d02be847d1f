package ip

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// Addresses of the tests: a container, its gateway, somebody far away.
var (
	con4, gw4, far4 = netip.MustParseAddr("10.0.2.100"), netip.MustParseAddr("10.0.2.2"), netip.MustParseAddr("198.51.100.7")
	con6, gw6, far6 = netip.MustParseAddr("fd00::100"), netip.MustParseAddr("fd00::2"), netip.MustParseAddr("2001:db8::7")

	conMAC = l2.MAC{2, 0, 0, 0, 0, 1}
	gwMAC  = l2.MAC{2, 0, 0, 0, 0, 2}
)

// raw4 is an IPv4 packet to be written byte by byte; bytes() fills in lengths and the checksum.
type raw4 struct {
	src, dst     netip.Addr
	proto        uint8
	ttl, tos     uint8
	id           uint16
	off          int // bytes
	df, more     bool
	opts         []byte
	payload      []byte
	edit         func(b []byte) // last change, before the checksum
	keepSumWrong bool
}

func (r raw4) bytes() []byte {
	if !r.src.IsValid() {
		r.src = con4
	}
	if !r.dst.IsValid() {
		r.dst = far4
	}
	if r.ttl == 0 {
		r.ttl = 64
	}
	for len(r.opts)%4 != 0 {
		r.opts = append(r.opts, 0)
	}
	hl := 20 + len(r.opts)
	b := make([]byte, hl, hl+len(r.payload))
	b[0], b[1], b[8], b[9] = 0x40|byte(hl/4), r.tos, r.ttl, r.proto
	b = append(b, r.payload...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[4:], r.id)
	word := uint16(r.off / 8)
	if r.df {
		word |= 0x4000
	}
	if r.more {
		word |= 0x2000
	}
	binary.BigEndian.PutUint16(b[6:], word)
	copy(b[12:], r.src.AsSlice())
	copy(b[16:], r.dst.AsSlice())
	copy(b[20:], r.opts)
	if r.edit != nil {
		r.edit(b)
	}
	if hl := int(b[0]&15) * 4; hl >= 20 && hl <= len(b) {
		binary.BigEndian.PutUint16(b[10:], ^slowSum(b[:hl]))
	}
	if r.keepSumWrong {
		b[10] ^= 0x55
	}
	return b
}

// raw6 is an IPv6 packet: next header, and everything behind the fixed header.
func raw6(next uint8, rest ...[]byte) []byte {
	b := make([]byte, 40)
	b[0], b[6], b[7] = 0x60, next, 64
	copy(b[8:], con6.AsSlice())
	copy(b[24:], far6.AsSlice())
	for _, r := range rest {
		b = append(b, r...)
	}
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	return b
}

// ext6 is an options header of 8 bytes multiples around the given options, padded.
func ext6(next uint8, opts ...byte) []byte {
	b := append([]byte{next, 0}, opts...)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	b[1] = byte(len(b)/8 - 1)
	return b
}

// frag6 is a fragment header.
func frag6(next uint8, off int, more bool, id uint32) []byte {
	b := make([]byte, 8)
	b[0] = next
	word := uint16(off)
	if more {
		word |= 1
	}
	binary.BigEndian.PutUint16(b[2:], word)
	binary.BigEndian.PutUint32(b[4:], id)
	return b
}

// udpBytes is a UDP datagram with a right checksum.
func udpBytes(src, dst netip.AddrPort, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[6:], nonzero(^slowTransportSum(src.Addr(), dst.Addr(), UDP, b)))
	return b
}

// tcpBytes is a TCP segment with a right checksum.
func tcpBytes(src, dst netip.AddrPort, payload []byte) []byte {
	b := make([]byte, 20, 20+len(payload))
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	b[12], b[13] = 5<<4, 0x10
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[16:], ^slowTransportSum(src.Addr(), dst.Addr(), TCP, b))
	return b
}

func ap(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

func frame(t l2.EtherType, l3 ...[]byte) *l2.Frame {
	return &l2.Frame{Header: l2.MakeHeader(gwMAC, conMAC, t), L3: l3}
}

// frameFor guesses the EtherType from the version.
func frameFor(b []byte) *l2.Frame {
	if len(b) > 0 && b[0]>>4 == 6 {
		return frame(l2.TypeIPv6, b)
	}
	return frame(l2.TypeIPv4, b)
}

func mustParse(t testing.TB, b []byte) *Packet {
	t.Helper()
	p := new(Packet)
	if r := Parse(p, frameFor(b)); r != drop.None {
		t.Fatalf("parse % x: %v", b[:min(len(b), 64)], r)
	}
	return p
}

// pattern is n bytes that are not like each other.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8*13 + 1)
	}
	return b
}
