package gateway

import (
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
func (f *flow) pump() (moved int, state pumpState) {
	for moved < turnBytes {
		n := 0
		if f.burst == nil {
			var err error
			if n, err = queued(f.fd); err != nil {
				return moved, pumpFailed
			}
			if n == 0 {
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

// atEnd says whether a socket that has nothing is empty for now, or at its end, which SIOCINQ cannot tell.
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
