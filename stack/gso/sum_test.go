package gso

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// slowSum is RFC 1071 as it is written: 16-bit words, carries added back.
func slowSum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

func TestSumLikeSlow(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		b := make([]byte, rnd.IntN(300))
		for i := range b {
			b[i] = byte(rnd.Uint32())
			if rnd.IntN(2) == 0 {
				b[i] = 0xff // carries
			}
		}
		var s Sum
		for rest := b; len(rest) > 0; {
			n := 1 + rnd.IntN(len(rest))
			s.Add(rest[:n])
			rest = rest[n:]
		}
		if got, want := s.Fold(), slowSum(b); got != want {
			t.Fatalf("Fold = %#04x, want %#04x for %x", got, want, b)
		}
	}
}

func TestNonZero(t *testing.T) {
	var s Sum
	s.Add([]byte{0xff, 0xff})
	if s.Checksum() != 0 || s.NonZero() != 0xffff {
		t.Errorf("Checksum = %#x, NonZero = %#x", s.Checksum(), s.NonZero())
	}
}

// On a 2-core virtual machine: 1500 bytes 63 ns, 64 KiB 2.9 µs (22 GB/s).
func BenchmarkSum(b *testing.B) {
	for _, n := range []int{1500, 65536} {
		b.Run(map[int]string{1500: "1500", 65536: "64KiB"}[n], func(b *testing.B) {
			p := make([]byte, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				var s Sum
				s.Add(p)
				if s.Fold() != 0 {
					b.Fatal("sum of zeros")
				}
			}
		})
	}
}
