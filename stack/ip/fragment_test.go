package ip

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// fragments runs Fragment and returns copies of the pieces, each with its slices joined.
func fragments(t testing.TB, mtu int, v l2.VNet, l3 ...[]byte) [][]byte {
	t.Helper()
	var out [][]byte
	before := bytes.Clone(bytes.Join(l3, nil))
	err := Fragment(mtu, v, l3, func(v l2.VNet, l3 [][]byte) {
		b := bytes.Join(l3, nil)
		if len(b) > mtu {
			t.Errorf("piece of %d bytes on an MTU of %d", len(b), mtu)
		}
		if v != (l2.VNet{}) {
			t.Errorf("piece with VNet %+v", v)
		}
		p := mustParse(t, b)
		if p.FragOff == 0 && len(l3[0]) < p.HdrLen+UDPHeaderLen || len(l3[0]) < p.HdrLen {
			t.Errorf("first slice has %d bytes; the packet's headers are not whole in it", len(l3[0]))
		}
		out = append(out, b)
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, bytes.Join(l3, nil)) {
		t.Error("the packet was changed")
	}
	return out
}

// rejoin puts pieces together with the Reassembler and returns the whole.
func rejoin(t testing.TB, r *Reassembler, pieces [][]byte) *Packet {
	t.Helper()
	for i, b := range pieces {
		got, why := r.Add(t0, mustParse(t, b))
		if why != drop.None {
			t.Fatalf("piece %d of %d: %v", i, len(pieces), why)
		}
		if (got != nil) != (i == len(pieces)-1) {
			t.Fatalf("whole after piece %d of %d: %v", i, len(pieces), got != nil)
		}
		if got != nil {
			return got
		}
	}
	return nil
}

// TestFragmentRoundTrip sends random datagrams, cut into random slices, through Fragment and a Reassembler.
func TestFragmentRoundTrip(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	r := NewReassembler(0, 0, 0)
	for range 1500 {
		src, dst := ap(con4, 1000), ap(far4, 53)
		mtu := 68 + random.IntN(3000)
		if random.IntN(2) == 0 {
			src, dst = ap(con6, 1000), ap(far6, 53)
			mtu = 1280 + random.IntN(1000)
		}
		n := random.IntN(9000)
		if random.IntN(50) == 0 {
			n = 65507
		}
		payload := pattern(n)
		partial := random.IntN(2) == 0
		h := make([]byte, 64)
		h = h[:PutUDPHeaders(h, src, dst, n, UDPOpts{TTL: 33, TOS: 0x20, Partial: partial, Payload: payload})]
		var v l2.VNet
		if partial {
			v = UDPVNet(src.Addr(), 0)
		}
		in := random.IntN(min(n, 200) + 1) // payload in the first slice
		l3 := [][]byte{append(h, payload[:in]...)}
		for rest := payload[in:]; len(rest) > 0; {
			k := random.IntN(len(rest) + 1)
			l3 = append(l3, rest[:k])
			rest = rest[k:]
		}
		if len(h)+n <= mtu {
			continue
		}
		got := rejoin(t, r, fragments(t, mtu, v, l3...))
		data, ok := got.UDPPayload()
		if !ok || !bytes.Equal(data, payload) || !got.VerifyTransport() {
			t.Fatalf("%d bytes on MTU %d: got %d bytes, checksum %v", n, mtu, len(data), got.VerifyTransport())
		}
		if got.TTL != 33 || got.TOS != 0x20 || got.Src != src.Addr() || got.Dst != dst.Addr() {
			t.Fatalf("header changed: %+v", got)
		}
		r.Release(got)
	}
}

func TestFragmentPassesOn(t *testing.T) {
	small := raw4{payload: pattern(1480)}.bytes()
	big := raw4{payload: pattern(9000)}.bytes()
	partial := UDPVNet(con4, 0)
	for _, c := range []struct {
		v l2.VNet
		b []byte
	}{
		{l2.VNet{}, small}, {partial, small},
		{UDPVNet(con4, 1400), big},
		{l2.VNet{GSOType: l2.GSOTCPv4 | l2.GSOECN, GSOSize: 1400}, big},
	} {
		n := 0
		err := Fragment(1500, c.v, [][]byte{c.b}, func(v l2.VNet, l3 [][]byte) {
			n++
			if v != c.v || len(l3) != 1 || &l3[0][0] != &c.b[0] {
				t.Errorf("%+v: not passed on as it is", c.v)
			}
		})
		if n != 1 || err != nil {
			t.Errorf("%+v: emitted %d, %v", c.v, n, err)
		}
	}
}

func TestFragmentRefuses(t *testing.T) {
	rows := []struct {
		name string
		mtu  int
		v    l2.VNet
		b    []byte
		err  error
	}{
		{"DF", 1500, l2.VNet{}, raw4{df: true, payload: pattern(2000)}.bytes(), ErrDontFragment},
		{"MTU below the header", 27, l2.VNet{}, raw4{payload: pattern(2000)}.bytes(), nil},
		{"MTU 0", 0, l2.VNet{}, raw4{payload: pattern(2000)}.bytes(), nil},
		{"IPv6 MTU", 55, l2.VNet{}, raw6(UDP, pattern(2000)), nil},
		{"fragment header already", 1280, l2.VNet{}, raw6(nextFragment, frag6(UDP, 0, true, 1), pattern(2000)), nil},
		{"extension headers too long", 1280, l2.VNet{}, raw6(60, ext6(60, append([]byte{1, 252}, make([]byte, 252)...)...), ext6(UDP), pattern(2000)), nil},
		{"partial checksum outside", 1500, l2.VNet{Flags: 1, CsumStart: 3000}, raw4{payload: pattern(2000)}.bytes(), nil},
		{"partial checksum in the payload", 1500, l2.VNet{Flags: 1, CsumStart: 1000}, raw4{payload: pattern(2000)}.bytes(), nil},
		{"partial checksum in the IP header", 1500, l2.VNet{Flags: 1, CsumStart: 14, CsumOffset: 10}, raw4{payload: pattern(2000)}.bytes(), nil},
		{"header beyond the first slice", 25, l2.VNet{}, append([]byte{0x4f}, pattern(30)...), nil},
		{"IPv6 header beyond the first slice", 30, l2.VNet{}, append([]byte{0x60}, pattern(38)...), nil},
		{"version 5", 100, l2.VNet{}, append([]byte{0x55}, pattern(200)...), nil},
		{"no header", 1, l2.VNet{}, []byte{0x45, 0}, nil},
		{"malformed options", 100, l2.VNet{}, raw4{opts: []byte{68, 9, 0, 0}, payload: pattern(200)}.bytes(), nil},
		{"beyond 65535", 1500, l2.VNet{}, raw4{off: 65000, payload: pattern(2000)}.bytes(), nil},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			err := Fragment(row.mtu, row.v, [][]byte{row.b}, func(l2.VNet, [][]byte) { t.Error("something was emitted") })
			if err == nil || row.err != nil && !errors.Is(err, row.err) {
				t.Errorf("error %v, want %v", err, row.err)
			}
		})
	}
}

