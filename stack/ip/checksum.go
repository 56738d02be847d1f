package ip

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"github.com/usernet/usernet/stack/l2"
)

// Theory of operation: the Internet checksum (RFC 1071).
//
// The checksum is the complement of a sum of 16-bit words in one's complement arithmetic, where a
// carry out of the top comes back in at the bottom. Three properties make it fast:
//
//   - A 64-bit sum with end-around carry, folded at the end, is the same sum: eight bytes an
//     addition, and bits.Add64 becomes an add-with-carry instruction.
//   - Swapping the bytes of every word swaps the bytes of the sum. So words are loaded in the order
//     the machine likes and the result is swapped once.
//   - It is associative. The pseudo header, and slices of one packet, are summed apart and added;
//     a slice that starts at an odd offset contributes its sum with bytes swapped.
//
// A sum is a uint16 in the machine's numbers (big-endian on the wire), not complemented. 0 and
// 0xffff are both zero; Sum returns 0 for all-zero data only, and data that includes its own right
// checksum sums to 0xffff.

// Sum returns the one's complement sum of b, an odd last byte padded with zero.
func Sum(b []byte) uint16 {
	var s, c uint64
	for len(b) >= 64 {
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[8:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[16:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[24:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[32:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[40:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[48:]), c)
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b[56:]), c)
		b = b[64:]
	}
	for len(b) >= 8 {
		s, c = bits.Add64(s, binary.LittleEndian.Uint64(b), c)
		b = b[8:]
	}
	// What is left sums to less than 2^33: if adding it overflows, the carry it gives back cannot.
	var tail uint64
	if len(b) >= 4 {
		tail = uint64(binary.LittleEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		tail += uint64(binary.LittleEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		tail += uint64(b[0])
	}
	s, c = bits.Add64(s, tail, c)
	s += c
	return bits.ReverseBytes16(fold(s))
}

// fold brings a 64-bit sum down to 16 bits with end-around carry.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s)
}

// AddSum adds two sums.
func AddSum(a, b uint16) uint16 {
	s := uint32(a) + uint32(b)
	return uint16(s>>16 + s)
}

// SumSlices returns the sum of the slices as if they were one, without the first `from` bytes.
func SumSlices(l3 [][]byte, from int) uint16 {
	var s uint16
	odd := false
	for _, b := range l3 {
		if from >= len(b) {
			from -= len(b)
			continue
		}
		b = b[from:]
		from = 0
		t := Sum(b)
		if odd {
			t = bits.ReverseBytes16(t)
		}
		s = AddSum(s, t)
		odd = odd != (len(b)&1 == 1)
	}
	return s
}

// PseudoSum returns the sum of the pseudo header of a transport of the given length in bytes
// (RFC 768, RFC 8200 §8.1). It is also what a partial checksum holds. Both addresses are of one
// family; a v4-mapped address counts as IPv6.
func PseudoSum(src, dst netip.Addr, proto uint8, length int) uint16 {
	s := AddSum(uint16(length), uint16(length>>16))
	s = AddSum(s, uint16(proto))
	if src.Is4() {
		a, b := src.As4(), dst.As4()
		return AddSum(s, AddSum(Sum(a[:]), Sum(b[:])))
	}
	a, b := src.As16(), dst.As16()
	return AddSum(s, AddSum(Sum(a[:]), Sum(b[:])))
}

// Checksum returns the field for data whose field is zero: the complement of its sum, with `more`
// (a pseudo header's sum, or 0) added first.
func Checksum(b []byte, more uint16) uint16 { return ^AddSum(Sum(b), more) }

// nonzero gives a UDP checksum that comes out as 0 its other spelling, since 0 says "none"
// (RFC 768). Linux does so for every partial checksum it completes (CSUM_MANGLED_0).
func nonzero(sum uint16) uint16 {
	if sum == 0 {
		return 0xffff
	}
	return sum
}

// CompleteSum works out a checksum that v leaves to the receiver (VNetNeedsCsum): the value, and
// the offset in the packet where it belongs. ok is false when v points outside the packet.
// The bytes are not changed.
func CompleteSum(v l2.VNet, l3 [][]byte) (sum uint16, at int, ok bool) {
	total := 0
	for _, b := range l3 {
		total += len(b)
	}
	start := int(v.CsumStart) - l2.HeaderLen
	at = start + int(v.CsumOffset)
	if start < 0 || at+2 > total {
		return 0, 0, false
	}
	return nonzero(^SumSlices(l3, start)), at, true
}
