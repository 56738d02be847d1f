package nat

import (
	"bytes"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/usernet/usernet/internal/sys"
)

// split is a train taken apart as the kernel does.
func split(data []byte, segment int) (out [][]byte) {
	for segment > 0 && len(data) > segment {
		out = append(out, data[:segment])
		data = data[segment:]
	}
	return append(out, data)
}

// Whatever is joined on the way out comes apart as it went in, and is a train the kernel takes.
func TestSendBufJoins(t *testing.T) {
	b := newSendBuf() // reused, as the pool does
	rapid.Check(t, func(t *rapid.T) {
		b.used, b.n = 0, 0
		type sent struct {
			to   netip.AddrPort
			ttl  uint8
			data []byte
		}
		var want, have []sent
		gsoMax := rapid.SampledFrom([]int{0, 7, noGSOMax}).Draw(t, "gsoMax")
		for i := range rapid.IntRange(1, 300).Draw(t, "datagrams") {
			m := outMsg{
				to:   netip.AddrPortFrom(loopback4, rapid.Uint16Range(1, 2).Draw(t, "port")),
				ttl:  rapid.SampledFrom([]uint8{0, 0, 0, 9}).Draw(t, "ttl"),
				data: bytes.Repeat([]byte{byte(i)}, rapid.SampledFrom([]int{0, 1, 5, 5, 5, 8, 1400, 1400, sendCopy, sendCopy + 1}).Draw(t, "size")),
			}
			if !b.room(len(m.data)) {
				t.Fatal("no room, and add did not say so")
			}
			want = append(want, sent{m.to, m.ttl, m.data})
			if b.add(m, gsoMax) {
				break // it is sent now
			}
		}
		for i := range b.n {
			m := &b.msgs[i]
			parts := split(m.data, m.segment)
			if m.segment > gsoMax || len(parts) > trainMax || len(m.data) > 65507 || len(parts) != m.datagrams() {
				t.Fatalf("train of %d bytes by %d, at most %d", len(m.data), m.segment, gsoMax)
			}
			for _, d := range parts {
				have = append(have, sent{m.to, m.ttl, d})
			}
		}
		if len(have) != len(want) {
			t.Fatalf("%d datagrams, want %d", len(have), len(want))
		}
		for i := range want {
			if have[i].to != want[i].to || have[i].ttl != want[i].ttl || !bytes.Equal(have[i].data, want[i].data) {
				t.Fatalf("datagram %d: %+v, want %+v", i, have[i], want[i])
			}
		}
	})
}

// The same on the way in, from messages the kernel has joined or not.
func TestReceivedTrainsJoin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type received struct {
			from netip.AddrPort
			tos  uint8
			data []byte
		}
		var want, have []received
		var tr train
		end := func() {
			if tr.segment > 0 {
				for _, d := range split(tr.data, tr.segment) {
					have = append(have, received{tr.from, tr.tos, d})
				}
			}
		}
		for i := range rapid.IntRange(1, 60).Draw(t, "messages") {
			m := sys.Received{
				From: netip.AddrPortFrom(loopback4, rapid.Uint16Range(1, 2).Draw(t, "port")),
				TOS:  rapid.SampledFrom([]uint8{0, 0, 0, 1}).Draw(t, "tos"),
			}
			size := rapid.SampledFrom([]int{1, 5, 5, 8, 40, 1400}).Draw(t, "size")
			m.Data = make([]byte, size, 65535)
			if rapid.Bool().Draw(t, "joined") {
				m.Segment = rapid.SampledFrom([]int{1, 5, 8, 1400}).Draw(t, "segment")
			}
			for j := range m.Data {
				m.Data[j] = byte(i)
			}
			for _, d := range split(m.Data, m.Segment) {
				want = append(want, received{m.From, m.TOS, bytes.Clone(d)})
			}
			if tr.segment > 0 && tr.join(&m) {
				continue
			}
			end()
			if tr = (train{from: m.From, tos: m.TOS, segment: m.Segment, data: m.Data}); tr.segment == 0 {
				tr.segment = size
			}
		}
		end()
		if len(have) != len(want) {
			t.Fatalf("%d datagrams, want %d", len(have), len(want))
		}
		for i := range want {
			if have[i].from != want[i].from || have[i].tos != want[i].tos || !bytes.Equal(have[i].data, want[i].data) {
				t.Fatalf("datagram %d: %+v, want %+v", i, have[i], want[i])
			}
		}
	})
}
