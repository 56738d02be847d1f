package tap

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// ErrGone says that the container deleted the device.
var ErrGone = errors.New("the device is gone")

// State is what is known of the device; see the package comment for the transitions.
type State int32

// The states.
const (
	Up State = iota
	Down
	Gone
)

func (s State) String() string {
	switch s {
	case Up:
		return "up"
	case Down:
		return "down"
	case Gone:
		return "gone"
	}
	return fmt.Sprintf("State(%d)", int32(s))
}

// Options are what a Device is given by its owner; every field may be zero.
type Options struct {
	Drops *drop.Counters
	Alloc l2.Allocator // memory for frames read; nil: HeapAllocator
	Log   *slog.Logger // nil: discard
}

// Device is an open TAP, an l2.Port. Output and Close may be called from any goroutine, Run once.
type Device struct {
	f     *os.File
	info  Info
	drops *drop.Counters
	alloc l2.Allocator
	log   *slog.Logger

	state   atomic.Int32
	running atomic.Bool
	reader  *sys.VecReader // Run's
	lanes   func() int     // sys.Processors
	writers sync.Pool      // of *writer
}

// Open makes a Device of a descriptor from Create or Attach and takes it over: Close closes it.
// The descriptor may have come from another process; i must be what Create said.
func Open(f *os.File, i Info, o Options) (*Device, error) {
	// Asked because a blocking descriptor would hold up whoever reads it and never hear of Close.
	if err := f.SetReadDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("open TAP %s: the descriptor is not non-blocking: %w", i.Name, err)
	}
	d := &Device{f: f, info: i, drops: o.Drops, alloc: o.Alloc, log: o.Log, lanes: sys.Processors}
	if d.alloc == nil {
		d.alloc = l2.HeapAllocator
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if d.reader, err = sys.NewVecReader(f, readVectors); err != nil {
		return nil, fmt.Errorf("open TAP %s: %w", i.Name, err)
	}
	w, err := newWriter(d)
	if err != nil {
		return nil, fmt.Errorf("open TAP %s: %w", i.Name, err)
	}
	d.writers.Put(w)
	return d, nil
}

// MTU is the MTU the device was made with. The container may have changed it since; a frame of
// the size agreed on stays right for the switch.
func (d *Device) MTU() int { return d.info.MTU }

// VNet reports whether frames with a VNet cross the device as they are; without it Output cuts and
// completes them.
func (d *Device) VNet() bool { return d.info.VNet }

// State returns what is known of the device.
func (d *Device) State() State { return State(d.state.Load()) }

func (d *Device) String() string { return "tap " + d.info.Name }

// Close closes the descriptor; Run returns nil. It is idempotent and does not wait for Run: its
// caller does.
func (d *Device) Close() error {
	err := d.f.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// setState changes the state and logs the change, once however many goroutines see it.
func (d *Device) setState(s State, cause error) {
	for {
		old := State(d.state.Load())
		if old == s || old == Gone {
			return
		}
		if d.state.CompareAndSwap(int32(old), int32(s)) {
			d.log.Info("TAP changed state", "device", d.info.Name, "from", old.String(), "to", s.String(), "cause", cause)
			return
		}
	}
}

// headLen is the length of what stands before the packet in a read or write.
func (d *Device) headLen() int {
	if d.info.VNet {
		return l2.VNetLen + l2.HeaderLen
	}
	return l2.HeaderLen
}
