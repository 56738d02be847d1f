package taptest

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/tap"
)

// Fixture is a Device under test and the other end of it. MTU is at least MinFixtureMTU. SetLink
// and Delete are nil where the thing under test has no link.
type Fixture struct {
	Device  Device
	Far     Far
	Drops   *drop.Counters
	SetLink func(up bool) error
	Delete  func() error
}

// MinFixtureMTU lets the contract use large frames.
const MinFixtureMTU = 40000

// TestType is the EtherType of the frames in the contract, one no kernel answers
// (IEEE 802 local experimental).
const TestType l2.EtherType = 0x88b5

// Contract tests what every Device promises. open makes a new one per case and cleans up by
// t.Cleanup; the Device is closed by then.
func Contract(t *testing.T, open func(t *testing.T) *Fixture) {
	cases := []struct {
		name string
		run  func(t *testing.T, f *Fixture)
	}{
		{"FramesIn", framesIn}, {"FramesOut", framesOut}, {"TakenBlock", takenBlock},
		{"OutputAtOnce", outputAtOnce}, {"Close", closes}, {"LinkDown", linkDown}, {"Deleted", deleted},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f := open(t)
			c.run(t, f)
			f.Device.Close()
		})
	}
}

// frame makes a frame of n bytes, all of them tag.
func frame(n int, tag byte) l2.Frame {
	return l2.Frame{
		Header: l2.MakeHeader(l2.Broadcast, l2.MAC{2, 0, 0, 0, 0, 9}, TestType),
		L3:     [][]byte{bytes.Repeat([]byte{tag}, n)},
	}
}

// start runs the device; stop closes it and returns what Run said.
func start(f *Fixture, input func(*l2.Frame), idle func()) (stop func() error) {
	var wg sync.WaitGroup
	var err error
	wg.Go(func() {
		err = f.Device.Run(func(frames []l2.Frame) {
			for i := range frames {
				// A kernel has things of its own to say on a new interface.
				if frames[i].Header.Type() == TestType {
					input(&frames[i])
				}
			}
		}, idle)
	})
	return sync.OnceValue(func() error {
		f.Device.Close()
		wg.Wait()
		return err
	})
}

func framesIn(t *testing.T, f *Fixture) {
	sizes := []int{60, 1500, 2048, 2049, 30000, 46, 1499}
	got := make(chan l2.Frame, len(sizes)*20)
	idles := make(chan struct{}, 1)
	stop := start(f, func(g *l2.Frame) {
		if len(g.L3) != 1 || g.VNet != (l2.VNet{}) {
			t.Errorf("%d slices, VNet %+v; want one slice and no VNet", len(g.L3), g.VNet)
		}
		got <- clone(g, l2.HeapAllocator)
	}, func() {
		select {
		case idles <- struct{}{}:
		default:
		}
	})
	defer stop()
	tag := byte(0)
	for range 20 {
		for _, n := range sizes {
			if err := f.Far.Send(frame(n, tag)); err != nil {
				t.Fatal(err)
			}
			g := <-got
			if !bytes.Equal(g.L3[0], bytes.Repeat([]byte{tag}, n)) || g.Header != frame(0, 0).Header {
				t.Fatalf("frame of %d bytes came as %d, header %x", n, g.Len(), g.Header)
			}
			tag++
		}
	}
	<-idles
	// A burst arrives whole and in order.
	for i := range 100 {
		if err := f.Far.Send(frame(100, byte(i))); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		if g := <-got; g.L3[0][0] != byte(i) {
			t.Fatalf("frame %d came as %d", g.L3[0][0], i)
		}
	}
}

func framesOut(t *testing.T, f *Fixture) {
	for i, n := range []int{46, 1500, 30000} {
		fr := frame(n, byte(i))
		fr.L3 = [][]byte{fr.L3[0][:20], nil, fr.L3[0][20:]}
		if sent := f.Device.Output([]l2.Frame{fr, fr}); sent != 2 {
			t.Fatalf("Output = %d, drops %v", sent, f.Drops.Snapshot())
		}
		for range 2 {
			got := recv(t, f)
			if got.Header != fr.Header || !bytes.Equal(bytes.Join(got.L3, nil), frame(n, byte(i)).L3[0]) {
				t.Errorf("frame of %d bytes came as %d", n, got.Len())
			}
		}
	}
	if f.Device.MTU() < MinFixtureMTU {
		t.Errorf("MTU = %d", f.Device.MTU())
	}
}

