package ip

import (
	"math/rand/v2"
	"net/netip"
	"strconv"
	"testing"

	"github.com/usernet/usernet/stack/l2"
)

// slowSum is the checksum as RFC 1071 §1 tells it: 16-bit words, one at a time.
func slowSum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		s += w
		if s > 0xffff {
			s = s - 0x10000 + 1
		}
	}
	return uint16(s)
}

// slowTransportSum sums a transport with its pseudo header, written out in memory.
func slowTransportSum(src, dst netip.Addr, proto uint8, t []byte) uint16 {
	var b []byte
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	if src.Is4() {
		b = append(b, 0, proto, byte(len(t)>>8), byte(len(t)))
	} else {
		b = append(b, 0, byte(len(t)>>16), byte(len(t)>>8), byte(len(t)), 0, 0, 0, proto)
	}
	return slowSum(append(b, t...))
}

// same compares sums: 0 and 0xffff are both zero in one's complement.
func same(a, b uint16) bool { return a == b || a == 0 && b == 0xffff || a == 0xffff && b == 0 }

func TestSumRFC1071Example(t *testing.T) {
	b := []byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}
	if got := Sum(b); got != 0xddf2 {
		t.Errorf("sum %#04x, want 0xddf2 (RFC 1071 §3)", got)
	}
}

func TestSumAgainstTwin(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	mem := make([]byte, 70000)
	for i := range mem {
		mem[i] = byte(r.Uint32())
	}
	check := func(b []byte) {
		t.Helper()
		if got, want := Sum(b), slowSum(b); got != want {
			t.Fatalf("sum of %d bytes: %#04x, want %#04x", len(b), got, want)
		}
	}
	for n := range 300 {
		for at := range 9 {
			check(mem[at : at+n])
		}
	}
	for range 300 {
		at := r.IntN(len(mem))
		check(mem[at : at+r.IntN(len(mem)-at)])
	}
	ones := make([]byte, 70000)
	for i := range ones {
		ones[i] = 0xff
	}
	for n := range 200 { // every carry there can be
		check(ones[:n])
	}
	check(ones)
	check(make([]byte, 1000))
}

func TestSumSlicesIsSumOfTheWhole(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 5000 {
		whole := pattern(r.IntN(400))
		var l3 [][]byte
		for rest := whole; ; {
			n := r.IntN(len(rest) + 1)
			l3 = append(l3, rest[:n])
			if rest = rest[n:]; len(rest) == 0 {
				break
			}
		}
		from := r.IntN(len(whole) + 1)
		if got, want := SumSlices(l3, from), slowSum(whole[from:]); !same(got, want) {
			t.Fatalf("%d slices from %d of %d: %#04x, want %#04x", len(l3), from, len(whole), got, want)
		}
	}
}

func TestPseudoSum(t *testing.T) {
	for _, c := range []struct {
		src, dst netip.Addr
	}{{con4, far4}, {con6, far6}} {
		for _, n := range []int{0, 1, 8, 1480, 65535} {
			data := pattern(n)
			got := AddSum(PseudoSum(c.src, c.dst, UDP, n), Sum(data))
			if want := slowTransportSum(c.src, c.dst, UDP, data); !same(got, want) {
				t.Errorf("%v, %d bytes: %#04x, want %#04x", c.src, n, got, want)
			}
		}
	}
}

func TestCompleteSum(t *testing.T) {
	src, dst := ap(con6, 1000), ap(far6, 53)
	payload := pattern(333)
	b := make([]byte, UDPHeadersLen(src.Addr()))
	PutUDPHeaders(b, src, dst, len(payload), UDPOpts{Partial: true})
	v := UDPVNet(src.Addr(), 0)
	sum, at, ok := CompleteSum(v, [][]byte{b, payload[:101], nil, payload[101:]})
	if !ok || at != HeaderLen6+6 {
		t.Fatalf("at %d, ok %v", at, ok)
	}
	b[at], b[at+1] = byte(sum>>8), byte(sum)
	if p := mustParse(t, append(b, payload...)); !p.VerifyTransport() {
		t.Error("completed checksum does not verify")
	}
	for _, bad := range []l2.VNet{{CsumStart: 0}, {CsumStart: 13}, {CsumStart: 60000}, {CsumStart: 54, CsumOffset: 65535}} {
		bad.Flags = l2.VNetNeedsCsum
		if _, _, ok := CompleteSum(bad, [][]byte{b, payload}); ok {
			t.Errorf("%+v: outside the packet and not refused", bad)
		}
	}
}

func BenchmarkSum(b *testing.B) {
	for _, n := range []int{20, 64, 1480, 65000} {
		mem := pattern(n)
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				Sum(mem)
			}
		})
	}
}
