package load

import (
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The first byte of a connection; see the package comment.
const (
	cmdEcho     = 'E'
	cmdUpload   = 'U'
	cmdDownload = 'D'
	cmdIdle     = 'I'
)

// streamHeader says how long a stream is warmed up and then counted.
type streamHeader struct{ Warm, Window time.Duration }

const headerLen = 16

func (h streamHeader) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(h.Warm))
	return binary.BigEndian.AppendUint64(b, uint64(h.Window))
}

func readHeader(c socket) (h streamHeader, err error) {
	var b [headerLen]byte
	if err := c.readFull(b[:]); err != nil {
		return h, err
	}
	h.Warm = time.Duration(binary.BigEndian.Uint64(b[:]))
	h.Window = time.Duration(binary.BigEndian.Uint64(b[8:]))
	return h, nil
}

// streamResult is what a receiver saw.
type streamResult struct {
	Counted uint64        // bytes in the window
	Elapsed time.Duration // the window's real length: it ends with the read that passes its end
	Total   uint64        // bytes, the warm-up's too
}

// rate is in bytes per second.
func (r streamResult) rate() float64 {
	if r.Elapsed == 0 {
		return 0
	}
	return float64(r.Counted) / r.Elapsed.Seconds()
}

const resultLen = 24

func (r streamResult) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, r.Counted)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Elapsed))
	return binary.BigEndian.AppendUint64(b, r.Total)
}

func readResult(c socket) (r streamResult, err error) {
	var b [resultLen]byte
	if err := c.readFull(b[:]); err != nil {
		return r, err
	}
	r.Counted = binary.BigEndian.Uint64(b[:])
	r.Elapsed = time.Duration(binary.BigEndian.Uint64(b[8:]))
	r.Total = binary.BigEndian.Uint64(b[16:])
	return r, nil
}

var errShort = errors.New("stream ended before its window")

// receive counts what arrives on c until the window is over.
func receive(c socket, h streamHeader, buf []byte) (r streamResult, err error) {
	var first, start time.Time // of the stream, and of the window
	for {
		n, err := c.read(buf)
		if err != nil {
			return r, err
		}
		if n == 0 {
			return r, errShort
		}
		now := time.Now()
		r.Total += uint64(n)
		switch {
		case first.IsZero():
			first = now
		case start.IsZero():
			if now.Sub(first) >= h.Warm {
				start = now // this read began before the window
			}
		default:
			r.Counted += uint64(n)
			if r.Elapsed = now.Sub(start); r.Elapsed >= h.Window {
				return r, nil
			}
		}
	}
}

// streams runs n streams at once and sums them up: bytes per second, how far the one furthest from their mean is
// from it as a part of it, and all bytes.
func streams(to netip.AddrPort, down bool, n int, h streamHeader) (rate, unfair float64, total uint64, err error) {
	results, errs := make([]streamResult, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if down {
				results[i], errs[i] = download(to, h)
			} else {
				results[i], errs[i] = upload(to, h)
			}
		})
	}
	wg.Wait()
	for _, r := range results {
		rate += r.rate()
		total += r.Total
	}
	if mean := rate / float64(n); mean > 0 {
		for _, r := range results {
			unfair = max(unfair, math.Abs(r.rate()-mean)/mean)
		}
	}
	return rate, unfair, total, errors.Join(errs...)
}

func upload(to netip.AddrPort, h streamHeader) (r streamResult, err error) {
	c, err := dial(unix.SOCK_STREAM, to)
	if err != nil {
		return r, err
	}
	defer c.reset()
	if err := c.write(append([]byte{cmdUpload}, h.encode()...)); err != nil {
		return r, err
	}
	var done atomic.Bool
	var sent error
	var wg sync.WaitGroup
	wg.Go(func() {
		for buf := make([]byte, chunk); !done.Load() && sent == nil; {
			sent = c.write(buf)
		}
	})
	// The receiver's silence lasts the whole stream, longer than ioTimeout may be.
	tv := unix.NsecToTimeval(int64(h.Warm + h.Window + ioTimeout))
	_ = unix.SetsockoptTimeval(int(c), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	r, err = readResult(c)
	done.Store(true)
	wg.Wait()
	return r, errors.Join(err, sent)
}

func download(to netip.AddrPort, h streamHeader) (r streamResult, err error) {
	c, err := dial(unix.SOCK_STREAM, to)
	if err != nil {
		return r, err
	}
	defer c.reset()
	if err := c.write(append([]byte{cmdDownload}, h.encode()...)); err != nil {
		return r, err
	}
	return receive(c, h, make([]byte, chunk))
}
