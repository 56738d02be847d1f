package packettest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// Result is what happened: what each port was given, and what was dropped.
type Result struct {
	Ports []*Port
	Drops *drop.Counters
}

// frames returns what the named port got.
func (r *Result) frames(port string) ([]l2.Frame, error) {
	for _, p := range r.Ports {
		if p.Name == port {
			return p.Frames(), nil
		}
	}
	return nil, fmt.Errorf("no port %q in this test", port)
}

// A Check says what is wrong with a result, or nil.
type Check func(r *Result) error

// Run applies a check and, when it fails, reports it with every frame and drop there was.
func Run(t testing.TB, r *Result, check Check) {
	t.Helper()
	if err := check(r); err != nil {
		t.Errorf("%v\n%s", err, r)
	}
}

func (r *Result) String() string {
	var b strings.Builder
	for _, p := range r.Ports {
		for i, f := range p.Frames() {
			fmt.Fprintf(&b, "out on %s, frame %d: %s\n", p, i, Dump(f))
		}
	}
	fmt.Fprintf(&b, "drops: %v\n", r.Drops.Snapshot())
	return b.String()
}

// All holds when each of the checks holds; it reports every one that does not.
func All(checks ...Check) Check {
	return func(r *Result) error {
		var errs []error
		for _, c := range checks {
			errs = append(errs, c(r))
		}
		return errors.Join(errs...)
	}
}

// OutOn holds when the port got n frames and each of them passes the frame checks.
func OutOn(port string, n int, checks ...FrameCheck) Check {
	return func(r *Result) error {
		got, err := r.frames(port)
		if err != nil {
			return err
		}
		if len(got) != n {
			return fmt.Errorf("%d frames out on %s, want %d", len(got), port, n)
		}
		for i, f := range got {
			for _, c := range checks {
				if err := c(f); err != nil {
					return fmt.Errorf("frame %d out on %s: %w", i, port, err)
				}
			}
		}
		return nil
	}
}

// NoneOn holds when none of the ports got a frame.
func NoneOn(ports ...string) Check {
	return func(r *Result) error {
		for _, p := range ports {
			if err := OutOn(p, 0)(r); err != nil {
				return err
			}
		}
		return nil
	}
}

// Silent holds when no port got a frame.
func Silent() Check {
	return func(r *Result) error {
		for _, p := range r.Ports {
			if n := len(p.Frames()); n != 0 {
				return fmt.Errorf("%d frames out on %s, want none on any port", n, p)
			}
		}
		return nil
	}
}

// Dropped holds when n frames were dropped for the reason.
func Dropped(reason drop.Reason, n uint64) Check {
	return func(r *Result) error {
		if got := r.Drops.Get(reason); got != n {
			return fmt.Errorf("%d drops of %v, want %d", got, reason, n)
		}
		return nil
	}
}

// OnlyDropped holds when n frames were dropped for the reason and none for any other.
func OnlyDropped(reason drop.Reason, n uint64) Check {
	return func(r *Result) error {
		for name, got := range r.Drops.Snapshot() {
			if name != reason.String() {
				return fmt.Errorf("%d drops of %s, want drops of %v only", got, name, reason)
			}
		}
		return Dropped(reason, n)(r)
	}
}

// NoDrops holds when nothing was dropped.
func NoDrops() Check {
	return func(r *Result) error {
		if m := r.Drops.Snapshot(); len(m) != 0 {
			return fmt.Errorf("drops %v, want none", m)
		}
		return nil
	}
}

// A FrameCheck says what is wrong with a frame, or nil.
type FrameCheck func(f l2.Frame) error

// Same holds for a frame with the bytes and the VNet header of want.
func Same(want l2.Frame) FrameCheck {
	want = Clone(want)
	return func(f l2.Frame) error {
		if !Equal(f, want) {
			return fmt.Errorf("frame differs from\n  %s", Dump(want))
		}
		return nil
	}
}

// SrcMAC holds for a frame from mac.
func SrcMAC(mac l2.MAC) FrameCheck {
	return func(f l2.Frame) error { return want("source MAC", f.Header.Src(), mac) }
}

// DstMAC holds for a frame to mac.
func DstMAC(mac l2.MAC) FrameCheck {
	return func(f l2.Frame) error { return want("destination MAC", f.Header.Dst(), mac) }
}

// EtherType holds for a frame of the type.
func EtherType(t l2.EtherType) FrameCheck {
	return func(f l2.Frame) error { return want("EtherType", f.Header.Type(), t) }
}

// Payload holds for a TCP, UDP or ICMP packet that carries exactly b.
func Payload(b []byte) FrameCheck {
	b = slices.Clone(b)
	return Packet(func(p Decoded) error {
		if !slices.Equal(p.Payload, b) {
			return fmt.Errorf("payload of %d bytes is not the expected %d bytes", len(p.Payload), len(b))
		}
		return nil
	})
}

// Packet holds for a frame with an IP packet that check accepts.
func Packet(check func(p Decoded) error) FrameCheck {
	return func(f l2.Frame) error {
		p, err := Decode(f)
		if err != nil {
			return err
		}
		return check(p)
	}
}

func want[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s is %v, want %v", what, got, want)
	}
	return nil
}
