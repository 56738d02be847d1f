package portfwd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/usernet/usernet/stack/drop"
)

// tcpServer accepts the connections of one published port.
//
// The accept loop never ends on an error other than its socket being closed: running out of file
// descriptors or memory passes, and so do the network errors accept(2) hands on. A client beyond the
// limits is accepted and reset at once, since a full backlog would leave it to time out.
type tcpServer struct {
	fw     *Forwarder
	spec   Spec
	target Target
	accept func() (*net.TCPConn, error) // replaced by tests
	closer func() error
	conns  atomic.Int64
	wg     sync.WaitGroup // connections
}

func newTCPServer(fw *Forwarder, s Spec, t Target, ln *net.TCPListener) *tcpServer {
	return &tcpServer{fw: fw, spec: s, target: t, accept: ln.AcceptTCP, closer: ln.Close}
}

func (s *tcpServer) close() error { return s.closer() }

func (s *tcpServer) run(ctx context.Context) {
	defer s.wg.Wait()
	log := s.fw.cfg.Log
	var b backoff
	for {
		c, err := s.accept()
		switch {
		case err == nil:
			if b.active() {
				log.Info("accepting connections again", "spec", s.spec.String())
			}
			b.reset()
			s.serve(ctx, c)
			continue
		case errors.Is(err, net.ErrClosed):
			return
		case !b.active():
			log.Warn("cannot accept connections, trying again", "spec", s.spec.String(), "err", err)
		}
		if !b.wait(ctx) {
			return
		}
	}
}

// serve starts a goroutine for c, or resets it when there are too many.
func (s *tcpServer) serve(ctx context.Context, c *net.TCPConn) {
	all, mine := s.fw.conns.Add(1), s.conns.Add(1)
	if all > int64(s.fw.cfg.Limits.Conns) || mine > int64(s.fw.cfg.Limits.ConnsPerListener) {
		s.fw.cfg.Drops.Add(drop.PublishLimit)
		s.release()
		_ = c.SetLinger(0) // a client that is gone already needs no reset
		_ = c.Close()
		return
	}
	s.wg.Go(func() {
		defer s.release()
		s.forward(ctx, c)
	})
}

func (s *tcpServer) release() {
	s.conns.Add(-1)
	s.fw.conns.Add(-1)
}

func (s *tcpServer) forward(ctx context.Context, c *net.TCPConn) {
	defer c.Close()
	if s.spec.Reverse {
		s.toHost(ctx, c)
		return
	}
	client := clientOf(c)
	if !client.IsValid() {
		return // reset before it was accepted; the kernel has no address for it
	}
	from, to := s.fw.sources.route(client, s.target, s.spec.Port)
	if client.Addr().IsLoopback() && s.splice(ctx, c, s.inside(to)) {
		return
	}
	if err := s.fw.cfg.Dialer.Forward(ctx, c, from, to); err != nil {
		s.fw.cfg.Log.Debug("forwarded connection ended", "client", client, "to", to, "err", err)
	}
}

// inside is where a connection of the host itself leads in the container's namespace.
func (s *tcpServer) inside(to netip.AddrPort) netip.AddrPort {
	switch {
	case !s.spec.Loopback:
		return to
	case to.Addr().Is6():
		return netip.AddrPortFrom(netip.IPv6Loopback(), to.Port())
	}
	return netip.AddrPortFrom(loopback4, to.Port())
}

// splice carries a connection of the host itself from inside the container's namespace, past the Network. It
// reports false when that cannot be, or the container refuses its own address what it may give the gateway's.
func (s *tcpServer) splice(ctx context.Context, c *net.TCPConn, to netip.AddrPort) bool {
	if s.target.Inside == nil || !s.more(spliceCost) {
		return false
	}
	defer s.less(spliceCost)
	client, err := connOf(c)
	if err != nil {
		return false
	}
	inside, err := s.target.Inside.Dial(ctx, to)
	if err != nil {
		if !errors.Is(err, errNotInside) {
			s.fw.cfg.Log.Debug("connection from inside the container failed", "to", to, "err", err)
		}
		return false
	}
	s.fw.spliced.Add(1)
	defer s.fw.spliced.Add(-1)
	if err := splice(ctx, client, inside); err != nil {
		s.fw.cfg.Log.Debug("spliced connection ended", "to", to, "err", err)
	}
	return true
}

// spliceCost is how many descriptors a spliced connection has at most beside the client's: one more socket, and
// a pipe for each direction that waits for room.
const spliceCost = 5

// more counts n further descriptors, unless there may not be as many.
func (s *tcpServer) more(n int64) bool {
	if s.fw.conns.Add(n) <= int64(s.fw.cfg.Limits.Conns) {
		return true
	}
	s.less(n)
	return false
}

func (s *tcpServer) less(n int64) { s.fw.conns.Add(-n) }

// clientOf is the peer of c. A socket of IPv4 gives an IPv4 address; a v4-mapped one stays as it is,
// because it came in by IPv6.
func clientOf(c *net.TCPConn) netip.AddrPort {
	a, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return a.AddrPort()
}
