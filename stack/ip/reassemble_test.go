package ip

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

var t0 = time.Unix(1000, 0)

// piece is a fragment of a datagram, with the bytes the datagram has there unless it says otherwise.
type piece struct {
	from, to int
	last     bool
	data     []byte
}

// fragmentOf makes the fragment of datagram `whole` (transport bytes) in either family.
func fragmentOf(v6 bool, id uint32, whole []byte, c piece) []byte {
	data := c.data
	if data == nil {
		data = whole[c.from:c.to]
	}
	if v6 {
		return raw6(nextFragment, frag6(UDP, c.from, !c.last, id), data)
	}
	return raw4{proto: UDP, id: uint16(id), off: c.from, more: !c.last, payload: data}.bytes()
}

// TestReassembly is NAT-17.
func TestReassembly(t *testing.T) {
	one, two, three := piece{0, 16, false, nil}, piece{16, 32, false, nil}, piece{32, 45, true, nil}
	other := func(c piece) piece { c.data = bytes.Repeat([]byte{0xee}, c.to-c.from); return c }
	rows := []struct {
		name   string
		pieces []piece
		whole  int // index of the piece that completes the datagram, -1 for none
		drops  int // pieces refused
	}{
		{"123", []piece{one, two, three}, 2, 0},
		{"132", []piece{one, three, two}, 2, 0},
		{"213", []piece{two, one, three}, 2, 0},
		{"231", []piece{two, three, one}, 2, 0},
		{"312", []piece{three, one, two}, 2, 0},
		{"321", []piece{three, two, one}, 2, 0},
		{"one missing", []piece{one, three}, -1, 0},
		{"repeated", []piece{one, two, two, one, three}, 4, 0},
		{"last repeated", []piece{three, three, two, one}, 3, 0},
		{"repeated with other bytes", []piece{one, two, other(two), three}, -1, 2},
		{"repeated as the last", []piece{one, two, {16, 32, true, nil}, three}, -1, 2},
		{"last repeated as not the last", []piece{three, {32, 40, false, nil}, two, one}, -1, 3},
		{"subset", []piece{one, two, {16, 24, false, nil}, three}, -1, 2},
		{"subset at the end", []piece{one, two, {24, 32, false, nil}, three}, -1, 2},
		{"superset", []piece{one, two, {16, 40, false, nil}, three}, -1, 2},
		{"overlap before", []piece{one, two, {8, 24, false, nil}, three}, -1, 2},
		{"overlap behind", []piece{two, {8, 24, false, nil}, one, three}, -1, 3},
		{"overlap by the last", []piece{one, two, {24, 45, true, nil}, three}, -1, 2},
		{"overlap of everything", []piece{two, {0, 40, false, nil}, three}, -1, 2},
		{"late pieces of a condemned datagram", []piece{one, other(one), two, three, one, two, three}, -1, 6},
		{"two ends, longer", []piece{three, {32, 40, true, nil}, one, two}, -1, 3},
		{"two ends, shorter", []piece{{32, 40, true, nil}, three, one, two}, -1, 3},
		{"piece behind the end", []piece{three, {48, 56, false, nil}, one, two}, -1, 3},
		{"end before a piece", []piece{{48, 56, false, nil}, three, one, two}, -1, 3},
	}
	whole := udpBytes(ap(con4, 5), ap(far4, 6), pattern(60))
	for _, v6 := range []bool{false, true} {
		for _, row := range rows {
			t.Run(fmt.Sprintf("v6=%v/%s", v6, row.name), func(t *testing.T) {
				r := NewReassembler(0, 0, 0)
				drops, at := 0, -1
				for i, c := range row.pieces {
					got, why := r.Add(t0, mustParse(t, fragmentOf(v6, 9, whole, c)))
					if why != drop.None {
						drops++
					}
					if got != nil {
						at = i
						if !bytes.Equal(got.Payload(), whole[:45]) || got.IsFragment() {
							t.Errorf("datagram differs: % x", got.Payload())
						}
					}
				}
				if at != row.whole || drops != row.drops {
					t.Errorf("whole at %d with %d drops, want %d with %d", at, drops, row.whole, row.drops)
				}
				if n, b := r.Pending(); row.whole >= 0 && (n != 0 || b != 0) {
					t.Errorf("%d datagrams, %d bytes stay behind", n, b)
				}
			})
		}
	}
}

