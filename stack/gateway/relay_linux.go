package gateway

import (
	"io"
	"syscall"

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

// pump moves what the socket holds into the endpoint, a segment at a time, until the turn is over.
func (f *flow) pump() (moved int, state pumpState) {
	for moved < turnBytes {
		n, err := queued(f.fd)
		if err != nil {
			return moved, pumpFailed
		}
		if n == 0 {
			if !f.hostEnd {
				return moved, pumpEmpty // what comes from now on is news
			}
			// SIOCINQ cannot tell an empty socket from its end.
			var b [1]byte
			switch n, err := receive(f.fd, b[:], unix.MSG_PEEK); {
			case err == unix.EAGAIN:
				return moved, pumpEmpty
			case err == unix.EINTR:
				continue
			case err != nil:
				return moved, pumpFailed
			case n == 0:
				return moved, pumpEOF
			}
			continue
		}
		f.source = socketSource{fd: f.fd, left: min(n, chunkBytes)}
		want := f.source.left
		w, terr := f.ep.Write(&f.source, tcpip.WriteOptions{})
		switch terr.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			return moved, pumpFull
		default:
			return moved, pumpFailed
		}
		if int(w) != want-f.source.left {
			return moved, pumpFailed // bytes read from the socket that netstack did not take are lost
		}
		moved += int(w)
	}
	return moved, pumpMore
}

// socketSource lets netstack read from a socket straight into a segment's memory. It is a
// tcpip.Payloader. left never exceeds what SIOCINQ promised, so Read finds it; Read(nil)
// returns 0 and no error, because netstack probes for the end of input that way.
type socketSource struct {
	fd   int
	left int
}

// Len implements tcpip.Payloader.
func (s *socketSource) Len() int { return s.left }

// Read implements io.Reader.
func (s *socketSource) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if s.left == 0 {
		return 0, io.EOF
	}
	if len(b) > s.left {
		b = b[:s.left]
	}
	for {
		n, err := receive(s.fd, b, 0)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.ErrUnexpectedEOF
		default:
			s.left -= n
			return n, nil
		}
	}
}
