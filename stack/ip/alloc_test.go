package ip

import (
	"testing"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// TestAllocs is the gate: nothing on the way of a packet allocates once the pools are warm.
func TestAllocs(t *testing.T) {
	payload := pattern(8000)
	v4 := frameFor(raw4{proto: UDP, payload: udpBytes(ap(con4, 1), ap(far4, 2), payload[:1400])}.bytes())
	v6 := frameFor(raw6(0, ext6(nextFragment), frag6(UDP, 0, false, 1), udpBytes(ap(con6, 1), ap(far6, 2), payload[:1400])))
	sliced := frame(l2.TypeIPv4, v4.L3[0][:28], v4.L3[0][28:])
	hop := frameFor(raw6(60, ext6(UDP, 0x9e, 0), payload[:100]))

	var p, q Packet
	buf := make([]byte, 1280)
	big := make([]byte, 48+len(payload))
	n := PutUDPHeaders(big, ap(con4, 1), ap(far4, 2), len(payload), UDPOpts{Partial: true})
	copy(big[n:], payload)
	l3, v := [][]byte{big[:n], big[n : n+len(payload)]}, UDPVNet(con4, 0)
	r := NewReassembler(0, 0, 0)
	var limiter Limiter
	var quoted Quoted
	pieces := 0
	reassemble := func(_ l2.VNet, l3 [][]byte) {
		f := l2.Frame{Header: v4.Header, L3: l3}
		Parse(&q, &f)
		if whole, _ := r.Add(t0, &q); whole != nil {
			pieces++
			r.Release(whole)
		}
	}
	errPacket := mustParse(t, ICMPError(nil, mustParse(t, v4.L3[0]), gw4, TTLExceeded, 0))

	rows := map[string]func(){
		"parse4":       func() { Parse(&p, v4); p.VerifyTransport(); p.Ports(); p.UDPPayload() },
		"parse6":       func() { Parse(&p, v6); p.VerifyTransport(); p.Ports() },
		"parse slices": func() { Parse(&p, sliced); p.VerifyTransport() },
		"refuse":       func() { Parse(&p, hop); ICMPError(buf, &p, gw6, ParamProblem, 0) },
		"headers":      func() { PutUDPHeaders(buf, ap(con4, 1), ap(far4, 2), len(payload), UDPOpts{Payload: payload}) },
		"error":        func() { Parse(&p, v4); ICMPError(buf, &p, gw4, PortUnreachable, 0) },
		"quoted":       func() { ParseQuoted(&quoted, errPacket) },
		"echo":         func() { AppendEcho(buf[:0], Echo{Src: con6, Dst: far6, Data: payload[:1000]}) },
		"limiter":      func() { limiter.Allow(t0) },
		"fragment and reassemble": func() {
			if err := Fragment(1500, v, l3, reassemble); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, f := range rows {
		f()
		// A collection in between empties the pools, so a fraction of an allocation is none.
		if n := testing.AllocsPerRun(200, f); n >= 1 && !raceEnabled {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	if pieces == 0 {
		t.Error("nothing was put together")
	}
}

func BenchmarkParse4(b *testing.B) {
	f := frameFor(raw4{proto: UDP, payload: udpBytes(ap(con4, 1), ap(far4, 2), pattern(1400))}.bytes())
	var p Packet
	for b.Loop() {
		if Parse(&p, f) != drop.None {
			b.Fatal()
		}
	}
}

func BenchmarkParse6(b *testing.B) {
	f := frameFor(raw6(UDP, udpBytes(ap(con6, 1), ap(far6, 2), pattern(1400))))
	var p Packet
	for b.Loop() {
		if Parse(&p, f) != drop.None {
			b.Fatal()
		}
	}
}

func BenchmarkReassemble8000(b *testing.B) {
	whole := pattern(8000)
	var fragments []*Packet
	for at := 0; at < 8000; at += 1480 {
		end := min(at+1480, 8000)
		fragments = append(fragments, mustParse(b, fragmentOf(false, 1, whole, piece{at, end, end == 8000, nil})))
	}
	r := NewReassembler(0, 0, 0)
	b.SetBytes(8000)
	for b.Loop() {
		for _, p := range fragments {
			if whole, _ := r.Add(t0, p); whole != nil {
				r.Release(whole)
			}
		}
	}
}

func BenchmarkFirstFragmentFlood(b *testing.B) {
	r := NewReassembler(0, 0, 0)
	p := mustParse(b, raw4{more: true, payload: pattern(1480)}.bytes())
	for b.Loop() {
		p.ID++
		r.Add(t0, p)
	}
}