func TestReassembledHeader4(t *testing.T) {
	whole := udpBytes(ap(con4, 5), ap(far4, 6), pattern(92))
	r := NewReassembler(0, 0, 0)
	late := raw4{proto: UDP, id: 3, ttl: 9, tos: 1, off: 64, payload: whole[64:]}.bytes()
	first := raw4{proto: UDP, id: 3, ttl: 44, tos: 0xb8, df: true, more: true, opts: []byte{148, 4, 0, 0}, payload: whole[:64]}.bytes()
	r.Add(t0, mustParse(t, late))
	got, why := r.Add(t0, mustParse(t, first))
	if got == nil {
		t.Fatal(why)
	}
	if got.TTL != 44 || got.TOS != 0xb8 || !got.DF || got.HdrLen != 24 || got.MAC != conMAC {
		t.Errorf("not the first fragment's header: %+v", got)
	}
	if !got.VerifyTransport() {
		t.Error("checksum of the whole is wrong")
	}
	if data, ok := got.UDPPayload(); !ok || !bytes.Equal(data, pattern(92)) {
		t.Errorf("payload %d bytes, %v", len(data), ok)
	}
	again := mustParse(t, got.Data) // lengths and header checksum hold
	if again.IsFragment() {
		t.Error("still a fragment")
	}
	alias := *got
	r.Release(&alias) // only what Add returned gives memory back, once
	if alias.block == nil || got.block == nil {
		t.Error("a copy gave back the memory of the original")
	}
	r.Release(got)
	r.Release(got)
	p := mustParse(t, raw4{payload: whole}.bytes())
	if q, why := r.Add(t0, p); q != p || why != drop.None {
		t.Errorf("a whole packet is passed on as it is; got %p %v", q, why)
	}
	r.Release(p)
}

func TestReassembledHeader6(t *testing.T) {
	udp := udpBytes(ap(con6, 5), ap(far6, 6), pattern(96))
	body := append(ext6(UDP), udp...) // destination options travel inside the fragments
	r := NewReassembler(0, 0, 0)
	r.Add(t0, mustParse(t, raw6(nextFragment, frag6(99, 64, false, 3), body[64:]))) // the last one's next header is not looked at
	got, why := r.Add(t0, mustParse(t, raw6(0, ext6(nextFragment, 5, 2, 0, 0), frag6(nextDestOpts, 0, true, 3), body[:64])))
	if got == nil {
		t.Fatal(why)
	}
	want := raw6(0, ext6(nextDestOpts, 5, 2, 0, 0), body)
	if !bytes.Equal(got.Data, want) {
		t.Errorf("got  % x\nwant % x", got.Data, want)
	}
	if got.Proto != UDP || got.HdrLen != 56 || got.DF || !got.VerifyTransport() {
		t.Errorf("%+v", got)
	}
	// What is put together is judged like what came in one piece.
	bad := append(ext6(UDP, 0xde, 0), udp...)
	r.Add(t0, mustParse(t, raw6(nextFragment, frag6(nextDestOpts, 64, false, 4), bad[64:])))
	p := new(Packet)
	if why := Parse(p, frame(l2.TypeIPv6, raw6(nextFragment, frag6(nextDestOpts, 0, true, 4), bad[:64]))); why != drop.IPOptions {
		t.Errorf("first fragment with a refused option: %v", why)
	}
}

func TestReassembledTooLong(t *testing.T) {
	// 65 500 bytes fit behind the last fragment's header of 20 bytes, but not behind the first's of 60.
	r := NewReassembler(0, 0, 0)
	data := pattern(65500)
	r.Add(t0, mustParse(t, raw4{id: 1, off: 32768, payload: data[32768:]}.bytes()))
	got, why := r.Add(t0, mustParse(t, raw4{id: 1, more: true, opts: bytes.Repeat([]byte{1}, 40), payload: data[:32768]}.bytes()))
	if got != nil || why != drop.IPFragment {
		t.Errorf("got %v, %v", got != nil, why)
	}
	if n, b := r.Pending(); n != 0 || b != 0 {
		t.Errorf("%d datagrams, %d bytes stay behind", n, b)
	}
	// Headers before the fragment header that do not fit the room for them.
	first := raw6(60, ext6(nextFragment, append([]byte{1, 100}, make([]byte, 100)...)...), frag6(UDP, 0, true, 1), data[:64])
	if _, why := r.Add(t0, mustParse(t, first)); why != drop.IPFragment {
		t.Errorf("long unfragmentable part: %v", why)
	}
}

func TestReassemblyTimeouts(t *testing.T) {
	whole := pattern(64)
	for _, c := range []struct {
		v6   bool
		wait time.Duration
	}{{false, 30 * time.Second}, {true, 60 * time.Second}} {
		var drops drop.Counters
		r := NewReassembler(0, 0, 0)
		r.Drops = &drops
		first := mustParse(t, fragmentOf(c.v6, 1, whole, piece{0, 32, false, nil}))
		last := mustParse(t, fragmentOf(c.v6, 1, whole, piece{32, 64, true, nil}))
		r.Add(t0, first)
		if got, _ := r.Add(t0.Add(c.wait-1), last); got == nil {
			t.Errorf("v6 %v: gone before %v", c.v6, c.wait)
		}
		r.Add(t0, first)
		if got, _ := r.Add(t0.Add(c.wait), last); got != nil {
			t.Errorf("v6 %v: still there after %v", c.v6, c.wait)
		}
		r.Expire(t0.Add(2 * c.wait))
		if n, b := r.Pending(); n != 0 || b != 0 || len(r.sources) != 0 {
			t.Errorf("%d datagrams, %d bytes, %d sources after everything expired", n, b, len(r.sources))
		}
		if got := drops.Get(drop.IPFragment); got != 2 {
			t.Errorf("v6 %v: %d fragments counted as lost, want 2", c.v6, got)
		}
	}
}

