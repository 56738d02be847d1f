package rootlesstests

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"

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
