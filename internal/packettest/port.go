package packettest

import (
	"slices"
	"sync"

	"github.com/usernet/usernet/stack/l2"
)

// Port is an in-memory l2.Port that keeps copies of what it was given. The zero value accepts everything and
// has an MTU of 1500.
type Port struct {
	Name string
	Mtu  int // in layer 3 bytes; zero means 1500
	// Limit is how many frames the port takes before it is full; zero means no limit.
	Limit int
	// OnOutput, if not nil, sees each batch before it is copied, on the goroutine of Output.
	OnOutput func(frames []l2.Frame)

	mu sync.Mutex
	// +checklocks:mu
	batches [][]l2.Frame
	// +checklocks:mu
	count int
}

// Output records the frames; see l2.Port.
func (p *Port) Output(frames []l2.Frame) (sent int) {
	if p.OnOutput != nil {
		p.OnOutput(frames)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.Limit > 0 {
		frames = frames[:min(len(frames), p.Limit-p.count)]
	}
	if len(frames) == 0 {
		return 0
	}
	batch := make([]l2.Frame, len(frames))
	for i, f := range frames {
		batch[i] = Clone(f)
	}
	p.batches = append(p.batches, batch)
	p.count += len(frames)
	return len(frames)
}

// MTU is the largest packet the port says it carries.
func (p *Port) MTU() int {
	if p.Mtu == 0 {
		return 1500
	}
	return p.Mtu
}

func (p *Port) String() string { return p.Name }

// Frames returns all frames recorded so far.
func (p *Port) Frames() []l2.Frame { return slices.Concat(p.Batches()...) }

// Batches returns the frames of each Output call.
func (p *Port) Batches() [][]l2.Frame {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.batches)
}

// Clear forgets what was recorded.
func (p *Port) Clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.batches, p.count = nil, 0
}

// Clone copies a frame with its bytes, and without its Buf.
func Clone(f l2.Frame) l2.Frame {
	c := l2.Frame{VNet: f.VNet, Header: f.Header, L3: make([][]byte, len(f.L3))}
	for i, p := range f.L3 {
		c.L3[i] = slices.Clone(p)
	}
	return c
}

// Equal reports whether two frames have the same header, VNet header and bytes, however these are cut
// into slices.
func Equal(a, b l2.Frame) bool {
	return a.VNet == b.VNet && slices.Equal(Bytes(a), Bytes(b))
}