// TestFragmentFlood is NAT-18: a flooder pays alone, and never holds more than its quota.
func TestFragmentFlood(t *testing.T) {
	const quota, datagrams = ReassemblyBytes, ReassemblyDatagrams
	r := NewReassembler(quota, datagrams, 0)
	flooder, victim := l2.MAC{2, 0xf}, l2.MAC{2, 0xe}
	whole := pattern(8000)
	random := rand.New(rand.NewPCG(5, 6))
	lost := 0
	for round := range 300 {
		flood := func() {
			for range 60 {
				off := 0
				if random.IntN(4) == 0 {
					off = random.IntN(8000) * 8
				}
				p := mustParse(t, raw4{id: uint16(random.Uint32()), off: off, more: true, payload: whole[:8+8*random.IntN(100)]}.bytes())
				p.MAC = flooder
				r.Add(t0, p)
				if n, b := len(r.sources[flooder].datagrams), r.sources[flooder].bytes; n > datagrams || b > quota {
					t.Fatalf("flooder holds %d datagrams, %d bytes", n, b)
				}
			}
		}
		var got *Packet
		for at := 0; at < 8000; at += 1480 {
			end := min(at+1480, 8000)
			p := mustParse(t, fragmentOf(false, uint32(round), whole, piece{at, end, end == 8000, nil}))
			p.MAC = victim
			got, _ = r.Add(t0, p)
			flood()
		}
		if got == nil || !bytes.Equal(got.Payload(), whole) {
			lost++
			continue
		}
		r.Release(got)
	}
	if lost != 0 {
		t.Errorf("%d of 300 datagrams of the other container were lost", lost)
	}
}

func TestQuotaOfSmallFragments(t *testing.T) {
	r := NewReassembler(64<<10, 64, 0)
	whole := pattern(8000)
	for id := range uint32(64) {
		for at := 0; at < 8000; at += 8 {
			r.Add(t0, mustParse(t, fragmentOf(false, id, whole, piece{at, at + 8, false, nil})))
		}
		held := 0
		for _, d := range r.sources[conMAC].datagrams {
			held += cap(d.spans)*spanSize + len(d.block.data)
		}
		if held > 64<<10+64*fewSpans*spanSize {
			t.Fatalf("holds %d bytes", held)
		}
	}
}

func TestQuotaBelowOneDatagram(t *testing.T) {
	r := NewReassembler(20<<10, 64, 0)
	whole := pattern(30000)
	small := mustParse(t, fragmentOf(false, 1, whole, piece{0, 32, false, nil}))
	large := mustParse(t, fragmentOf(false, 2, whole, piece{24000, 25480, false, nil}))
	r.Add(t0, small)
	if _, why := r.Add(t0, large); why != drop.IPFragment {
		t.Errorf("got %v, want %v", why, drop.IPFragment)
	}
	if _, bytes := r.Pending(); bytes > 20<<10 {
		t.Errorf("%d bytes are held", bytes)
	}
}

// TestConcurrentSources is for the race detector: every container has its own reader.
func TestConcurrentSources(t *testing.T) {
	r := NewReassembler(0, 0, 0)
	whole := pattern(4000)
	var wg sync.WaitGroup
	for c := range byte(4) {
		wg.Go(func() {
			for id := range uint32(200) {
				for _, f := range []piece{{0, 1480, false, nil}, {1480, 2960, false, nil}, {2960, 4000, true, nil}} {
					p := new(Packet)
					if why := Parse(p, frameFor(fragmentOf(c%2 == 0, id, whole, f))); why != drop.None {
						t.Error(why)
					}
					p.MAC = l2.MAC{2, c}
					if got, _ := r.Add(t0, p); got != nil {
						if !bytes.Equal(got.Payload(), whole) {
							t.Error("datagram differs")
						}
						r.Release(got)
					} else if f.last {
						t.Error("not complete")
					}
				}
				r.Expire(t0)
			}
		})
	}
	wg.Wait()
}

func TestFloodOfSources(t *testing.T) {
	r := NewReassembler(0, 0, 0)
	whole := pattern(64)
	for i := range 5000 {
		for _, c := range []piece{{0, 32, false, nil}, {32, 64, true, nil}} {
			p := mustParse(t, fragmentOf(false, 1, whole, c))
			p.MAC = l2.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}
			if got, _ := r.Add(t0, p); got != nil {
				r.Release(got)
			}
		}
	}
	if n := len(r.sources); n > idleSources {
		t.Errorf("%d idle sources are kept", n)
	}
}
