package ip

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/usernet/usernet/stack/drop"
)

// slowReassembler is the twin: one byte at a time, no quotas, no time, one datagram a key.
type slowReassembler map[datagramKey]*slowDatagram

type slowDatagram struct {
	data  map[int]byte
	sizes map[int]int // start of each fragment and its length
	more  map[int]bool
	total int
	dead  bool
}

// add returns the datagram's payload when it is complete, and whether the fragment was refused.
func (s slowReassembler) add(key datagramKey, off int, more bool, data []byte) (whole []byte, refused bool) {
	d := s[key]
	if d == nil {
		d = &slowDatagram{data: map[int]byte{}, sizes: map[int]int{}, more: map[int]bool{}, total: -1}
		s[key] = d
	}
	if d.dead || !d.accepts(off, more, data) {
		d.dead = true
		return nil, true
	}
	d.sizes[off], d.more[off] = len(data), more
	for i, b := range data {
		d.data[off+i] = b
	}
	if !more {
		d.total = off + len(data)
	}
	if len(d.data) != d.total {
		return nil, false
	}
	whole = make([]byte, d.total)
	for i := range whole {
		whole[i] = d.data[i]
	}
	delete(s, key)
	return whole, false
}

func (d *slowDatagram) accepts(off int, more bool, data []byte) bool {
	end := off + len(data)
	if d.total >= 0 && (end > d.total || !more && end != d.total) {
		return false
	}
	if n, ok := d.sizes[off]; ok {
		for i, b := range data {
			if old, ok := d.data[off+i]; !ok || old != b {
				return false
			}
		}
		if n != len(data) || d.more[off] != more {
			return false
		}
	} else {
		for i := range data {
			if _, ok := d.data[off+i]; ok {
				return false
			}
		}
	}
	if !more {
		for at := range d.data {
			if at >= end {
				return false
			}
		}
	}
	return true
}

// compare runs a script through the Reassembler and its twin. Each four bytes are one fragment:
// which datagram and family and whether it is the last, where, how long, what bytes.
func compare(t testing.TB, script []byte) (wholes int) {
	t.Helper()
	const quota, datagrams = 1 << 20, 32 // never reached: 16 datagrams of at most 4 KiB
	r, twin := NewReassembler(quota, datagrams, time.Hour), slowReassembler{}
	for ; len(script) >= 4; script = script[4:] {
		last, v6 := script[0]&0x80 != 0, script[0]&0x40 != 0
		id, off, n := uint32(script[0]&7), int(script[1])*8, int(script[2])
		if !last {
			n = n % 32 * 8
		}
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(off+i) ^ script[3]&1
		}
		p := new(Packet)
		if Parse(p, frameFor(fragmentOf(v6, id, nil, piece{off, off + n, last, data}))) != drop.None || !p.IsFragment() {
			continue
		}
		key := datagramKey{src: p.Src, dst: p.Dst, id: p.ID, proto: p.Proto}
		want, refused := twin.add(key, p.FragOff, p.More, p.Payload())
		got, why := r.Add(t0, p)
		if (why != drop.None) != refused || (got != nil) != (want != nil) {
			t.Fatalf("at %d+%d last %v: whole %v, %v; the twin: whole %v, refused %v", off, n, last, got != nil, why, want != nil, refused)
		}
		if got != nil {
			wholes++
			if !bytes.Equal(got.Payload(), want) {
				t.Fatal("other bytes than the twin's")
			}
			if mustParse(t, got.Data).IsFragment() {
				t.Fatal("the whole is a fragment")
			}
			r.Release(got)
		}
		if n, held := r.Pending(); n != len(twin) || held > quota {
			t.Fatalf("%d datagrams, %d bytes; the twin has %d", n, held, len(twin))
		}
	}
	return wholes
}

// TestReassembleAgainstTwin cuts datagrams at random and sends the fragments in random order, some
// twice, a few falsified.
func TestReassembleAgainstTwin(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 10))
	wholes := 0
	for range 400 {
		var fragments [][4]byte
		for id := range byte(8) {
			family, at := byte(random.IntN(2)*0x40), 0
			for units := 1 + random.IntN(40); at < units; {
				n := min(1+random.IntN(8), units-at)
				f := [4]byte{id | family, byte(at), byte(n), 0}
				if at+n == units {
					f[0], f[2] = f[0]|0x80, byte(n*8-random.IntN(8))
				}
				fragments = append(fragments, f)
				if random.IntN(20) == 0 {
					fragments = append(fragments, f)
				}
				if random.IntN(60) == 0 {
					f[random.IntN(3)+1] += byte(1 + random.IntN(3))
					fragments = append(fragments, f)
				}
				at += n
			}
		}
		random.Shuffle(len(fragments), func(i, j int) { fragments[i], fragments[j] = fragments[j], fragments[i] })
		var script []byte
		for _, f := range fragments {
			script = append(script, f[:]...)
		}
		wholes += compare(t, script)
	}
	if wholes < 1000 || wholes > 400*8 {
		t.Errorf("%d of 3200 datagrams came whole; the comparison does not cover what it should", wholes)
	}
}

// FuzzReassemble compares the Reassembler with its twin on any sequence of fragments.
func FuzzReassemble(f *testing.F) {
	f.Add([]byte{0, 0, 2, 0, 0, 2, 2, 0, 0x80, 4, 1, 0})
	f.Add([]byte{0x81, 4, 1, 0, 1, 2, 2, 0, 1, 0, 2, 0})
	f.Add([]byte{1, 0, 4, 0, 1, 1, 2, 0, 0x81, 4, 2, 0})
	f.Add([]byte{0x40, 0, 2, 0, 0x40, 0, 2, 1, 0xc0, 2, 2, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		compare(t, script[:min(len(script), 512)])
	})
}