func TestFragmentOptionsAndNesting(t *testing.T) {
	// 148 (router alert) has the copy bit, 7 (record route) has not. Alignment is made up for.
	b := raw4{id: 9, proto: UDP, opts: []byte{1, 148, 3, 0, 7, 7, 4, 0, 0, 0, 0}, payload: pattern(3000)}.bytes()
	pieces := fragments(t, 1500, l2.VNet{}, b)
	for i, p := range pieces {
		want := []byte{148, 3, 0, 0}
		if i == 0 {
			want = b[20:32]
		}
		q := mustParse(t, p)
		if !bytes.Equal(q.Data[20:q.HdrLen], want) || q.ID != 9 {
			t.Errorf("piece %d: options % x, want % x; ID %d", i, q.Data[20:q.HdrLen], want, q.ID)
		}
	}
	var again [][]byte
	for _, p := range pieces { // a narrower link on the way
		again = append(again, fragments(t, 576, l2.VNet{}, p)...)
	}
	if len(again) <= len(pieces) {
		t.Fatalf("%d pieces out of %d", len(again), len(pieces))
	}
	if got := rejoin(t, NewReassembler(0, 0, 0), again); !bytes.Equal(got.Payload(), pattern(3000)) {
		t.Error("fragments of fragments do not give the datagram")
	}
}

func TestFragmentBehindExtensionHeaders(t *testing.T) {
	udp := udpBytes(ap(con6, 1), ap(far6, 2), pattern(3000))
	b := raw6(0, ext6(60, 5, 2, 0, 0), ext6(UDP), udp)
	pieces := fragments(t, 1280, l2.VNet{}, b)
	for _, p := range pieces {
		if p[6] != 0 || p[40] != nextFragment || p[48] != nextDestOpts {
			t.Errorf("chain %d, %d, %d; want hop-by-hop, fragment, destination options", p[6], p[40], p[48])
		}
	}
	got := rejoin(t, NewReassembler(0, 0, 0), pieces)
	if !bytes.Equal(got.Data, b) {
		t.Error("whole differs")
	}
}

func TestFragmentIDs(t *testing.T) {
	ids := map[uint32]int{}
	for range 64 {
		for _, b := range [][]byte{raw4{payload: pattern(2000)}.bytes(), raw6(UDP, pattern(2000))} {
			p := mustParse(t, fragments(t, 1280, l2.VNet{}, b)[1])
			if p.ID == 0 && !p.Is6() {
				t.Error("identification 0")
			}
			ids[p.ID]++
		}
	}
	if len(ids) < 120 {
		t.Errorf("%d different identifications in 128 packets", len(ids))
	}
}
