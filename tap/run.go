package tap

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

const (
	readVectors = 2 // headers, packet
	batchFrames = 64
	// smallFrame is the longest packet that is copied into a slot. It holds an Ethernet MTU, and
	// a copy of that many bytes costs less than a new block would.
	smallFrame = 2048
	// blockLen holds the longest frame the kernel hands to a TAP: a GSO packet has a 16-bit length.
	blockLen = 65536
	// turnBytes is how much Run reads before it lets others run: 16 frames of TSO, about half a millisecond's copying. It
	// is what whoever has one small packet to receive waits for, once for each device that is busy (RX-16).
	turnBytes = 1 << 20
	// maxBadReads ends Run when the kernel refuses to give a frame so many times on end.
	maxBadReads = 64
)

// batches has those that nobody needs at the moment. A batch is 192 KiB, so devices do not keep one while they wait:
// with thousands of containers most are silent, and the few that are not share what there is.
var batches = sync.Pool{New: func() any { return &batch{slots: make([]byte, batchFrames*smallFrame)} }}

// batch is Run's memory: frames read and not yet handed on.
type batch struct {
	head   [l2.VNetLen + l2.HeaderLen]byte
	block  *l2.Buf
	slots  []byte // batchFrames of smallFrame bytes
	l3     [batchFrames][1][]byte
	frames [batchFrames]l2.Frame
	n      int
}

// Run reads frames until the device is closed (nil) or gone (an error that is ErrGone). It calls
// input with batches of frames, in order, borrowed until input returns, and idle after at most 64
// frames and whenever the device is empty, so that whoever gathered output can send it. idle may
// be nil. Both run on the caller's goroutine, or, while the process has several P, on one of several at a time for the frames
// of each flow; they have returned when Run returns.
func (d *Device) Run(input func(frames []l2.Frame), idle func()) error {
	if d.running.Swap(true) {
		return fmt.Errorf("run TAP %s: it is running already", d.info.Name)
	}
	if idle == nil {
		idle = func() {}
	}
	b := d.borrow()
	defer func() { batches.Put(b) }()
	var spread *lanes // nil: all is done here
	defer func() { spread.stop() }()
	// Everything read has been handed on when Read waits.
	d.reader.OnPark(func() { batches.Put(b) }, func() { b = d.borrow() })
	for bad := 0; ; {
		spread = d.adapt(spread, input, idle)
		d.provide(b)
		n, err := d.reader.Read()
		full, taken := false, 0
		// What wakes us is mostly one frame, whose sender waits for the answer. It goes on before we look for a second one,
		// and the look is the one that Read takes before it waits: a system call less for each round trip.
		alone := d.reader.Waited()
		for read := 1; ; read++ {
			if err == nil && n == 0 {
				err = io.ErrUnexpectedEOF // a TAP never says so; a socket in its place does
			}
			if err == nil {
				bad = 0
				taken += n
				d.take(b, n, input, spread)
			} else if err = d.readError(err, &bad); err != nil {
				break
			}
			if full = read == batchFrames || taken >= turnBytes; full || alone {
				break
			}
			d.provide(b)
			if n, err = d.reader.TryRead(); err == syscall.EAGAIN {
				err = nil
				break
			}
		}
		if spread != nil {
			spread.flush()
		} else {
			b.flush(input)
			idle()
		}
		giveWay(taken, alone, full)
		if err != nil {
			if errors.Is(err, os.ErrClosed) {
				return nil
			}
			return err
		}
	}
}

// giveWay lets others go on after a batch of so many bytes, of which the first frame came alone, or after which there is more.
func giveWay(taken int, alone, full bool) {
	sys.Linger(taken)
	if alone && taken <= smallFrame {
		// Netstack's and the carrier's goroutines bring it to the host's socket now, before Read looks for another frame, of
		// which there mostly is none.
		runtime.Gosched()
	}
	if full {
		// There is more, perhaps without end. Nothing above tells the scheduler that others wait.
		sys.Yield()
	}
}

// borrow takes a batch and makes the next read fill it.
func (d *Device) borrow() *batch {
	b := batches.Get().(*batch)
	d.reader.Set(0, b.head[:d.headLen()])
	d.provide(b)
	return b
}

// provide makes sure that the next read has a block of its own.
func (d *Device) provide(b *batch) {
	if b.block == nil || b.block.Taken() {
		b.block = d.alloc(blockLen)
	}
	d.reader.Set(1, b.block.Data)
}

// take puts the frame of n bytes, headers included, that was just read into the batch, or into that of its lane.
func (d *Device) take(b *batch, n int, input func([]l2.Frame), spread *lanes) {
	n -= d.headLen()
	if n < 0 {
		d.drops.Add(drop.FrameRunt)
		return
	}
	var vnet l2.VNet
	eth := b.head[:]
	if d.info.VNet {
		vnet = l2.ParseVNet(b.head[:])
		eth = b.head[l2.VNetLen:]
	}
	packet := b.block.Data[:n:n]
	if spread == nil {
		if b.put(vnet, l2.Header(eth), packet) {
			b.flush(input)
		}
		return
	}
	h := l2.Header(eth)
	to, lane := spread.batch(&h, packet)
	if n > smallFrame {
		b.block, to.block = to.block, b.block // the next read finds what the lane had, or asks for another
	}
	if to.put(vnet, h, packet) {
		spread.send(lane)
	}
}

// put adds a frame. A packet that is large lies in b's block. It reports whether b has to be flushed before the next.
func (b *batch) put(vnet l2.VNet, h l2.Header, packet []byte) (full bool) {
	f, l3 := &b.frames[b.n], &b.l3[b.n]
	f.VNet, f.Header, f.L3 = vnet, h, l3[:]
	large := len(packet) > smallFrame
	if large {
		f.Buf = b.block
		l3[0] = packet
	} else {
		slot := b.slots[b.n*smallFrame:][:len(packet):smallFrame]
		copy(slot, packet)
		l3[0] = slot[:len(packet):len(packet)]
	}
	b.n++
	return large || b.n == batchFrames
}

func (b *batch) flush(input func([]l2.Frame)) {
	if b.n == 0 {
		return
	}
	input(b.frames[:b.n])
	clear(b.frames[:b.n])
	b.n = 0
}

// readError decides what a failed read means; nil: go on.
func (d *Device) readError(err error, bad *int) error {
	switch {
	case errors.Is(err, os.ErrClosed):
		return err
	case err == syscall.EINVAL && *bad < maxBadReads:
		// A frame the kernel could not describe with a virtio-net header; it is consumed. Were it
		// not, this would spin, hence the bound.
		*bad++
		d.drops.Add(drop.VNetBad)
		return nil
	}
	if _, ok := err.(syscall.Errno); !ok {
		// The poller reports a deleted device as an error of its own; the read says which.
		if _, err2 := d.reader.TryRead(); err2 != nil {
			err = err2
		}
	}
	d.setState(Gone, err)
	return fmt.Errorf("read %v: %w: %w", d, err, ErrGone)
}
