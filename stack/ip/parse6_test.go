package ip

import (
	"bytes"
	"testing"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

func TestParse6(t *testing.T) {
	u := udpBytes(ap(con6, 4000), ap(far6, 53), []byte("query"))
	b := raw6(nextHopByHop, ext6(nextDestOpts, 5, 2, 0, 0), ext6(UDP, 1, 8, 0, 0, 0, 0, 0, 0, 0, 0), u)
	b[0], b[1], b[7] = 0x6b, 0x8f, 3
	var p Packet
	if r := Parse(&p, frame(l2.TypeIPv6, append(bytes.Clone(b), 0, 0, 0))); r != drop.None {
		t.Fatal(r)
	}
	if p.Src != con6 || p.Dst != far6 || p.Proto != UDP || p.TTL != 3 || p.TOS != 0xb8 || !p.DF || p.HdrLen != 40+8+16 || !p.Is6() {
		t.Errorf("parsed %+v", p)
	}
	if !bytes.Equal(p.Data, b) || cap(p.Data) != len(b) {
		t.Errorf("data has %d bytes, want %d", len(p.Data), len(b))
	}
	if data, ok := p.UDPPayload(); !ok || string(data) != "query" || !p.VerifyTransport() {
		t.Errorf("payload %q %v, checksum %v", data, ok, p.VerifyTransport())
	}
}

func repeat(n int, b []byte) []byte { return bytes.Repeat(b, n) }

// TestChains6 is HC-22, with what the sender is to be told (code, pointer).
func TestChains6(t *testing.T) {
	udp := udpBytes(ap(con6, 1), ap(far6, 2), pattern(16))
	multicast := func(b []byte) []byte { b[24] = 0xff; b[25] = 2; return b }
	source := func(b []byte, a string) []byte { copy(b[8:], []byte(a)); return b }
	rh := func(next, kind, left byte) []byte { return []byte{next, 2, kind, left, 23: 0} }
	jumbo := ext6(UDP, 0xc2, 4, 0, 1, 0, 0)
	noLength := func(b []byte) []byte { b[4], b[5] = 0, 0; return b }
	longPad := append([]byte{1, 252}, make([]byte, 252)...)
	long := ext6(60, longPad...)
	no := Problem{}
	rows := []struct {
		name    string
		b       []byte
		want    drop.Reason
		problem Problem
	}{
		{"plain", raw6(UDP, udp), drop.None, no},
		{"no next header", raw6(nextNone), drop.None, no},
		{"unknown transport", raw6(253, udp), drop.None, no},
		{"cut fixed header", raw6(UDP, udp)[:39], drop.IPMalformed, no},
		{"payload length beyond the frame", raw6(UDP, udp)[:63], drop.IPMalformed, no},
		{"payload length 0", noLength(raw6(TCP, udp)), drop.IPMalformed, no},
		{"version 4", append([]byte{0x45}, raw6(UDP, udp)[1:]...), drop.IPMalformed, no},
		{"100 hop-by-hop", raw6(0, repeat(99, ext6(0)), ext6(UDP), udp), drop.IPMalformed, Problem{true, 1, 40}},
		{"two hop-by-hop", raw6(0, ext6(0), ext6(UDP), udp), drop.IPMalformed, Problem{true, 1, 40}},
		{"hop-by-hop behind destination", raw6(60, ext6(0), ext6(UDP), udp), drop.IPMalformed, Problem{true, 1, 40}},
		{"8 headers", raw6(60, repeat(7, ext6(60)), ext6(UDP), udp), drop.None, no},
		{"9 headers", raw6(60, repeat(8, ext6(60)), ext6(UDP), udp), drop.IPMalformed, no},
		{"1024 bytes of headers", raw6(60, repeat(3, long), ext6(UDP, longPad...), udp), drop.None, no},
		{"1032 bytes of headers", raw6(60, repeat(4, long), ext6(UDP), udp), drop.IPMalformed, no},
		{"2000 Pad1", raw6(60, ext6(UDP, make([]byte, 2000)...), udp), drop.IPOptions, no},
		{"chain cut", raw6(60, ext6(60), []byte{UDP, 0, 0}), drop.IPMalformed, no},
		{"header longer than the packet", raw6(60, []byte{UDP, 255, 1, 4, 0, 0, 0, 0}), drop.IPMalformed, no},
		{"option longer than its header", raw6(60, ext6(UDP, 1, 5, 0, 0, 0, 0), udp), drop.IPMalformed, no},
		{"option without a length", raw6(60, ext6(UDP, 1, 3, 0, 0, 0, 1), udp), drop.IPMalformed, no},
		{"RH0 with segments", raw6(nextRouting, rh(UDP, 0, 1), udp), drop.IPOptions, Problem{true, 0, 42}},
		{"RH0 without", raw6(nextRouting, rh(UDP, 0, 0), udp), drop.IPOptions, no},
		{"other routing header with segments", raw6(60, ext6(nextRouting), rh(UDP, 4, 1), udp), drop.IPOptions, Problem{true, 0, 50}},
		{"other routing header without", raw6(nextRouting, rh(UDP, 4, 0), udp), drop.None, no},
		{"routing header cut", raw6(60, ext6(nextRouting), rh(UDP, 4, 0)[:16]), drop.IPMalformed, no},
		{"jumbogram", noLength(raw6(0, jumbo, udp)), drop.IPMalformed, no},
		{"jumbo option", raw6(0, jumbo, udp), drop.IPOptions, Problem{true, 2, 42}},
		{"unknown option 00", raw6(60, ext6(UDP, 0x1e, 0), udp), drop.None, no},
		{"unknown option 01", raw6(60, ext6(UDP, 0x5e, 0), udp), drop.IPOptions, no},
		{"unknown option 10", raw6(60, ext6(UDP, 0, 0x9e, 0), udp), drop.IPOptions, Problem{true, 2, 43}},
		{"unknown option 10 to a group", multicast(raw6(60, ext6(UDP, 0x9e, 0), udp)), drop.IPOptions, Problem{true, 2, 42}},
		{"unknown option 11", raw6(60, ext6(UDP, 0xde, 0), udp), drop.IPOptions, Problem{true, 2, 42}},
		{"unknown option 11 to a group", multicast(raw6(60, ext6(UDP, 0xde, 0), udp)), drop.IPOptions, no},
		{"atomic fragment", raw6(nextFragment, frag6(UDP, 0, false, 5), udp), drop.None, no},
		{"atomic fragment behind options", raw6(60, ext6(nextFragment), frag6(60, 0, false, 5), ext6(UDP), udp), drop.None, no},
		{"two fragment headers", raw6(nextFragment, frag6(nextFragment, 0, false, 5), frag6(UDP, 0, false, 6), udp), drop.IPFragment, no},
		{"fragment header cut", raw6(nextFragment, frag6(UDP, 0, false, 5)[:7]), drop.IPMalformed, no},
		{"fragment of no multiple of 8", raw6(nextFragment, frag6(UDP, 0, true, 5), udp, []byte{1}), drop.IPFragment, Problem{true, 0, 4}},
		{"fragment ends behind 65535", raw6(nextFragment, frag6(UDP, 65520, false, 5), udp), drop.IPFragment, Problem{true, 0, 42}},
		{"empty fragment", raw6(nextFragment, frag6(UDP, 8, false, 5)), drop.IPFragment, no},
		{"first fragment without its chain", raw6(nextFragment, frag6(60, 0, true, 5), []byte{UDP, 4, 0, 0, 0, 0, 0, 0}), drop.IPFragment, Problem{true, 3, 0}},
		{"later fragment that looks like a chain", raw6(nextFragment, frag6(60, 8, true, 5), repeat(8, []byte{60})), drop.None, no},
		{"multicast source", source(raw6(UDP, udp), "\xff"), drop.SrcIPSpoofed, no},
		{"v4-mapped source", source(raw6(UDP, udp), "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff"), drop.SrcIPSpoofed, no},
		{"loopback source", source(raw6(UDP, udp), string(make([]byte, 15))+"\x01"), drop.SrcIPSpoofed, no},
		{"no source yet", source(raw6(UDP, udp), string(make([]byte, 16))), drop.None, no},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			var p Packet
			if got := Parse(&p, frame(l2.TypeIPv6, row.b)); got != row.want {
				t.Errorf("got %v, want %v", got, row.want)
			}
			if p.Problem != row.problem {
				t.Errorf("problem %+v, want %+v", p.Problem, row.problem)
			}
		})
	}
}

