package portfwd

import (
	"context"
	"errors"
	"fmt"
	"net"
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
// a reset unless both directions ended in order.
func splice(ctx context.Context, a, b *net.TCPConn) error {
	avoidPacing(a)
	avoidPacing(b)
	j := &joint{a: a, b: b}
	stop := context.AfterFunc(ctx, func() { j.fail(errStopped) })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { j.carry(b, a) })
	j.carry(a, b)
	wg.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// avoidPacing has c sent by window alone. Both connections stay in this host's memory, where nothing is ever lost;
// where BBR is the default its timers cost half of the throughput (11 of 25 Gbit/s).
func avoidPacing(c *net.TCPConn) {
	rc, err := c.SyscallConn()
	if err != nil {
		return
	}
	// Reno is in every kernel and free to all. Without it the connection is as good, and slower.
	_ = control(rc, func(fd int) error { return unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno") })
}

// joint is two connections that are one.
type joint struct {
	a, b *net.TCPConn

	mu   sync.Mutex // a leaf
	half bool       // one direction has ended in order
	over bool       // both have, or err is set; the connections are closed
	err  error
}

// carry is the life of one direction.
func (j *joint) carry(src, dst *net.TCPConn) {
	from, err := src.SyscallConn()
	if err == nil {
		err = pumpAll(from, src, dst)
	}
	if err == nil && !j.ended() {
		err = waitOver(from)
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
	if !j.over {
		j.over = true
		j.a.Close()
		j.b.Close()
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
	for _, c := range []*net.TCPConn{j.a, j.b} {
		_ = c.SetLinger(0) // one that is gone needs no reset
		_ = c.Close()
	}
}

// turnBytes is what a direction moves before others get their turn, should it never have to wait: some 3 ms. A turn wakes
// the runtime's monitor, so that one for each MiB costs a fifth of the throughput.
const turnBytes = 8 << 20

// pump is one direction of a connection.
type pump struct {
	pipe *sys.Pipe // nil while there is nothing to move
	n    int       // moved by the last fill
	run  int       // moved since the last turn of others
	err  error     // of the last call
	more gathering // how long to wait for the source
}

// pumpAll moves everything from src to dst and tells dst the end.
func pumpAll(from syscall.RawConn, src, dst *net.TCPConn) error {
	to, err := dst.SyscallConn()
	if err != nil {
		return err
	}
	p := pump{more: gathering{from: from}}
	defer p.release()
	defer p.more.readable() // stops its timer
	fill, drain := p.fill, p.drain
	for {
		if err := from.Read(fill); err != nil {
			return err
		}
		if p.err != nil {
			return fmt.Errorf("receive from %s: %w", src.RemoteAddr(), p.err)
		}
		if p.n == 0 {
			return dst.CloseWrite()
		}
		if err := to.Write(drain); err != nil {
			return err
		}
		if p.err != nil {
			return fmt.Errorf("send to %s: %w", dst.RemoteAddr(), p.err)
		}
		if p.run += p.n; p.run >= turnBytes {
			p.run = 0
			sys.Yield()
		}
	}
}

// fill runs when the source may have something. It reports whether it got anything: data, the end, an error.
func (p *pump) fill(fd uintptr) bool {
	p.more.readable()
	if p.pipe == nil {
		if p.pipe, p.err = sys.GetPipe(); p.err != nil {
			return true
		}
	}
	p.n, p.err = p.pipe.Fill(fd)
	if p.err == unix.EAGAIN {
		p.release()
		p.more.wait()
		return false
	}
	p.more.add(fd, p.n)
	return true
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
// error when it was reset.
func waitOver(rc syscall.RawConn) error {
	var reset error
	err := rc.Read(func(fd uintptr) bool {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			reset = err
			return true
		}
		if info.State != unix.BPF_TCP_CLOSE {
			return false
		}
		if errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil && errno != 0 {
			reset = syscall.Errno(errno)
		}
		return true
	})
	if errors.Is(err, net.ErrClosed) {
		return nil // the other direction has ended too
	}
	return errors.Join(err, reset)
}
