package gateway

import (
	"io"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// # Theory of operation
//
// What a host socket has goes to the container in one of two ways.
//
// A little is read straight into the memory of a new segment: netstack asks a tcpip.Payloader for as many bytes as
// the endpoint has room for, and that reads them from the socket.
//
// Much, more than one segment, is read at once into a burst, and copied from there. The copy costs less than what it
// spares. Each read from a full socket sends an ACK; the sender answers that with its next segments, and all of that
// runs on our thread before the read returns. So sixteen reads are sixteen times that, and one large one is one. And
// the container's reader is woken by the first of sixteen segments and then finds the rest, instead of being woken for each. A
// megabyte instead of 64 KiB at a time: one stream 1.2 to 1.3 times as fast for 0.7 of the CPU per GB, four streams 1.4 for 0.6
// (medians of alternating runs, 2 CPUs; 256 KiB and 512 KiB are between).
//
// What the endpoint has no room for stays in the burst until it has. There are few bursts for all Networks of the process, so
// that slow readers cannot hold much; a flow that gets none goes the first way. A container may hold as many as are left for the
// others (dynamic thresholds, as in package quota), so that one whose readers are slow, or never read, does not take them from its
// neighbours.

const (
	// burstBytes is sixteen of the largest segments, and what fits into maxSend.
	burstBytes = 16 * chunkBytes
	// maxBursts is how many flows hold one at a time, half of them those of a container that is alone. A flow gives it back as
	// soon as it is empty, so that those which wait for their containers' readers have them.
	maxBursts = 32
)

// burst is memory for what was read from a host socket and is not yet in an endpoint.
type burst struct {
	rest []byte // of mem
	mem  [burstBytes]byte
}

// bursts are those that nobody holds. An idle process has none: the collector takes them.
var bursts = sync.Pool{New: func() any { return new(burst) }}

// burstQuota counts the bursts that flows hold.
type burstQuota struct {
	mu   sync.Mutex    // a leaf
	all  int           // guarded by mu
	held map[owner]int // guarded by mu; by their containers
}

// take returns an empty burst, or nil when o holds as many as are left.
func (q *burstQuota) take(o owner) *burst {
	if !q.admit(o) {
		return nil
	}
	return bursts.Get().(*burst)
}

func (q *burstQuota) admit(o owner) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.held[o] >= maxBursts-q.all {
		return false
	}
	if q.held == nil {
		q.held = make(map[owner]int)
	}
	q.held[o]++
	q.all++
	return true
}

// release takes back a burst of o.
func (q *burstQuota) release(o owner, b *burst) {
	b.rest = nil
	bursts.Put(b)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.all--
	if q.held[o]--; q.held[o] == 0 {
		delete(q.held, o)
	}
}

// source is what an endpoint is given to send: the next bytes of a socket, or of a burst. It is a tcpip.Payloader.
// left never exceeds what the socket has, so Read finds it; Read(nil) returns 0 and no error, because netstack probes for
// the end of input that way.
type source struct {
	fd   int
	left int
	rest []byte // of a burst; nil: read from the socket
}

// Len implements tcpip.Payloader.
func (s *source) Len() int { return s.left }

// Read implements io.Reader.
func (s *source) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if s.left == 0 {
		return 0, io.EOF
	}
	if s.rest != nil {
		n := copy(b, s.rest)
		s.rest = s.rest[n:]
		s.left -= n
		return n, nil
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

// fill reads into a burst when the socket has more than a segment and the endpoint could take it.
func (f *flow) fill(queued int) error {
	want := min(queued, burstBytes, int(f.ep.SocketOptions().GetSendBufferSize()))
	if want <= chunkBytes {
		return nil
	}
	b := f.g.cfg.Shared.bursts.take(f.container())
	if b == nil {
		return nil
	}
	for {
		n, err := receive(f.fd, b.mem[:want], 0)
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			f.g.cfg.Shared.bursts.release(f.container(), b)
			return err
		}
		b.rest = b.mem[:n]
		f.burst = b
		return nil
	}
}

// push gives the endpoint what is in the burst, or else a segment of what the socket has, and returns how much it took.
func (f *flow) push(queued int) (int, tcpip.Error) {
	f.source = source{fd: f.fd, left: min(queued, chunkBytes)}
	if f.burst != nil {
		f.source = source{rest: f.burst.rest, left: len(f.burst.rest)}
	}
	want := f.source.left
	// Atomic: the endpoint is not unlocked while it reads, which does not wait.
	n, err := f.ep.Write(&f.source, tcpip.WriteOptions{Atomic: true})
	f.source.rest = nil
	if err != nil {
		return 0, err
	}
	if int(n) != want-f.source.left {
		return 0, &tcpip.ErrBadBuffer{} // it has read more than it took: those bytes are lost
	}
	if f.burst != nil {
		if f.burst.rest = f.burst.rest[n:]; len(f.burst.rest) == 0 {
			f.dropBurst()
		}
	}
	return int(n), nil
}

// container is who is charged for f among all Networks.
func (f *flow) container() owner { return owner{f.g, f.owner} }

func (f *flow) dropBurst() {
	if f.burst != nil {
		f.g.cfg.Shared.bursts.release(f.container(), f.burst)
		f.burst = nil
	}
}
