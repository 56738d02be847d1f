// Package capture records the frames of a port in a pcap file, for --pcap.
//
// # Theory of operation
//
// A Writer stands at a port: Port wraps the l2.Port for what leaves the switch, Input wraps the reader's
// callback for what enters it. Both append records to a buffer in memory under a short lock and go on.
// One goroutine, the Writer's, takes the whole buffer and writes it to the file while the next one fills:
// two buffers, exchanged. The datapath therefore never waits for the disk.
//
// # Limits
//
// A buffer holds BufferSize bytes. When it is full, because the file is slower than the network, records
// are left out of the file and counted (Stats.Missed); the frames themselves are forwarded as ever. An
// error of the file ends the capture with one log line and nothing else: a full disk must not take the network
// away. Memory is allocated as it is needed and kept.
//
// # What a record shows
//
// A record is the frame as it crosses the switch. Large TCP segments are not cut yet and checksums may not
// be filled in yet, as in any capture on a host with offloads: tcpdump's "incorrect checksum" for
// packets of a container says only that.
//
// # Standards
//
// draft-ietf-opsawg-pcap: classic pcap, nanosecond resolution, LINKTYPE_ETHERNET, the host's byte order.
package capture

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/usernet/usernet/stack/l2"
)

const (
	// BufferSize bounds what waits for the file: some 60 of the largest frames, or 20 ms at 10 Gbit/s,
	// twice.
	BufferSize = 4 << 20
	// SnapLen is tcpdump's own maximum, more than the largest frame: 14 + 65 535 bytes.
	SnapLen = 262_144

	fileHeaderLen   = 24
	recordHeaderLen = 16
	magicNanosecond = 0xa1b23c4d
	linkEthernet    = 1

	// closeTimeout bounds how long Close waits for a file that does not take any more, such as a pipe nobody
	// reads, where the file supports deadlines.
	closeTimeout = 2 * time.Second
)

// Options configure a Writer. The zero value is ready.
type Options struct {
	Log *slog.Logger     // or nil: discard
	Now func() time.Time // or nil: time.Now
	// Resume goes on in a file that has a header already: that of a datapath which was restarted.
	Resume bool
}

// Stats count records.
type Stats struct {
	Written uint64 `json:"written"` // handed to the file
	Missed  uint64 `json:"missed"`  // left out because the file was too slow or had failed
}

// A Writer records frames. A nil *Writer records nothing, so that a port need not know whether it is captured.
// It is safe for concurrent use.
type Writer struct {
	w   io.Writer
	log *slog.Logger
	now func() time.Time

	wake chan struct{} // capacity 1: the buffer has something, or done
	wg   sync.WaitGroup

	mu sync.Mutex // innermost; held for the copy of one batch, never during a write to w
	// buf waits to be written; the goroutine exchanges it for its own empty one.
	// +checklocks:mu
	buf []byte
	// +checklocks:mu
	records uint64 // in buf
	// +checklocks:mu
	stats Stats
	// +checklocks:mu
	state state
	// +checklocks:mu
	err error // why state is failed
}

// state is what a Writer does with a record.
//
//	recording ──error of the file──► failed ──Close──► closed
//	    └──────────────Close─────────────────────────────┘
type state uint8

const (
	recording state = iota // takes records
	failed                 // counts them as missed; the file is not touched again
	closed                 // ignores them
)

// New writes the file header to w, unless it resumes, and starts recording. Close ends it; w is closed by its
// owner, after that.
func New(w io.Writer, o Options) (*Writer, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if !o.Resume {
		if err := writeHeader(w); err != nil {
			return nil, fmt.Errorf("write header of capture file: %w", err)
		}
	}
	c := &Writer{w: w, log: o.Log, now: o.Now, wake: make(chan struct{}, 1)}
	c.wg.Go(c.run)
	return c, nil
}

func writeHeader(w io.Writer) error {
	var h [fileHeaderLen]byte
	binary.NativeEndian.PutUint32(h[0:], magicNanosecond)
	binary.NativeEndian.PutUint16(h[4:], 2) // version 2.4
	binary.NativeEndian.PutUint16(h[6:], 4)
	binary.NativeEndian.PutUint32(h[16:], SnapLen)
	binary.NativeEndian.PutUint32(h[20:], linkEthernet)
	_, err := w.Write(h[:])
	return err
}

// Record appends frames to the capture. They are copied.
func (c *Writer) Record(frames []l2.Frame) {
	if c == nil || len(frames) == 0 {
		return
	}
	now := c.now()
	c.mu.Lock()
	if c.state == recording {
		for i := range frames {
			c.appendLocked(now, &frames[i])
		}
	} else if c.state == failed {
		c.stats.Missed += uint64(len(frames))
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default: // it is awake already
	}
}

// appendLocked adds one record, if there is room.
//
// Preconditions: c.mu is held.
func (c *Writer) appendLocked(now time.Time, f *l2.Frame) {
	size := l2.HeaderLen + f.Len()
	kept := min(size, SnapLen)
	if len(c.buf)+recordHeaderLen+kept > BufferSize {
		c.stats.Missed++
		return
	}
	var h [recordHeaderLen]byte
	binary.NativeEndian.PutUint32(h[0:], uint32(now.Unix()))
	binary.NativeEndian.PutUint32(h[4:], uint32(now.Nanosecond()))
	binary.NativeEndian.PutUint32(h[8:], uint32(kept))
	binary.NativeEndian.PutUint32(h[12:], uint32(size))
	end := len(c.buf) + recordHeaderLen + kept
	c.buf = append(append(c.buf, h[:]...), f.Header[:]...)
	for _, p := range f.L3 {
		c.buf = append(c.buf, p[:min(len(p), end-len(c.buf))]...)
	}
	c.records++
}

// run writes buffers to the file until the Writer is closed and all is written, or the file fails.
func (c *Writer) run() {
	var mine []byte
	for range c.wake {
		c.mu.Lock()
		mine, c.buf = c.buf, mine[:0]
		n, last := c.records, c.state == closed
		c.records = 0
		c.mu.Unlock()
		if len(mine) > 0 {
			if _, err := c.w.Write(mine); err != nil {
				c.fail(n, err)
				return
			}
			c.mu.Lock()
			c.stats.Written += n
			c.mu.Unlock()
		}
		if last {
			return
		}
	}
}

// fail ends the capture after an error of the file. n records went with it.
func (c *Writer) fail(n uint64, err error) {
	c.mu.Lock()
	c.stats.Missed += n + c.records
	c.buf, c.records = nil, 0
	c.err = fmt.Errorf("write capture file: %w", err)
	if c.state == recording {
		c.state = failed
	}
	stats := c.stats
	c.mu.Unlock()
	c.log.Error("capture ended; free the space or use another file, and start again",
		"err", err, "written", stats.Written)
}

// Stats returns the counts so far.
func (c *Writer) Stats() Stats {
	if c == nil {
		return Stats{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// Close writes what is waiting and returns the error that ended the capture, if any. Records that come later
// are ignored. It may be called more than once.
func (c *Writer) Close() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	c.state = closed
	c.mu.Unlock()
	if d, ok := c.w.(interface{ SetWriteDeadline(time.Time) error }); ok {
		// Ordinary files do not support it and do not need it.
		_ = d.SetWriteDeadline(time.Now().Add(closeTimeout))
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
	c.wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
