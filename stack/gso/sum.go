package gso

import (
	"encoding/binary"
	"math/bits"
)

// Sum is an Internet checksum under way (RFC 1071): bytes are added in slices of any length, as if
// they lay in one piece. The zero value is the sum of nothing.
type Sum struct {
	acc uint64 // one's complement sum in the machine's byte order
	odd bool   // an odd number of bytes so far
}

// Add adds b.
//
// The one's complement sum does not depend on the byte order it is computed in (RFC 1071 §2 B), so
// this adds native 64-bit words with end-around carry and swaps once at the end.
func (s *Sum) Add(b []byte) {
	if len(b) == 0 {
		return
	}
	n := len(b)
	var a, c uint64
	for len(b) >= 64 {
		_ = b[63]
		a, c = bits.Add64(a, binary.NativeEndian.Uint64(b[0:]), c)
		a, c = bits.Add64(a, binary.NativeEndian.Uint64(b[8:]), c)
		a, c = bits.Add64(a, binary.NativeEndian.Uint64(b[16:]), c)
		a, c = bits.Add64(a, binary.NativeEndian.Uint64(b[24:]), c)
		a, c = bits.Add64(a, binary.NativeEndian.Uint64(b[32:]), c)
		a, c = bits.Add64(a, binary.NativeEndian.Uint64(b[40:]), c)
		a, c = bits.Add64(a, binary.NativeEndian.Uint64(b[48:]), c)
		a, c = bits.Add64(a, binary.NativeEndian.Uint64(b[56:]), c)
		b = b[64:]
	}
	for len(b) >= 8 {
		a, c = bits.Add64(a, binary.NativeEndian.Uint64(b), c)
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte
		copy(last[:], b)
		a, c = bits.Add64(a, binary.NativeEndian.Uint64(last[:]), c)
	}
	a, c = bits.Add64(a, 0, c)
	a += c
	if s.odd {
		// The slice begins in the middle of a 16-bit word: its bytes stand swapped (RFC 1071 §2 B).
		a = bits.RotateLeft64(a, 8)
	}
	s.acc, c = bits.Add64(s.acc, a, 0)
	s.acc, c = bits.Add64(s.acc, 0, c)
	s.acc += c
	s.odd = s.odd != (n&1 == 1)
}

// Add16 adds the 16-bit number v, at an even place.
func (s *Sum) Add16(v uint16) {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	s.Add(b[:])
}

// Fold is the sum in 16 bits, not complemented.
func (s *Sum) Fold() uint16 {
	a := s.acc
	a = a&0xffffffff + a>>32
	a = a&0xffff + a>>16&0xffff + a>>32
	a = a&0xffff + a>>16
	a = a&0xffff + a>>16
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], uint16(a))
	return binary.BigEndian.Uint16(b[:])
}

// Checksum is the complement of the sum, as IP and ICMP headers carry it.
func (s *Sum) Checksum() uint16 { return ^s.Fold() }

// NonZero is Checksum with 0xffff for 0: the same number in one's complement, which UDP needs since
// its 0 says that there is no checksum (RFC 768), and which TCP and ICMPv6 do not mind.
func (s *Sum) NonZero() uint16 {
	if c := s.Checksum(); c != 0 {
		return c
	}
	return 0xffff
}
