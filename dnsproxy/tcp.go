package dnsproxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/quota"
)

// conns bounds and owns the connections of TCP clients.
type conns struct {
	wg   sync.WaitGroup // one for each connection
	pool *quota.Pool    // of what all Servers together may have open

	// mu guards the rest.
	mu        sync.Mutex
	closed    bool
	client    map[client]*quota.Share
	open      map[net.Conn]struct{}
	listeners map[net.Listener]struct{}
}

// ServeTCP accepts connections on l until Close, when it returns nil, or until l fails. It closes l.
// A connection over the limits is closed at once.
func (s *Server) ServeTCP(l net.Listener) error {
	defer l.Close()
	if !s.conns.listen(l) {
		return nil
	}
	defer s.conns.unlisten(l)
	for {
		c, err := l.Accept()
		if err != nil {
			if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("accept dns connection: %w", err)
		}
		s.ServeConn(c)
	}
}

// ServeConn serves one connection in a goroutine of the Server's and closes it, for callers that
// accept connections themselves. Over the limits it is closed at once.
func (s *Server) ServeConn(c net.Conn) {
	if !s.conns.admit(c, s.clientOf(addrOf(c)), func() { newStream(s, c).run() }) {
		s.env.Drops.Add(drop.DNSLimit)
		c.Close()
	}
}

// admit counts c and starts serve, unless a limit is reached.
func (t *conns) admit(c net.Conn, who client, serve func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	share := t.client[who]
	if share == nil {
		share = t.pool.Share()
	}
	if t.closed || share.Held() >= maxConnsPerClient {
		return false
	}
	if _, ok := share.Take(); !ok {
		return false
	}
	if t.open == nil {
		t.open, t.client = make(map[net.Conn]struct{}), make(map[client]*quota.Share)
	}
	t.open[c], t.client[who] = struct{}{}, share
	t.wg.Go(func() {
		defer t.leave(c, who)
		serve()
	})
	return true
}

func (t *conns) leave(c net.Conn, who client) {
	c.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, c)
	share := t.client[who]
	if share.Give(); share.Held() == 0 {
		delete(t.client, who)
	}
}

func (t *conns) listen(l net.Listener) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	if t.listeners == nil {
		t.listeners = make(map[net.Listener]struct{})
	}
	t.listeners[l] = struct{}{}
	return true
}

func (t *conns) unlisten(l net.Listener) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.listeners, l)
}

// shut closes everything; admit and listen refuse from now on.
func (t *conns) shut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for l := range t.listeners {
		l.Close()
	}
	for c := range t.open {
		c.Close()
	}
}

// stream is the connection of one TCP client.
//
// Two goroutines serve it: run reads queries, write sends answers in the order they become ready
// (RFC 7766 §7). An answer counts as in flight until it is written, so a client that asks
// and does not read holds no more memory than its queries in flight.
type stream struct {
	s      *Server
	c      net.Conn
	client netip.Addr
	// out has room for every answer the connection can get, so putting one in never blocks.
	out         chan outgoing
	outstanding atomic.Int32
	answered    sync.WaitGroup // one for each query whose answer is not written
}

type outgoing struct {
	msg  []byte
	sent func()
}

func newStream(s *Server, c net.Conn) *stream {
	return &stream{s: s, c: c, client: addrOf(c), out: make(chan outgoing, maxQueriesPerConn)}
}

// run serves the connection to its end.
func (t *stream) run() {
	var writer sync.WaitGroup
	writer.Go(t.write)
	err := t.read()
	if err != nil && !errors.Is(err, errEnough) {
		// The client is gone or breaks the protocol; what is still in flight has no reader.
		t.c.Close()
	}
	t.answered.Wait()
	close(t.out)
	writer.Wait()
	if errors.Is(err, errEnough) {
		t.linger()
	}
}

// errEnough ends a connection whose client has asked all it may.
var errEnough = errors.New("queries used up")

// maxLinger is how many bytes such a client may still send.
const maxLinger = 256 << 10

// linger ends our side and takes what the client still sends: closing at once would answer that with
// a reset, which makes the client's kernel throw away answers it has not read.
func (t *stream) linger() {
	if c, ok := t.c.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		_ = t.c.SetReadDeadline(time.Now().Add(t.s.time.idle))
		_, _ = io.CopyN(io.Discard, t.c, maxLinger)
	}
}

// read takes queries until the client ends its side between two of them or is idle. Every other end is an
// error, errEnough when it has asked all it may.
func (t *stream) read() error {
	in := splitter{r: t.c}
	for range maxQueriesPerConn {
		msg, err := in.next(t)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		t.answered.Add(1)
		t.outstanding.Add(1)
		if !t.s.handle(msg, t.client, tcpTransport, t.respond) {
			t.answered.Done()
			return errors.New("read dns message: not a query")
		}
	}
	return errEnough
}

// beforeMessage is called when the stream is at the start of a message.
func (t *stream) beforeMessage() { _ = t.c.SetReadDeadline(time.Now().Add(t.s.time.idle)) }

// inMessage is called when the first byte of a message has come.
func (t *stream) inMessage() { _ = t.c.SetReadDeadline(time.Now().Add(t.s.time.message)) }

// keepWaiting is called when the client was idle; it is not while it waits for us.
func (t *stream) keepWaiting() bool { return t.outstanding.Load() > 0 }

func (t *stream) respond(msg []byte, sent func()) { t.out <- outgoing{msg, sent} }

func (t *stream) write() {
	var buf []byte
	var failed bool
	for o := range t.out {
		if !failed {
			buf = appendFramed(buf[:0], o.msg)
			_ = t.c.SetWriteDeadline(time.Now().Add(t.s.time.writeOut))
			if _, err := t.c.Write(buf); err != nil {
				failed = true
				t.c.Close()
			}
		}
		o.sent()
		t.outstanding.Add(-1)
		t.answered.Done()
	}
}
