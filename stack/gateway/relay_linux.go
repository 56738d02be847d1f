package gateway

import (
	"io"
	"syscall"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/waiter"
)

// chunkBytes is the largest payload netstack sends as one GSO segment (sender.sendData takes its
// largest headers off GSOMaxSize). Writing exactly that much keeps it from splitting a segment and
// sending the rest alone.
const chunkBytes = gsoMaxSize - header.TCPTotalHeaderMaximumSize - 1

// pumpState says why pump stopped.
type pumpState uint8

const (
	pumpEmpty  pumpState = iota // the socket has nothing now
	pumpFull                    // the endpoint's send buffer is full
	pumpEOF                     // the host sent FIN and everything before it is queued
	pumpFailed                  // either side failed
)

// down relays host to container until EOF or error.
func (f *flow) down() {
	defer close(f.downEnded)
	entry, writable := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	f.wq.EventRegister(&entry)
	defer f.wq.EventUnregister(&entry)
	rc, err := f.conn.SyscallConn()
	if err != nil {
		f.kill()
		return
	}
	state := pumpEmpty
	// Inside the callback the descriptor cannot be closed or reused. Returning false parks this
	// goroutine in the poller until the socket is readable.
	step := func(fd uintptr) bool {
		state = f.pump(int(fd))
		return state != pumpEmpty
	}
	for {
		if err := rc.Read(step); err != nil {
			f.kill()
			return
		}
		switch state {
		case pumpFull:
			select {
			case <-writable:
			case <-f.done:
				return
			}
		case pumpEOF:
			if f.ep.Shutdown(tcpip.ShutdownWrite) != nil {
				f.kill()
			}
			return
		case pumpFailed:
			f.kill()
			return
		}
	}
}

// pump moves what the socket holds into the endpoint, a segment at a time.
func (f *flow) pump(fd int) pumpState {
	for {
		n, err := queued(fd)
		if err != nil {
			return pumpFailed
		}
		if n == 0 {
			// SIOCINQ cannot tell an empty socket from its end.
			var b [1]byte
			switch n, err := receive(fd, b[:], unix.MSG_PEEK); {
			case err == unix.EAGAIN:
				return pumpEmpty
			case err == unix.EINTR:
				continue
			case err != nil:
				return pumpFailed
			case n == 0:
				return pumpEOF
			}
			continue
		}
		f.source = socketSource{fd: fd, left: min(n, chunkBytes)}
		want := f.source.left
		w, terr := f.ep.Write(&f.source, tcpip.WriteOptions{})
		switch terr.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			return pumpFull
		default:
			return pumpFailed
		}
		if int(w) != want-f.source.left {
			return pumpFailed // bytes read from the socket that netstack did not take are lost
		}
	}
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
