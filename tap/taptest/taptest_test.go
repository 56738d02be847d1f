package taptest

import (
	"testing"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/tap"
)

func TestMemory(t *testing.T) {
	Contract(t, func(*testing.T) *Fixture {
		drops := new(drop.Counters)
		m := NewMemory(MinFixtureMTU, tap.Options{Drops: drops})
		return &Fixture{Device: m, Far: m.Far(), Drops: drops, SetLink: m.SetLink, Delete: m.Delete}
	})
}

func TestSocket(t *testing.T) {
	for name, vnet := range map[string]bool{"VNet": true, "Plain": false} {
		t.Run(name, func(t *testing.T) {
			Contract(t, func(t *testing.T) *Fixture {
				f, info, far, err := Socket("tap0", MinFixtureMTU, vnet)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { far.Close() })
				drops := new(drop.Counters)
				d, err := tap.Open(f, info, tap.Options{Drops: drops})
				if err != nil {
					t.Fatal(err)
				}
				return &Fixture{Device: d, Far: far, Drops: drops, Delete: far.Close}
			})
		})
	}
}

// A Memory's queue is bounded, as a TAP's is.
func TestMemoryFull(t *testing.T) {
	drops := new(drop.Counters)
	m := NewMemory(1500, tap.Options{Drops: drops})
	frames := make([]l2.Frame, queueLen+3)
	if n := m.Output(frames); n != queueLen || drops.Get(drop.TAPFull) != 3 {
		t.Errorf("Output = %d, drops %v", n, drops.Snapshot())
	}
}
