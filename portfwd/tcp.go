package portfwd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/stack/drop"
)

// keepAlive finds clients that vanished: a dead one is noticed after 60 s + 9 × 15 s, and an idle
// one that lives keeps its place for ever (NAT-22).
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 60 * time.Second, Interval: 15 * time.Second, Count: 9}

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
	// Without keepalive the connection is as good, only slower to be missed.
	_ = c.SetKeepAliveConfig(keepAlive)
	if err := s.fw.cfg.Dialer.Forward(ctx, c, from, to); err != nil {
		s.fw.cfg.Log.Debug("forwarded connection ended", "client", client, "to", to, "err", err)
	}
}

// clientOf is the peer of c. A socket of IPv4 gives an IPv4 address; a v4-mapped one stays as it is,
// because it came in by IPv6.
func clientOf(c *net.TCPConn) netip.AddrPort {
	a, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return a.AddrPort()
}
