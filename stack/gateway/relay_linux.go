package gateway

import (
	"bytes"
	"sync"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// chunkBytes is the largest payload netstack sends as one GSO segment (sender.sendData takes its
// largest headers off GSOMaxSize). Writing exactly that much keeps it from splitting a segment and
// sending the rest alone.
const chunkBytes = gsoMaxSize - header.TCPTotalHeaderMaximumSize - 1

// pumpState says why pump stopped.
type pumpState uint8

const (
	pumpEmpty  pumpState = iota // the socket has nothing now
	pumpMore                    // its turn is over
	pumpFull                    // the endpoint's send buffer is full
	pumpEOF                     // the host sent FIN and everything before it is queued
	pumpFailed                  // either side failed
)

// pump moves what the socket holds into the endpoint until the turn is over. f.mu is held.
//
// What a socket holds that had little last time is read without asking how much it is: a request or an answer then costs one
// call instead of three. When the read gets less than it asked for, there is no more, and what comes from then on is news. Only
// urgent data ends a read early, so a flow that had some always asks.
func (f *flow) pump() (moved int, state pumpState) {
	if len(f.rest) > 0 {
		if moved, state = f.give(f.rest); state != pumpMore {
			return moved, state
		}
	}
	for !f.large && !f.urgent && f.burst == nil {
		n, state := f.pumpSmall()
		if moved += n; state != pumpMore {
			return moved, state
		}
	}
	for moved < turnBytes {
		n := 0
		if f.burst == nil {
			var err error
			if n, err = queued(f.fd); err != nil {
				return moved, pumpFailed
			}
			if n == 0 {
				f.large = moved > quietBytes
				if state := f.atEnd(); state != pumpMore {
					return moved, state
				}
				continue
			}
			if f.fill(n) != nil {
				return moved, pumpFailed
			}
		}
		n, err := f.push(n)
		switch err.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			return moved, pumpFull
		default:
			return moved, pumpFailed
		}
		moved += n
	}
	return moved, pumpMore
}

// atEnd says whether a socket that has nothing is only empty, or at its end, which SIOCINQ cannot tell.
func (f *flow) atEnd() pumpState {
	if !f.hostEnd {
		return pumpEmpty // what comes from now on is news
	}
	var b [1]byte
	switch n, err := receive(f.fd, b[:], unix.MSG_PEEK); {
	case err == unix.EAGAIN:
		return pumpEmpty
	case err == unix.EINTR:
		return pumpMore
	case err != nil:
		return pumpFailed
	case n == 0:
		return pumpEOF
	}
	return pumpMore
}

// smallReads has the memory of pumpSmall, and smallSources what an endpoint reads it by.
var (
	smallReads   = sync.Pool{New: func() any { return new([quietBytes]byte) }}
	smallSources = sync.Pool{New: func() any { return new(bytes.Reader) }}
)

// pumpSmall moves what one small read gets; pumpMore when there may be more.
func (f *flow) pumpSmall() (int, pumpState) {
	mem := smallReads.Get().(*[quietBytes]byte)
	defer smallReads.Put(mem)
	n, err := receive(f.fd, mem[:], 0)
	switch {
	case err == unix.EAGAIN:
		return 0, pumpEmpty
	case err == unix.EINTR:
		return 0, pumpMore
	case err != nil:
		return 0, pumpFailed
	case n == 0:
		return 0, pumpEOF
	}
	f.large = n == len(mem)
	n, state := f.give(mem[:n])
	if state == pumpMore && !f.large && !f.hostEnd {
		return n, pumpEmpty
	}
	return n, state
}

// give gives the endpoint what was read. What it does not take is kept in rest until it has room.
func (f *flow) give(b []byte) (int, pumpState) {
	r := smallSources.Get().(*bytes.Reader)
	defer smallSources.Put(r)
	r.Reset(b)
	defer r.Reset(nil)
	w, terr := f.ep.Write(r, tcpip.WriteOptions{})
	if _, full := terr.(*tcpip.ErrWouldBlock); terr != nil && !full {
		return 0, pumpFailed
	}
	if int(w) == len(b) {
		f.rest = nil
		return int(w), pumpMore
	}
	f.rest = bytes.Clone(b[w:])
	return int(w), pumpFull
}
