package portfwd

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/usernet/usernet/cnm/plumb"
)

// kept are the spares of in for IPv4.
func kept(in *Inside) []*conn {
	spares.mu.Lock()
	defer spares.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(spares.list), func(c *conn) bool { return c.home != in.makers[0] })
}

// TestSpares: the socket of a connection that has ended in order is that of the next one, which sees nothing of the one before. When
// the service ends first, that is so unless its kernel has not yet acknowledged the other end.
func TestSpares(t *testing.T) {
	for name, service := range map[string]func(*net.TCPConn){
		"client first":  echo,
		"service first": func(c *net.TCPConn) { io.CopyN(c, c, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			in := inside(t)
			r := newRig(t, &memDialer{}, nil, Limits{})
			at := r.publishAt(t, "127.0.0.1", tcpService(t, "127.0.0.1", service), lo(in))
			var before []*conn
			for i := range 3 {
				c := dialTCP(t, at)
				sent := string(rune('a' + i))
				io.WriteString(c, sent)
				b := make([]byte, 1)
				if _, err := io.ReadFull(c, b); err != nil || string(b) != sent {
					t.Fatalf("connection %d: got %q, %v", i, b, err)
				}
				if len(kept(in)) != 0 {
					t.Errorf("connection %d does not use the spare", i)
				}
				if name == "service first" {
					io.ReadAll(c)
				}
				c.Close()
				eventually(t, "the connection is over", func() bool { return r.Conns() == 0 })
				now := kept(in)
				if name == "client first" && (len(now) != 1 || i > 0 && now[0] != before[0]) || len(now) > 1 {
					t.Errorf("after connection %d: %d spares, or another one", i, len(now))
				}
				before = now
			}
		})
	}
}

// TestSparesBounded: many connections at once leave no more than maxSpares, and they are closed with what they are spares of.
func TestSparesBounded(t *testing.T) {
	in := inside(t)
	r := newRig(t, &memDialer{}, nil, Limits{})
	port := tcpService(t, "127.0.0.1", echo)
	at := r.publishAt(t, "127.0.0.1", port, lo(in))
	var clients []*net.TCPConn
	for range 3 * maxSpares {
		clients = append(clients, dialTCP(t, at))
	}
	eventually(t, "all connections are spliced", func() bool { return r.Spliced() == len(clients) })
	for _, c := range clients {
		c.Close()
	}
	eventually(t, "the connections are over", func() bool { return r.Conns() == 0 })
	last := kept(in)
	if len(last) != maxSpares {
		t.Errorf("%d spares, want %d", len(last), maxSpares)
	}
	late, err := in.Dial(t.Context(), netip.AddrPortFrom(loopback4, port))
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	spares.keep(late)
	for _, c := range append(last, late) {
		if err := c.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("a spare is open after Close: %v", err)
		}
	}
}

// TestSparesOfAll: many containers keep no more than a few sockets, and those that nobody has needed for longest are closed.
func TestSparesOfAll(t *testing.T) {
	var all []*Inside
	var first *conn
	for i := range maxAllSpares/maxSpares + 1 {
		in := inside(t)
		all = append(all, in)
		var made []*conn
		for range maxSpares {
			c, err := in.makers[0].make(false)
			if err != nil {
				t.Fatal(err)
			}
			made = append(made, c)
		}
		for _, c := range made {
			spares.keep(c)
		}
		if i == 0 {
			first = made[0]
			// It is needed, and so is not the one to go.
			if c := spares.take(in.makers[0]); c != made[maxSpares-1] {
				t.Fatal("not the socket that was kept last is used")
			}
			spares.keep(made[maxSpares-1])
		}
	}
	if n := len(spares.list); n != maxAllSpares {
		t.Errorf("%d sockets are kept, want %d", n, maxAllSpares)
	}
	for i, in := range all {
		want := maxSpares
		if i == 0 {
			want = 0
		}
		if n := len(kept(in)); n != want {
			t.Errorf("%d sockets of container %d are kept, want %d", n, i, want)
		}
	}
	if err := first.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a socket that is not kept any more is open: %v", err)
	}
}

// TestSparesRefused: what is not as good as new is closed and not kept: sockets of connections that were reset, and of
// those whose buffers have grown in either direction.
func TestSparesRefused(t *testing.T) {
	read := func(c *net.TCPConn) { io.Copy(io.Discard, c) }
	for name, use := range map[string]struct {
		client, service func(*net.TCPConn)
		spares          int
	}{
		"little":  {client: func(c *net.TCPConn) { c.Write(make([]byte, streamBytes/2)); c.CloseWrite(); read(c) }, service: echo, spares: 1},
		"reset":   {client: func(c *net.TCPConn) { c.SetLinger(0) }, service: echo},
		"to it":   {client: func(c *net.TCPConn) { c.Write(make([]byte, streamBytes)); c.CloseWrite(); read(c) }, service: read},
		"from it": {client: func(c *net.TCPConn) { c.CloseWrite(); read(c) }, service: func(c *net.TCPConn) { read(c); c.Write(make([]byte, streamBytes)) }},
	} {
		t.Run(name, func(t *testing.T) {
			in := inside(t)
			r := newRig(t, &memDialer{}, nil, Limits{})
			c := dialTCP(t, r.publishAt(t, "127.0.0.1", tcpService(t, "127.0.0.1", use.service), lo(in)))
			eventually(t, "the connection is spliced", func() bool { return r.Spliced() == 1 })
			use.client(c)
			c.Close()
			eventually(t, "the connection is over", func() bool { return r.Conns() == 0 })
			if n := len(kept(in)); n != use.spares {
				t.Errorf("%d sockets are kept, want %d", n, use.spares)
			}
		})
	}
}

// TestSparesApart: the sockets of one container are never another's.
func TestSparesApart(t *testing.T) {
	in, other := inside(t), new(Inside)
	defer other.Close()
	r := newRig(t, &memDialer{}, nil, Limits{})
	for range 2 {
		if err := other.Add(socket(t, plumb.Socket{Network: plumb.TCP4})); err != nil {
			t.Fatal(err)
		}
	}
	port := tcpService(t, "127.0.0.1", echo)
	at := []netip.AddrPort{r.publishAt(t, "127.0.0.1", port, lo(in)), r.publishAt(t, "127.0.0.1", port, lo(other))}
	for i := range 4 {
		c := dialTCP(t, at[i%2])
		io.WriteString(c, "x")
		io.ReadFull(c, make([]byte, 1))
		c.Close()
		eventually(t, "the connection is over", func() bool { return r.Conns() == 0 })
	}
	for i, in := range []*Inside{in, other} {
		for _, c := range kept(in) {
			if c.home != in.makers[0] {
				t.Errorf("container %d keeps a socket of another", i)
			}
		}
		if n := len(kept(in)); n != 1 {
			t.Errorf("container %d keeps %d sockets, want 1", i, n)
		}
	}
}
