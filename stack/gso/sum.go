package gso

import (
	"math/bits"

	"github.com/usernet/usernet/stack/ip"
)

// Sum is an Internet checksum under way (RFC 1071): bytes are added in slices of any length, as if
// they lay in one piece. The zero value is the sum of nothing.
type Sum struct {
	sum uint16
	odd bool // an odd number of bytes so far
}

// Add adds b.
func (s *Sum) Add(b []byte) {
	v := ip.Sum(b)
	if s.odd {
		// The slice begins in the middle of a 16-bit word: its bytes stand swapped (RFC 1071 §2 B).
		v = bits.ReverseBytes16(v)
	}
	s.sum = ip.AddSum(s.sum, v)
	s.odd = s.odd != (len(b)&1 == 1)
}

// Add16 adds the 16-bit number v, at an even place.
func (s *Sum) Add16(v uint16) { s.sum = ip.AddSum(s.sum, v) }

// Fold is the sum in 16 bits, not complemented.
func (s *Sum) Fold() uint16 { return s.sum }

// Checksum is the complement of the sum, as IP and ICMP headers carry it.
func (s *Sum) Checksum() uint16 { return ^s.sum }

// NonZero is Checksum with 0xffff for 0: the same number in one's complement, which UDP needs since
// its 0 says that there is no checksum (RFC 768), and which TCP and ICMPv6 do not mind.
func (s *Sum) NonZero() uint16 {
	if c := s.Checksum(); c != 0 {
		return c
	}
	return 0xffff
}
