// Package taptest has stand-ins for a TAP and the contract that they and the real one keep.
//
//   - Memory is a TAP made of channels: for tests of the switch and the gateway, under synctest too.
//   - Socket is a pair of sockets of which one passes for a TAP's descriptor: for tests of what is
//     handed a descriptor. The Device on it is the real one.
//   - Contract is the test that both pass, and the kernel's TAP.
package taptest

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/tap"
)

// Device is what the datapath knows of a TAP. *tap.Device and *Memory are Devices.
type Device interface {
	l2.Port
	Run(input func(frames []l2.Frame), idle func()) error
	VNet() bool
	State() tap.State
	Close() error
}

// Far is the container's end of a Device.
type Far interface {
	// Send sends a frame out of the container.
	Send(f l2.Frame) error
	// Recv waits for the next frame that came in. It is an error once the device is closed.
	Recv() (l2.Frame, error)
}

// queueLen is how many frames a Memory holds in each direction, as a TAP's ring does.
const queueLen = 500

// Memory is a TAP of channels, its own Device and Far (by the method Far). It carries VNets.
type Memory struct {
	mtu   int
	drops *drop.Counters
	alloc l2.Allocator
	in    chan l2.Frame // from the container
	out   chan l2.Frame // to the container

	state   atomic.Int32 // tap.State
	end     chan struct{}
	endOnce sync.Once
}

// NewMemory makes a Memory that is up.
func NewMemory(mtu int, o tap.Options) *Memory {
	m := &Memory{
		mtu: mtu, drops: o.Drops, alloc: o.Alloc,
		in: make(chan l2.Frame, queueLen), out: make(chan l2.Frame, queueLen), end: make(chan struct{}),
	}
	if m.alloc == nil {
		m.alloc = l2.HeapAllocator
	}
	return m
}

// Output is tap.Device's.
func (m *Memory) Output(frames []l2.Frame) (sent int) {
	for i := range frames {
		select {
		case <-m.end:
			m.drops.Add(drop.TAPDown)
			continue
		default:
		}
		if m.State() != tap.Up {
			m.drops.Add(drop.TAPDown)
			continue
		}
		select {
		case m.out <- clone(&frames[i], l2.HeapAllocator):
			sent++
		default:
			m.drops.Add(drop.TAPFull)
		}
	}
	return sent
}

// Run is tap.Device's.
func (m *Memory) Run(input func([]l2.Frame), idle func()) error {
	if idle == nil {
		idle = func() {}
	}
	for {
		select {
		case <-m.end:
			if m.State() == tap.Gone {
				return fmt.Errorf("read %v: %w", m, tap.ErrGone)
			}
			return nil
		case f := <-m.in:
			f = clone(&f, m.alloc)
			input([]l2.Frame{f})
			idle()
		}
	}
}

// MTU is tap.Device's.
func (m *Memory) MTU() int { return m.mtu }

// VNet is tap.Device's.
func (m *Memory) VNet() bool { return true }

// State is tap.Device's, except that it changes at once.
func (m *Memory) State() tap.State { return tap.State(m.state.Load()) }

func (m *Memory) String() string { return "tap memory" }

// Close is tap.Device's.
func (m *Memory) Close() error {
	m.endOnce.Do(func() { close(m.end) })
	return nil
}

// SetLink sets the container's interface up or down.
func (m *Memory) SetLink(up bool) error {
	if up {
		m.state.CompareAndSwap(int32(tap.Down), int32(tap.Up))
	} else {
		m.state.CompareAndSwap(int32(tap.Up), int32(tap.Down))
	}
	return nil
}

// Delete deletes the container's interface.
func (m *Memory) Delete() error {
	m.state.Store(int32(tap.Gone))
	return m.Close()
}

// Far returns the container's end.
func (m *Memory) Far() Far { return memoryFar{m} }

type memoryFar struct{ m *Memory }

func (f memoryFar) Send(fr l2.Frame) error {
	select {
	case <-f.m.end:
		return os.ErrClosed
	case f.m.in <- clone(&fr, l2.HeapAllocator):
		return nil
	}
}

func (f memoryFar) Recv() (l2.Frame, error) {
	select {
	case fr := <-f.m.out:
		return fr, nil
	case <-f.m.end:
		return l2.Frame{}, os.ErrClosed
	}
}

// clone copies f into one slice of its own, in a block that may be taken.
func clone(f *l2.Frame, alloc l2.Allocator) l2.Frame {
	g := l2.Frame{VNet: f.VNet, Header: f.Header, Buf: alloc(max(f.Len(), 1))}
	b := g.Buf.Data[:0]
	for _, p := range f.L3 {
		b = append(b, p...)
	}
	g.L3 = [][]byte{b}
	return g
}

// Socket returns a descriptor that passes for a TAP's, with its Info, and the container's end. The
// descriptor and the Far (an io.Closer) are the caller's to close.
func Socket(name string, mtu int, vnet bool) (*os.File, tap.Info, *SocketFar, error) {
	a, b, err := sys.Socketpair()
	if err != nil {
		return nil, tap.Info{}, nil, err
	}
	i := tap.Info{Name: name, MTU: mtu, VNet: vnet}
	if vnet {
		i.Offloads = ^uint32(0)
	}
	return a, i, &SocketFar{f: b, vnet: vnet}, nil
}

// SocketFar is the container's end of a Socket.
type SocketFar struct {
	f    *os.File
	vnet bool
}

// Send is Far's. It waits while the device does not read.
func (s *SocketFar) Send(f l2.Frame) error {
	var b []byte
	if s.vnet {
		b = make([]byte, l2.VNetLen)
		f.VNet.Put(b)
	}
	b = append(b, f.Header[:]...)
	for _, p := range f.L3 {
		b = append(b, p...)
	}
	return s.SendRaw(b)
}

// SendRaw sends b as one read of the device, headers included.
func (s *SocketFar) SendRaw(b []byte) error {
	_, err := s.f.Write(b)
	return err
}

// RecvRaw receives one write of the device into b, headers included.
func (s *SocketFar) RecvRaw(b []byte) (int, error) { return s.f.Read(b) }

// Recv is Far's.
func (s *SocketFar) Recv() (l2.Frame, error) {
	b := make([]byte, 1<<17)
	n, err := s.RecvRaw(b)
	if err != nil {
		return l2.Frame{}, err
	}
	b = b[:n]
	var f l2.Frame
	if s.vnet {
		f.VNet = l2.ParseVNet(b)
		b = b[l2.VNetLen:]
	}
	f.Header = l2.Header(b)
	f.L3 = [][]byte{b[l2.HeaderLen:]}
	return f, nil
}

// Close closes the container's end, which is as if the interface were deleted.
func (s *SocketFar) Close() error { return s.f.Close() }