func TestAtomicFragmentIsWhole(t *testing.T) {
	udp := udpBytes(ap(con6, 1), ap(far6, 2), []byte("whole"))
	p := mustParse(t, raw6(60, ext6(nextFragment), frag6(60, 0, false, 5), ext6(UDP), udp))
	if p.IsFragment() || p.Proto != UDP || p.HdrLen != 40+8+8+8 {
		t.Errorf("fragment %v, proto %d, header %d", p.IsFragment(), p.Proto, p.HdrLen)
	}
	if data, ok := p.UDPPayload(); !ok || string(data) != "whole" || !p.VerifyTransport() {
		t.Errorf("payload %q %v", data, ok)
	}
}

func BenchmarkHostileChains(b *testing.B) {
	udp := udpBytes(ap(con6, 1), ap(far6, 2), pattern(16))
	for _, c := range []struct {
		name string
		b    []byte
	}{
		{"100hopbyhop", raw6(0, repeat(99, ext6(0)), ext6(UDP), udp)},
		{"100destination", raw6(60, repeat(99, ext6(60)), ext6(UDP), udp)},
		{"2000pad1", raw6(60, ext6(UDP, make([]byte, 2000)...), udp)},
		{"worstaccepted", raw6(60, repeat(7, ext6(60, 0, 0, 0, 0, 0, 0)), ext6(UDP), udp)},
	} {
		b.Run(c.name, func(b *testing.B) {
			f := frame(l2.TypeIPv6, c.b)
			var p Packet
			for b.Loop() {
				Parse(&p, f)
			}
			if ns := float64(b.Elapsed().Nanoseconds()) / float64(b.N); ns > 20_000 {
				b.Errorf("%.0f ns a packet, bound is 20 000 (HC-22)", ns)
			}
		})
	}
}
