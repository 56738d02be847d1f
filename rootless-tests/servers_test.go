package rootlesstests

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// serveTCP accepts at a free port of an address of a node until the test ends, and runs handle for each
// connection on a goroutine of its own. handle's connection is closed after it, and when the test ends.
func serveTCP(t testing.TB, n *rig.Node, at netip.Addr, handle func(c *net.TCPConn)) netip.AddrPort {
	t.Helper()
	l := n.ListenTCP(t, netip.AddrPortFrom(at, 0))
	accept(t, l, handle)
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// accept serves a listener until the test ends, and closes it.
func accept(t testing.TB, l *net.TCPListener, handle func(c *net.TCPConn)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[*net.TCPConn]bool{} // nil once the test has ended
	wg.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			mu.Lock()
			if open == nil {
				mu.Unlock()
				c.Close()
				return
			}
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer func() {
					mu.Lock()
					defer mu.Unlock()
					delete(open, c)
					c.Close()
				}()
				handle(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		open = nil
		mu.Unlock()
		wg.Wait()
	})
}

// serveEcho sends back what it gets, and ends its side when the client has ended its own.
func serveEcho(t testing.TB, n *rig.Node, at netip.Addr) netip.AddrPort {
	t.Helper()
	return serveTCP(t, n, at, func(c *net.TCPConn) {
		_, _ = io.Copy(c, c) // the client sees what goes wrong
	})
}

// datagram is one that a server got.
type datagram struct {
	from    netip.AddrPort
	payload string
}

// udpServer answers datagrams and remembers them.
type udpServer struct {
	at   netip.AddrPort
	conn *net.UDPConn

	mu  sync.Mutex
	got []datagram
}

// received returns all datagrams up to now.
func (s *udpServer) received() []datagram {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]datagram(nil), s.got...)
}

// sources returns the addresses that datagrams came from, by payload.
func (s *udpServer) sources() map[string]netip.AddrPort {
	m := map[string]netip.AddrPort{}
	for _, d := range s.received() {
		m[d.payload] = d.from
	}
	return m
}

// serve answers until the socket is closed.
func (s *udpServer) serve(answer func(d datagram) []byte) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // an ICMP error for an answer
			continue
		}
		d := datagram{netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), string(buf[:n])}
		s.mu.Lock()
		s.got = append(s.got, d)
		s.mu.Unlock()
		if answer != nil {
			_, _ = s.conn.WriteToUDPAddrPort(answer(d), from) // the client sees what goes wrong
		}
	}
}

// listenUDP serves UDP in a node until the test ends. Port 0 is a free one; answer may be nil.
func listenUDP(t testing.TB, n *rig.Node, where netip.AddrPort, answer func(d datagram) []byte) *udpServer {
	t.Helper()
	c := n.ListenUDP(t, where)
	if err := errors.Join(c.SetDeadline(time.Time{}), c.SetReadBuffer(4<<20)); err != nil {
		t.Fatal(err)
	}
	s := &udpServer{at: addrOf(t, c.LocalAddr()), conn: c}
	var wg sync.WaitGroup
	wg.Go(func() { s.serve(answer) })
	t.Cleanup(func() {
		c.Close()
		wg.Wait()
	})
	return s
}

// sendBack is an answer.
func sendBack(d datagram) []byte { return []byte(d.payload) }

// serveUDP sends datagrams back, from a free port of an address.
func serveUDP(t testing.TB, n *rig.Node, where netip.Addr) netip.AddrPort {
	t.Helper()
	return listenUDP(t, n, netip.AddrPortFrom(where, 0), sendBack).at
}
