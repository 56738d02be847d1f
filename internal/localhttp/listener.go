package localhttp

import (
	"errors"
	"net"
	"sync"
	"time"
)

// writeTimeout is how long a client may leave what it is sent unread.
const writeTimeout = 30 * time.Second

// listener accepts no more than so many connections at a time; the others wait in the backlog.
type listener struct {
	net.Listener
	slots chan struct{}
	done  chan struct{}
	once  sync.Once
}

// NewListener bounds the connections of a unix socket's listener to MaxConns, and the time that writing to one takes.
// Closing it closes l.
func NewListener(l net.Listener) net.Listener { return newListener(l, MaxConns) }

func newListener(l net.Listener, n int) *listener {
	return &listener{Listener: l, slots: make(chan struct{}, n), done: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		<-l.slots
		return nil, errors.New("accept: not a unix socket")
	}
	return &conn{UnixConn: u, free: sync.OnceFunc(func() { <-l.slots })}, nil
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// conn gives its slot back when it is closed.
type conn struct {
	*net.UnixConn
	free func()
}

// Write implements net.Conn. Every write has its own time, so that a stream may last as long as its client reads.
func (c *conn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return c.UnixConn.Write(p)
}

// Close implements net.Conn.
func (c *conn) Close() error {
	defer c.free()
	return c.UnixConn.Close()
}
