package dnsproxy

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"io"
	"slices"
	"sync"
	"time"
)

// replyBufs hold one datagram of an upstream each. We announce 1232 bytes; a longer one than
// 4096 is cut by the kernel, fails the check of its sections and is ignored.
var replyBufs = sync.Pool{New: func() any { b := make([]byte, 4096); return &b }}

// result is the end of one try. A nil reply means the upstream cannot be asked.
type result struct {
	t     *try
	reply []byte
}

// final reports whether the client should have this reply, rather than the next upstream be asked.
func (r result) final() bool {
	switch rcodeOf(r.reply) {
	case rcodeServFail, rcodeRefused, rcodeNotImp:
		return false
	}
	return true
}

// try is one upstream asked on behalf of one flight: one socket, one id. Asking the upstream again
// sends the same message from the same socket, so that waiting longer does not give a
// forger more ids to hit.
type try struct {
	up   *upstream
	msg  []byte
	sock socket // nil until asked
	over bool   // has given its result
}

// socket is how one upstream is asked.
type socket interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

// dial begins to ask an upstream, in the Network or from the host.
func (s *Server) dial(ctx context.Context, network string, up *upstream) (socket, error) {
	switch {
	case up.inside:
		return s.env.Inside(ctx, network, up.addr)
	case network == "tcp":
		return dialTCP(ctx, up.addr)
	}
	return dialUDP(up.addr)
}

// forward asks the upstreams until one gives an answer, and returns nil when none does in time.
func (s *Server) forward(ctx context.Context, f *flight, ups []*upstream) []byte {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	ring, probes := order(ups, time.Now(), s.time.down)
	s.probe(f, probes)
	tries := make([]try, len(ring))
	for i, u := range ring {
		tries[i].up = u
	}
	results := make(chan result, len(ring))
	timer := time.NewTimer(s.time.try)
	defer timer.Stop()
	var second []byte // an upstream's refusal: better than one of ours
	for turn := 0; ; turn++ {
		t := nextTry(tries, turn)
		if t == nil {
			return second
		}
		s.ask(ctx, f, t, &wg, results)
		timer.Reset(s.time.try)
		select {
		case r := <-results:
			r.t.over = true
			if r.reply == nil {
				s.upstreamFailed(r.t.up)
				continue
			}
			s.upstreamAnswered(r.t.up)
			if r.final() {
				return r.reply
			}
			second = r.reply
		case <-timer.C:
			s.upstreamFailed(t.up)
			if second != nil && allAsked(tries) {
				return second
			}
		case <-ctx.Done():
			return second
		}
	}
}

// nextTry returns the try whose turn it is, leaving out those that are over; nil when all are.
func nextTry(tries []try, turn int) *try {
	for i := range tries {
		if t := &tries[(turn+i)%len(tries)]; !t.over {
			return t
		}
	}
	return nil
}

// allAsked reports whether no upstream is left that has not had its chance.
func allAsked(tries []try) bool {
	return !slices.ContainsFunc(tries, func(t try) bool { return t.sock == nil && !t.over })
}

// ask sends t's message, for the first time or again.
func (s *Server) ask(ctx context.Context, f *flight, t *try, wg *sync.WaitGroup, results chan<- result) {
	if t.sock != nil {
		// An error here is found by the reader of the socket as well.
		_, _ = t.sock.Write(t.msg)
		return
	}
	id := randomID()
	t.msg = f.q.appendUpstream(nil, id)
	s.flight.asked(f, id)
	sock, err := s.dial(ctx, "udp", t.up)
	if err != nil {
		results <- result{t, nil}
		return
	}
	t.sock = sock
	_, err = sock.Write(t.msg)
	if err != nil {
		sock.Close()
		results <- result{t, nil}
		return
	}
	wg.Go(func() { results <- result{t, s.await(ctx, sock, t.up, t.msg)} })
}

// await reads sock until the answer to msg comes, and asks again over TCP when that is truncated.
// What does not match is not an error: it may be forged, and the answer still come.
func (s *Server) await(ctx context.Context, sock socket, up *upstream, msg []byte) []byte {
	stop := context.AfterFunc(ctx, func() { sock.SetDeadline(time.Unix(1, 0)) })
	defer sock.Close()
	defer stop()
	buf := replyBufs.Get().(*[]byte)
	defer replyBufs.Put(buf)
	for {
		n, err := sock.Read(*buf)
		if n == 0 && err != nil && !isEmptyDatagram(err) {
			return nil
		}
		if !answers((*buf)[:n], msg) {
			continue
		}
		reply := append([]byte(nil), (*buf)[:n]...)
		if !truncated(reply) {
			return reply
		}
		if whole := s.askTCP(ctx, up, msg); whole != nil {
			return whole
		}
		return reply
	}
}

// askTCP asks an upstream over TCP; nil when that fails or takes longer than a try.
func (s *Server) askTCP(ctx context.Context, up *upstream, msg []byte) []byte {
	ctx, cancel := context.WithTimeout(ctx, s.time.try)
	defer cancel()
	sock, err := s.dial(ctx, "tcp", up)
	if err != nil {
		return nil
	}
	defer sock.Close()
	stop := context.AfterFunc(ctx, func() { sock.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := sock.Write(appendFramed(nil, msg)); err != nil {
		return nil
	}
	in := splitter{r: sock}
	reply, err := in.next(nil)
	if err != nil || !answers(reply, msg) {
		return nil
	}
	return reply
}

// probe sends f's question to upstreams that are down, to learn whether they are back. Nobody waits for the
// answer, and the flight may end before it comes.
func (s *Server) probe(f *flight, ups []*upstream) {
	for _, u := range ups {
		s.flight.wg.Go(func() {
			ctx, cancel := context.WithTimeout(s.ctx, s.time.try)
			defer cancel()
			var wg sync.WaitGroup
			defer wg.Wait()
			results := make(chan result, 1)
			s.ask(ctx, f, &try{up: u}, &wg, results)
			if r := <-results; r.reply != nil {
				s.upstreamAnswered(u)
			}
		})
	}
}

func (s *Server) upstreamFailed(u *upstream) {
	if u.failed(time.Now().Add(s.time.down)) {
		s.log.Warn("dns upstream does not answer", "upstream", u.addr)
	}
}

func (s *Server) upstreamAnswered(u *upstream) {
	if u.answered() {
		s.log.Info("dns upstream answers again", "upstream", u.addr)
	}
}

// randomID must not be guessable: with the port it is all that keeps an answer from being forged.
func randomID() uint16 {
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails; the program would have ended
	return binary.BigEndian.Uint16(b[:])
}
