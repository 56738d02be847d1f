package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// flow joins a netstack endpoint (the container's side) and a host socket.
//
// # Theory of operation
//
// up carries container to host. Read with Peek lists the queued segments' memory; writev sends it
// to the socket with no lock held; a second Read consumes exactly what was written, which is what
// opens the container's window. The memory stays valid between the two because netstack frees
// queued segments only when they are read or when the endpoint is closed, and the endpoint is
// closed only after both goroutines ended. That order must not change: it is what keeps one
// container's bytes out of another's connection.
//
// down carries host to container. It asks the socket how much there is and lets netstack read that
// much straight into the memory of a new segment (tcpip.Payloader).
//
// # States
//
//	         EOF from container                 EOF from host
//	open ──────────────────────► up ended ──────────────────────► closed: Close, FINs went out
//	  │                          down ended ◄── the other order
//	  └── reset or error on either side ──► killed: RST to both
//
// Each direction ends on its own (half-close). kill is the only way to interrupt the other one: it
// resets the host socket, which unblocks both its reads and writes, and closes done.
type flow struct {
	wq   waiter.Queue
	ep   tcpip.Endpoint
	conn *net.TCPConn

	once   sync.Once
	done   chan struct{} // closed by kill
	killed bool          // written in once, read when both directions have ended

	downEnded chan struct{} // closed when down returns
	source    socketSource
}

// gatherBytes bounds one writev. More would only delay the window update to the container.
const gatherBytes = 256 << 10

// run relays until both directions have ended and the flow's resources are free. ctx kills the flow
// when it ends. The caller's goroutine becomes that of up, so that a flow costs two and no third that
// only waits.
func (f *flow) run(ctx context.Context, ep tcpip.Endpoint, conn *net.TCPConn) {
	f.ep, f.conn = ep, conn
	f.done = make(chan struct{})
	f.downEnded = make(chan struct{})
	unhook := context.AfterFunc(ctx, f.kill)
	go f.down()
	f.up()
	<-f.downEnded
	if !unhook() {
		<-f.done // kill is on its way, or was
	}
	if f.killed {
		f.ep.Abort()
		return
	}
	f.conn.Close()
	f.ep.Close()
}

// kill resets both sides. It is safe to call from any goroutine, more than once.
func (f *flow) kill() {
	f.once.Do(func() {
		f.killed = true
		reset(f.conn)
		close(f.done)
	})
}

// up relays container to host until EOF or error.
func (f *flow) up() {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	f.wq.EventRegister(&entry)
	defer f.wq.EventUnregister(&entry)
	rc, err := f.conn.SyscallConn()
	if err != nil {
		f.kill()
		return
	}
	for {
		err := f.upOnce(rc)
		switch err.(type) {
		case nil:
			continue
		case *tcpip.ErrWouldBlock:
			select {
			case <-ready:
			case <-f.done:
				return
			}
		case *tcpip.ErrClosedForReceive:
			if f.conn.CloseWrite() != nil {
				f.kill()
			}
			f.watch(ready)
			return
		default:
			f.kill()
			return
		}
	}
}

// upOnce relays what the container has sent by now. Its memory is borrowed, so that a flow that waits has
// none of it on its stack.
func (f *flow) upOnce(rc syscall.RawConn) tcpip.Error {
	g := gathers.Get().(*gather)
	defer g.release()
	if _, err := f.ep.Read(g, tcpip.ReadOptions{Peek: true}); err != nil {
		return err
	}
	if !g.writeQuietly(rc) {
		g.bufs = g.parts
		if _, err := g.bufs.WriteTo(f.conn); err != nil {
			return &tcpip.ErrConnectionReset{}
		}
	}
	consume := discard(g.n)
	_, err := f.ep.Read(&consume, tcpip.ReadOptions{})
	return err
}

// watch stays after the container's FIN, while down still carries data: a reset from the container
// would otherwise go unnoticed until the host sends something.
func (f *flow) watch(ready <-chan struct{}) {
	for {
		select {
		case <-ready:
		case <-f.done:
			return
		case <-f.downEnded:
			return
		}
		_, err := f.ep.Read(io.Discard, tcpip.ReadOptions{Peek: true})
		if _, eof := err.(*tcpip.ErrClosedForReceive); err != nil && !eof {
			f.kill()
			return
		}
	}
}

// gather collects the memory of queued segments up to a bound, as an io.Writer that copies nothing.
type gather struct {
	parts [][]byte
	n     int
	mem   [64][]byte

	bufs  net.Buffers      // what of parts is still to be written
	quiet func(fd uintptr) // sendQuietly, bound once
	sent  int              // by the last sendQuietly
}

var (
	gathers       = sync.Pool{New: newGather}
	errGatherFull = errors.New("gather is full")
)

func (g *gather) release() {
	clear(g.mem[:len(g.parts)])
	g.parts, g.bufs, g.n = g.mem[:0], nil, 0
	gathers.Put(g)
}

func newGather() any {
	g := new(gather)
	g.parts, g.quiet = g.mem[:0], g.sendQuietly
	return g
}

// Write notes b. It is valid until the segments are consumed.
func (g *gather) Write(b []byte) (int, error) {
	if len(g.parts) == len(g.mem) || g.n >= gatherBytes {
		return 0, errGatherFull
	}
	g.parts = append(g.parts, b)
	g.n += len(b)
	return len(b), nil
}

// discard is an io.Writer that takes that many bytes and no more.
type discard int

func (d *discard) Write(b []byte) (int, error) {
	if len(b) > int(*d) {
		n := int(*d)
		*d = 0
		return n, io.ErrShortWrite
	}
	*d -= discard(len(b))
	return len(b), nil
}
