package portfwd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
)

// Two TCP sockets of the kernel, joined.
//
// # Theory of operation
//
// One goroutine for each direction moves what has come from its source into a pipe, and from there to the other
// socket, by splice(2): the kernel passes pages on and copies nothing. A direction that waits has no pipe; it takes one
// when there is something and gives it back when there is nothing more (sys.Pipe), so an idle connection costs two
// goroutines. One that streams waits for more than a segment at a time (gathering).
//
// What one side does, the other side sees:
//
//	end of stream ──► shutdown of writing there; the other direction goes on (half-close)
//	reset, error  ──► a reset to both
//
// A side may send its end and be reset after it. Nobody reads from it any more then, so the goroutine of that
// direction goes on to wait until its source's connection is over, which the poller tells it like data.

// errStopped says that the connection was ended here.
var errStopped = errors.New("the port is not published any more")

// splice joins a and b until both directions have ended, one side was reset, or ctx ends. Both are closed then, with
// a reset unless both directions ended in order; a socket of a maker goes back to it.
func splice(ctx context.Context, a, b *conn) error {
	j := &joint{a: a, b: b}
	stop := context.AfterFunc(ctx, func() { j.fail(errStopped) })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { j.carry(b, a) })
	j.carry(a, b)
	wg.Wait()
	for _, c := range j.reusable {
		spares.keep(c)
	}
	return j.err
}

// streamBytes go before a direction counts as a stream and is sent without pacing: a short one is spared the call.
const streamBytes = 256 << 10

// lookBytes is so little that what moved no more has most likely moved all there was. A look for more, as good as always in vain, then
// takes one call; without it, splice's EAGAIN and what tells that from urgent data take two.
const lookBytes = 16 << 10

// avoidPacing has the socket of c sent by window alone. Both connections stay in this host's memory; BBR's timers cost half of the
// throughput (11 of 25 Gbit/s).
func avoidPacing(c *conn) {
	_ = control(c.raw, func(fd int) error {
		sys.AvoidPacing(fd)
		return nil
	})
}

// joint is two connections that are one.
type joint struct {
	a, b *conn

	mu       sync.Mutex // a leaf
	half     bool       // one direction has ended in order
	over     bool       // both have, or err is set; the connections are closed, but for those in reusable
	err      error
	reusable []*conn
}

// carry is the life of one direction.
func (j *joint) carry(src, dst *conn) {
	err := pumpAll(src, dst)
	if err == nil && !j.ended() {
		err = waitOver(src.raw)
	}
	if err != nil {
		j.fail(err)
	}
}

// ended notes that a direction has ended in order, and reports whether it was the second one. What is still on its
// way then is the kernel's to deliver.
func (j *joint) ended() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.half {
		j.half = true
		return false
	}
	if j.over {
		return true
	}
	j.over = true
	for _, c := range []*conn{j.a, j.b} {
		// The other direction may wait for the connection to be over, and sees that by itself when it is.
		if c.home != nil && c.isOver() {
			j.reusable = append(j.reusable, c)
			continue
		}
		_ = c.Close()
	}
	return true
}

// fail resets both sides, unless all is over.
func (j *joint) fail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.over {
		return
	}
	j.over, j.err = true, err
	j.a.reset()
	j.b.reset()
}

// turnBytes is what a direction moves before others get their turn, should it never have to wait: some 3 ms. A turn wakes
// the runtime's monitor, so that one for each MiB costs a fifth of the throughput.
const turnBytes = 8 << 20

// lingerAfter is how many messages go in one direction before it makes the process linger. A connection with one question and one
// answer is no faster for it, and with many a round trip takes 0.71 of the time (medians of 24, in turns).
const lingerAfter = 8

// pump is one direction of a connection.
type pump struct {
	pipe  *sys.Pipe // nil while there is nothing to move
	n     int       // moved by the last fill
	run   int       // moved since the last turn of others
	fills int       // up to lingerAfter
	moved int       // in all, up to streamBytes
	look  bool      // whether there is anything, before a pipe is taken for it
	err   error     // of the last call
	more  gathering // how long to wait for the source
}

// pumpAll moves everything from src to dst and tells dst the end.
func pumpAll(src, dst *conn) error {
	p := pump{more: gathering{from: src.raw}}
	defer p.release()
	defer p.more.readable() // stops its timer
	fill, drain := p.fill, p.drain
	for {
		p.look = p.n <= lookBytes
		if err := src.raw.Read(fill); err != nil {
			return err
		}
		if p.err != nil {
			return fmt.Errorf("receive from %s: %w", src.peer, p.err)
		}
		if p.n == 0 {
			return dst.closeWrite()
		}
		if p.streams() {
			src.took, dst.gave = true, true
			avoidPacing(dst)
		}
		if err := dst.raw.Write(drain); err != nil {
			return err
		}
		if p.err != nil {
			return fmt.Errorf("send to %s: %w", dst.peer, p.err)
		}
		p.others()
	}
}

// streams reports, once, that the direction has become a stream.
func (p *pump) streams() bool {
	if p.moved >= streamBytes {
		return false
	}
	p.moved += p.n
	return p.moved >= streamBytes
}

// others is called when all of a fill has gone: who has moved much lets others run, and where small messages follow each other the next
// is looked for before the process sleeps.
func (p *pump) others() {
	if p.run += p.n; p.run >= turnBytes {
		p.run = 0
		sys.Yield()
	}
	if p.fills < lingerAfter {
		p.fills++
		return
	}
	sys.Linger(p.n)
}

// fill runs when the source may have something. It reports whether it got anything: data, the end, an error.
func (p *pump) fill(fd uintptr) bool {
	p.more.readable()
	if p.look {
		p.look = false
		switch p.n, p.err = sys.Peek(fd); {
		case p.err == unix.EAGAIN:
			p.nothing()
			return false
		case p.err != nil, p.n == 0:
			return true
		}
	}
	if p.pipe == nil {
		if p.pipe, p.err = sys.GetPipe(); p.err != nil {
			return true
		}
	}
	p.n, p.err = p.pipe.Fill(fd)
	if p.err == unix.EAGAIN {
		p.nothing()
		return false
	}
	p.more.add(fd, p.n)
	return true
}

// nothing is called before the pump waits for its source.
func (p *pump) nothing() {
	p.release()
	p.more.wait()
}

// drain runs when the destination may have room, and reports whether everything has gone.
func (p *pump) drain(fd uintptr) bool {
	_, p.err = p.pipe.Drain(fd)
	return p.err != unix.EAGAIN
}

func (p *pump) release() {
	if p.pipe != nil {
		p.pipe.Put()
		p.pipe = nil
	}
}

// waitOver waits until the connection of a socket that has received the end of its stream is over, which is an
// error when it was reset. When both directions have ended it may be closed, which is an error that nobody looks at.
func waitOver(rc syscall.RawConn) error {
	var reset error
	err := rc.Read(func(fd uintptr) bool {
		over, err := isOver(int(fd))
		if over {
			err = pendingError(int(fd))
		}
		reset = err
		return over || err != nil
	})
	return errors.Join(err, reset)
}
