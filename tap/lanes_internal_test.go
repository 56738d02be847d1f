package tap

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usernet/usernet/stack/l2"
)

// simulated is a device without a kernel behind it, from which many flows come at once. What it costs to hand a frame on is what its
// user says, so it shows how the work is shared among lanes on a machine with any number of CPUs.
type simulated struct {
	d Device
	b *batch
	n uint16 // frames so far
}

func newSimulated() *simulated {
	s := &simulated{d: Device{info: Info{VNet: true}, alloc: l2.HeapAllocator}, b: batches.Get().(*batch)}
	h := l2.MakeHeader(l2.MAC{2, 1}, l2.MAC{2, 2}, l2.TypeIPv4)
	copy(s.b.head[l2.VNetLen:], h[:])
	s.b.block = s.d.alloc(blockLen)
	p := s.b.block.Data
	p[0], p[9] = 0x45, protoUDP
	return s
}

// simulatedFlows is how many flows a simulated device has.
const simulatedFlows = 1024

// read takes the next frame in: a datagram of the next flow.
func (s *simulated) read(input func([]l2.Frame), spread *lanes) {
	binary.BigEndian.PutUint16(s.b.block.Data[20:], s.n%simulatedFlows)
	s.n++
	s.d.take(s.b, l2.VNetLen+l2.HeaderLen+64, input, spread)
}

// TestLanesScale: where each frame takes a while to hand on, and there is a CPU for each lane, n lanes hand on nearly n times as much.
// The while is a time of synctest's, which passes for all that wait together: a lane that waits for another would show.
func TestLanesScale(t *testing.T) {
	const frames, each = 1 << 13, time.Millisecond
	for _, n := range []int{1, 2, 4, 8, 16} {
		synctest.Test(t, func(t *testing.T) {
			var handed atomic.Int32
			input := func(fs []l2.Frame) {
				<-time.After(time.Duration(len(fs)) * each)
				handed.Add(int32(len(fs)))
			}
			spread := startLanes(n, input, func() {})
			s := newSimulated()
			start := time.Now()
			for range frames {
				s.read(input, spread)
			}
			spread.stop()
			speedup := float64(frames*each) / float64(time.Since(start))
			if handed.Load() != frames {
				t.Errorf("%d lanes: %d of %d frames were handed on", n, handed.Load(), frames)
			}
			t.Logf("%d lanes: %.1f times one", n, speedup)
			if speedup < 0.7*float64(n) { // the flows are not spread quite evenly
				t.Errorf("%d lanes are %.1f times as fast as one", n, speedup)
			}
		})
	}
}

// BenchmarkLanes hands on frames that take 1 µs of CPU each by more and more lanes on the CPUs there are. On two, which others used as
// well: 1.6, 1.8, 1.8 and 1.8 times what one hands on. More lanes than CPUs cost nothing.
func BenchmarkLanes(b *testing.B) {
	for _, n := range []int{1, 2, 4, 8, 16} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			input := func(fs []l2.Frame) {
				for i := range fs {
					for range 8 {
						crc32.ChecksumIEEE(page[:])
					}
					fs[i].Buf = nil
				}
			}
			s := newSimulated()
			var spread *lanes
			if n > 1 {
				spread = startLanes(n, input, func() {})
			}
			for b.Loop() {
				s.read(input, spread)
			}
			if spread != nil {
				spread.stop()
			}
			b.ReportMetric(1e-3*float64(b.N)/b.Elapsed().Seconds(), "kframes/s")
		})
	}
}

// BenchmarkTake is what reading costs beside the system call, batches of 64 small frames.
func BenchmarkTake(b *testing.B) {
	s := newSimulated()
	input := func([]l2.Frame) {}
	b.ReportAllocs()
	for b.Loop() {
		s.read(input, nil)
	}
}

// page is what BenchmarkLanes works on.
var page [4096]byte
