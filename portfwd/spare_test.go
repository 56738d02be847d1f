package portfwd

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/cnm/plumb"
)

// spareSockets are what in keeps for IPv4.
func spareSockets(in *Inside) []*conn {
	m := in.makers[0]
	m.spareMu.Lock()
	defer m.spareMu.Unlock()
	return slices.Clone(m.spares)
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
				if len(spareSockets(in)) != 0 {
					t.Errorf("connection %d does not use the spare", i)
				}
				if name == "service first" {
					io.ReadAll(c)
				}
				c.Close()
				eventually(t, "the connection is over", func() bool { return r.Conns() == 0 })
				now := spareSockets(in)
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
	spares := spareSockets(in)
	if len(spares) != maxSpares {
		t.Errorf("%d spares, want %d", len(spares), maxSpares)
	}
	late, err := in.Dial(t.Context(), netip.AddrPortFrom(loopback4, port))
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	late.home.keep(late)
	for _, c := range append(spares, late) {
		if err := c.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("a spare is open after Close: %v", err)
		}
	}
}

// TestSparesRefused: what is not as good as new is closed and not kept: sockets of connections that were reset, and of
// those that wait for many bytes.
func TestSparesRefused(t *testing.T) {
	for name, use := range map[string]func(t *testing.T, c *net.TCPConn){
		"reset": func(_ *testing.T, c *net.TCPConn) { c.SetLinger(0) },
		// On a slow machine it does not gather, and the socket is kept.
		"streamed": func(t *testing.T, c *net.TCPConn) {
			var wg sync.WaitGroup
			wg.Go(func() {
				if _, err := io.CopyN(io.Discard, c, 2*gatherAfter); err != nil {
					t.Error(err)
				}
			})
			if _, err := c.Write(make([]byte, 2*gatherAfter)); err != nil {
				t.Error(err)
			}
			wg.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := inside(t)
			r := newRig(t, &memDialer{}, nil, Limits{})
			c := dialTCP(t, r.publishAt(t, "127.0.0.1", tcpService(t, "127.0.0.1", echo), lo(in)))
			io.WriteString(c, "x")
			io.ReadFull(c, make([]byte, 1))
			use(t, c)
			c.Close()
			eventually(t, "the connection is over", func() bool { return r.Conns() == 0 })
			for _, s := range spareSockets(in) {
				if err := control(s.raw, func(fd int) error {
					n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT)
					if n > 1 {
						t.Errorf("a spare waits for %d bytes", n)
					}
					return err
				}); err != nil {
					t.Error(err)
				}
				if name == "reset" {
					t.Error("the socket of a connection that was reset is kept")
				}
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
		for _, c := range spareSockets(in) {
			if c.home != in.makers[0] {
				t.Errorf("container %d keeps a socket of another", i)
			}
		}
		if n := len(spareSockets(in)); n != 1 {
			t.Errorf("container %d keeps %d sockets, want 1", i, n)
		}
	}
}