// recv returns the next frame of the test.
func recv(t *testing.T, f *Fixture) l2.Frame {
	t.Helper()
	for {
		g, err := f.Far.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if g.Header.Type() == TestType {
			return g
		}
	}
}

// takenBlock: a block that was taken stays as it is while more frames come.
func takenBlock(t *testing.T, f *Fixture) {
	type taken struct {
		buf *l2.Buf
		l3  []byte
	}
	got := make(chan taken, 10)
	stop := start(f, func(g *l2.Frame) {
		if !g.Buf.Take() {
			t.Error("the block of a large frame cannot be taken")
		}
		got <- taken{g.Buf, g.L3[0]}
	}, nil)
	defer stop()
	var all []taken
	for i := range 5 {
		if err := f.Far.Send(frame(20000, byte(i))); err != nil {
			t.Fatal(err)
		}
		all = append(all, <-got)
	}
	for i, k := range all {
		if &k.buf.Data[0] != &k.l3[0] || !bytes.Equal(k.l3, frame(20000, byte(i)).L3[0]) {
			t.Errorf("block %d was written to after it was taken", i)
		}
	}
}

func outputAtOnce(t *testing.T, f *Fixture) {
	const workers, each = 4, 25
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for range each {
				f.Device.Output([]l2.Frame{frame(500+w, byte(w))})
			}
		})
	}
	var count [workers]int
	for range workers * each {
		g := recv(t, f)
		w := g.L3[0][0]
		if !bytes.Equal(g.L3[0], frame(500+int(w), w).L3[0]) {
			t.Fatalf("a frame of %d and another are mixed", w)
		}
		count[w]++
	}
	wg.Wait()
	for w, n := range count {
		if n != each {
			t.Errorf("%d frames of worker %d, want %d", n, w, each)
		}
	}
}

func closes(t *testing.T, f *Fixture) {
	stop := start(f, func(*l2.Frame) {}, nil)
	if err := stop(); err != nil {
		t.Errorf("Run after Close: %v", err)
	}
	if err := f.Device.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if n := f.Device.Output([]l2.Frame{frame(60, 1)}); n != 0 || f.Drops.Get(drop.TAPDown) != 1 {
		t.Errorf("Output after Close = %d, drops %v", n, f.Drops.Snapshot())
	}
}

// linkDown is HC-28: what a container does to its link hurts nobody and is over when it ends.
func linkDown(t *testing.T, f *Fixture) {
	if f.SetLink == nil {
		return
	}
	var idles int // written by Run's goroutine, read after it ended
	got := make(chan struct{}, 1)
	stop := start(f, func(*l2.Frame) { got <- struct{}{} }, func() { idles++ })
	defer stop()
	must(t, f.SetLink(false))
	for range 10 {
		if n := f.Device.Output([]l2.Frame{frame(60, 1)}); n != 0 {
			t.Errorf("Output to a link that is down = %d", n)
		}
	}
	if d := f.Drops.Get(drop.TAPDown); d != 10 || f.Device.State() != tap.Down {
		t.Errorf("state %v, %d drops, want down and 10", f.Device.State(), d)
	}
	must(t, f.SetLink(true))
	if n := f.Device.Output([]l2.Frame{frame(60, 1)}); n != 1 || f.Device.State() != tap.Up {
		t.Errorf("Output to a link that is up again = %d, state %v", n, f.Device.State())
	}
	must(t, f.Far.Send(frame(60, 2)))
	<-got
	if err := stop(); err != nil {
		t.Error(err)
	}
	// idle runs once per wake-up, so a loop that spins shows here. A kernel says a few things on
	// a link that comes up.
	if idles > 50 {
		t.Errorf("Run went round %d times for one frame", idles)
	}
}

func deleted(t *testing.T, f *Fixture) {
	if f.Delete == nil {
		return
	}
	done := make(chan error)
	go func() { done <- f.Device.Run(func([]l2.Frame) {}, nil) }()
	must(t, f.Delete())
	if err := <-done; !errors.Is(err, tap.ErrGone) {
		t.Errorf("Run of a deleted device: %v", err)
	}
	if n := f.Device.Output([]l2.Frame{frame(60, 1)}); n != 0 || f.Device.State() != tap.Gone || f.Drops.Get(drop.TAPDown) != 1 {
		t.Errorf("Output to a deleted device = %d, state %v, drops %v", n, f.Device.State(), f.Drops.Snapshot())
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
