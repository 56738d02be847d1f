package bridge_test

import (
	"math/rand/v2"
	"testing"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/bridge"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// seeds are honest frames of every kind the guard looks into.
func seeds() []l2.Frame {
	ll := packettest.LinkLocal(a.MAC)
	return []l2.Frame{
		ping(a, gw), ping6(a, b), arpFor(a, b), datagram(100), tcp(a, gw, true, 100),
		gso(tcp(a, gw, false, 3000), l2.GSOTCPv4, 1448), gso(datagram(3000), l2.GSOUDPL4, 1000),
		packettest.NS(a.MAC, a.IP6, b.IP6), packettest.NA(a.MAC, a.IP6), packettest.RS(a.MAC, ll),
		packettest.RA(a.MAC, ll, nets[1]), packettest.DHCPDiscover(a.MAC, 1), packettest.Redirect6(a.MAC, b.MAC, ll, b.IP6, a.IP6, out6),
		with6(ping6(a, gw), 44, []byte{58, 0, 0, 1, 0, 0, 0, 1}),
	}
}

// checkInput sends one frame into a port of a new switch and checks what must hold of any frame.
func checkInput(t testing.TB, from string, f l2.Frame) {
	w := newWorld(t, nil)
	before := packettest.Clone(f)
	w.send(from, f)

	out := 0
	for name, p := range w.out {
		got := p.Frames()
		out += len(got)
		if name == from && len(got) != 0 || len(got) > 1 {
			t.Fatalf("%d frames left by %s for one that came in by %s\n%s", len(got), name, from, packettest.Dump(f))
		}
		for _, g := range got {
			if !packettest.Equal(g, before) {
				t.Fatalf("frame was changed on its way to %s\nfrom %s\nto %s", name, packettest.Dump(before), packettest.Dump(g))
			}
		}
	}
	if !packettest.Equal(f, before) {
		t.Fatalf("the caller's frame was changed\n%s", packettest.Dump(before))
	}
	var dropped uint64
	for _, n := range w.result.Drops.Snapshot() {
		dropped += n
	}
	if (out == 0) != (dropped == 1) || dropped > 1 {
		t.Fatalf("%d frames out and %d drops: a frame is forwarded or counted once\n%s", out, dropped, packettest.Dump(f))
	}
	checkVNet(t, &f)
}

// checkVNet: what Validate lets through can be summed and cut without a look at the frame's length.
func checkVNet(t testing.TB, f *l2.Frame) {
	segments, r := bridge.Validate(f)
	if r != drop.None {
		return
	}
	if segments < 1 || segments > bridge.MaxSegments {
		t.Fatalf("%d segments\n%s", segments, packettest.Dump(*f))
	}
	v, size := f.VNet, l2.HeaderLen+f.Len()
	if v.Flags&l2.VNetNeedsCsum != 0 && int(v.CsumStart)+int(v.CsumOffset)+2 > size {
		t.Fatalf("checksum field outside the frame of %d bytes\n%s", size, packettest.Dump(*f))
	}
	if v.GSOType != l2.GSONone && (v.GSOSize == 0 || v.Flags&l2.VNetNeedsCsum == 0 || segments*int(v.GSOSize) < gsoPayload(f)) {
		t.Fatalf("%d segments do not hold the frame\n%s", segments, packettest.Dump(*f))
	}
}

// gsoPayload is how many bytes of a valid frame with GSO are behind its TCP or UDP header.
func gsoPayload(f *l2.Frame) int {
	transport := packettest.Bytes(*f)[f.VNet.CsumStart:]
	const udpHeader, tcpChecksum, tcpDataOffset = 8, 16, 12
	if f.VNet.CsumOffset == tcpChecksum {
		return len(transport) - int(transport[tcpDataOffset]>>4)*4
	}
	return len(transport) - udpHeader
}

// FZ-01 and, for the VNet header, FZ-14: any bytes behind a VNet header, from a strict port and a guest's.
func FuzzBridgeInput(f *testing.F) {
	for _, s := range seeds() {
		v := make([]byte, l2.VNetLen)
		s.VNet.Put(v)
		f.Add(v, packettest.Bytes(s))
	}
	f.Fuzz(func(t *testing.T, v, b []byte) {
		if len(v) < l2.VNetLen || len(b) < l2.HeaderLen {
			return // runts never leave the TAP
		}
		frame := packettest.Raw(b)
		frame.VNet = l2.ParseVNet(v)
		checkInput(t, "a", frame)
		checkInput(t, "h", frame)
	})
}

// HC-02: frames of noise, and honest ones with a few bytes turned; the sequence is the same in every run.
func TestRandomFrames(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	good := seeds()
	for range 20_000 {
		f := packettest.Clone(good[r.IntN(len(good))])
		b := packettest.Bytes(f)
		switch r.IntN(3) {
		case 0:
			b = make([]byte, l2.HeaderLen+r.IntN(1500))
			for i := range b {
				b[i] = byte(r.Uint32())
			}
		case 1:
			b = b[:l2.HeaderLen+r.IntN(len(b)-l2.HeaderLen+1)]
		}
		for range r.IntN(4) {
			b[r.IntN(len(b))] = byte(r.Uint32())
		}
		g := packettest.Raw(b)
		if g.VNet = f.VNet; r.IntN(4) == 0 {
			v := make([]byte, l2.VNetLen)
			g.VNet.Put(v)
			v[r.IntN(len(v))] = byte(r.Uint32())
			g.VNet = l2.ParseVNet(v)
		}
		checkInput(t, "a", g)
	}
}

// sink is a port that forgets, so that only the switch is measured.
type sink struct{ n int }

func (s *sink) Output(frames []l2.Frame) int { s.n += len(frames); return len(frames) }
func (s *sink) MTU() int                     { return 1500 }
func (s *sink) String() string               { return "sink" }

// pair is a switch with a gateway and one container, and a batch of 64 KiB frames.
func pair(t testing.TB, strict bool) (port *bridge.Port, batch []l2.Frame) {
	br := bridge.New(bridge.Options{Drops: new(drop.Counters)})
	c := configs()
	if _, err := br.Attach(&sink{}, c[0]); err != nil {
		t.Fatal(err)
	}
	c[1].Strict, c[1].Subnets = strict, nets
	port, err := br.Attach(&sink{}, c[1])
	if err != nil {
		t.Fatal(err)
	}
	batch = make([]l2.Frame, 32)
	for i := range batch {
		batch[i] = gso(tcp(a, gw, i%2 == 1, 60_000), l2.GSOTCPv4, 1448)
		if i%2 == 1 {
			batch[i].VNet.GSOType = l2.GSOTCPv6
		}
	}
	return port, batch
}

func TestUnicastAllocatesNothing(t *testing.T) {
	for _, strict := range []bool{true, false} {
		port, batch := pair(t, strict)
		if n := testing.AllocsPerRun(200, func() { port.Input(batch) }); n != 0 {
			t.Errorf("strict %v: %v allocations per batch, want 0", strict, n)
		}
		if st := port.Stats(); st.Dropped != 0 {
			t.Fatalf("strict %v: frames were dropped: %+v", strict, st)
		}
	}
}

func TestFloodAllocatesNothing(t *testing.T) {
	port, _ := pair(t, true)
	batch := frames(arpFor(a, b))
	if n := testing.AllocsPerRun(50, func() { port.Input(batch) }); n != 0 {
		t.Errorf("%v allocations per broadcast, want 0", n)
	}
}

func BenchmarkForward(b *testing.B) {
	for _, row := range []struct {
		name   string
		strict bool
	}{{"strict", true}, {"guest", false}} {
		b.Run(row.name, func(b *testing.B) {
			port, batch := pair(b, row.strict)
			b.ReportAllocs()
			for b.Loop() {
				port.Input(batch)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(batch)), "ns/frame")
		})
	}
}
