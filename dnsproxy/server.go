package dnsproxy

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/spec"
)

// Bounds of one Server. A client is one container address.
const (
	// MaxUpstreams is how many upstreams are used, as in resolv.conf(5); the rest are ignored.
	MaxUpstreams = 3

	maxInFlight          = 1024
	maxInFlightPerClient = 256
	maxConns             = 512
	maxConnsPerClient    = 64
	maxQueriesPerConn    = 100
)

// timing holds every duration, so that a test can shorten them.
type timing struct {
	try      time.Duration // an upstream silent this long is joined by the next
	overall  time.Duration // SERVFAIL after this
	down     time.Duration // between two probes of an upstream that is down
	idle     time.Duration // a TCP client with nothing asked and nothing outstanding
	message  time.Duration // one message of a TCP client, first byte to last
	writeOut time.Duration // one answer to a TCP client
}

var defaultTiming = timing{
	try:      1500 * time.Millisecond,
	overall:  4800 * time.Millisecond,
	down:     10 * time.Second,
	idle:     3 * time.Second,
	message:  10 * time.Second,
	writeOut: 3 * time.Second,
}

// Env is what a Server is given by the datapath it runs in. Both may be nil.
type Env struct {
	Drops *drop.Counters
	Log   *slog.Logger
}

// Config is what the Server answers from. It is inert JSON: control makes it, the datapath applies it.
type Config struct {
	// Upstreams are the host's resolvers in the order they are asked; those after MaxUpstreams
	// are ignored. A link-local address has its zone as a number, since names of interfaces cannot
	// be looked up where the Server runs.
	Upstreams []netip.AddrPort `json:"upstreams,omitempty"`
	// Hosts are the local names, with or without the trailing dot and in any case. A name with no
	// address exists and has no data.
	Hosts map[string][]netip.Addr `json:"hosts,omitempty"`
}

// Server answers the DNS queries of one Network. Its methods are safe for concurrent use.
type Server struct {
	env  Env
	log  *slog.Logger
	net  spec.Network
	time timing
	// source is sourceFor, except in tests.
	source func(netip.AddrPort) (netip.Addr, error)

	state  atomic.Pointer[state]
	flight flights
	conns  conns

	// configMu orders calls of Configure.
	configMu sync.Mutex

	ctx  context.Context // ends with Close
	stop context.CancelFunc
}

// state is one configuration in force, never changed once it is published.
type state struct {
	zone      *zone
	upstreams []*upstream
}

// New makes a Server for a Network, without upstreams and names: until Configure everything is SERVFAIL.
// n tells it which addresses are its own, which reverse names are local, and n.Limits.DNSQueries how many
// queries one client may have in flight.
func New(e Env, n spec.Network) *Server {
	s := &Server{env: e, log: e.Log, net: n, time: defaultTiming, source: sourceFor}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.flight.init(n.Limits.DNSQueries)
	s.state.Store(&state{zone: newZone(n, nil, s.log)})
	return s
}

// Configure puts c in force for every query that arrives from now on; those in flight end with the
// upstreams they began with. Upstreams that would lead back to this Server are left out.
func (s *Server) Configure(c Config) {
	s.configMu.Lock()
	defer s.configMu.Unlock()
	addrs := s.usable(c.Upstreams)
	old := s.state.Load()
	next := &state{zone: newZone(s.net, c.Hosts, s.log), upstreams: old.upstreams}
	if !sameUpstreams(old.upstreams, addrs) {
		next.upstreams = newUpstreams(addrs)
		s.log.Info("dns upstreams changed", "upstreams", addrs)
	}
	s.state.Store(next)
	// A query must not join a flight that asks yesterday's upstreams.
	s.flight.detach()
}

// HandleUDP takes one datagram sent to the DNS address. It does not block, and copies what it keeps of msg.
// It calls reply at most once, perhaps before it returns and perhaps later from another goroutine, but not
// after both this call and Close have returned; reply may keep the message. A datagram that is no query gets
// no reply.
func (s *Server) HandleUDP(msg []byte, from netip.AddrPort, reply func(msg []byte)) {
	if s.ctx.Err() != nil {
		return
	}
	s.handle(msg, from.Addr().Unmap(), udpTransport, func(m []byte, sent func()) {
		reply(m)
		sent()
	})
}

// transport says what an answer must fit into.
type transport uint8

const (
	udpTransport transport = iota
	tcpTransport
)

// respond sends one answer and calls sent when its memory is no longer held; until then
// the query counts as in flight. It does not block.
type respond func(msg []byte, sent func())

// handle decides over one query and reports whether it has been or will be responded to.
func (s *Server) handle(msg []byte, client netip.Addr, via transport, r respond) bool {
	q, rcode, ok := parseQuery(msg)
	if !ok {
		s.env.Drops.Add(drop.DNSMalformed)
		return false
	}
	if rcode != rcodeSuccess {
		s.env.Drops.Add(drop.DNSMalformed)
		r(q.refusal(rcode), func() {})
		return true
	}
	st := s.state.Load()
	if m, local := st.zone.answer(&q); local {
		r(fit(m, q.limit(via)), func() {})
		return true
	}
	if len(st.upstreams) == 0 {
		r(q.refusal(rcodeServFail), func() {})
		return true
	}
	w := waiter{q: q, client: client, via: via, respond: r}
	switch s.flight.join(&w, func(f *flight) { s.fly(f, st.upstreams) }) {
	case joinLimit:
		s.env.Drops.Add(drop.DNSLimit)
		r(q.refusal(rcodeServFail), func() {})
	case joinLoop:
		s.log.Debug("dns query came back from an upstream", "client", client)
		r(q.refusal(rcodeServFail), func() {})
	}
	return true
}

// fly runs one flight to its end and answers everybody who waits for it.
func (s *Server) fly(f *flight, ups []*upstream) {
	ctx, cancel := context.WithTimeout(s.ctx, s.time.overall)
	defer cancel()
	answer := s.forward(ctx, f, ups)
	waiters := s.flight.finish(f)
	for i, w := range waiters {
		sent := func() { s.flight.release(w.client) }
		if answer == nil || w.via == tcpTransport && truncated(answer) {
			w.respond(w.q.refusal(rcodeServFail), sent)
			continue
		}
		m := answer
		if i < len(waiters)-1 {
			// Whoever is responded to may keep the message; the last one gets the original.
			m = append([]byte(nil), answer...)
		}
		w.respond(fit(w.q.adopt(m), w.q.limit(w.via)), sent)
	}
}

// Close ends every flight and connection, closes the listeners given to ServeTCP and waits until no
// reply can be called any more.
func (s *Server) Close() error {
	s.flight.shut()
	s.stop()
	s.conns.shut()
	s.flight.wg.Wait()
	s.conns.wg.Wait()
	return nil
}

// clientOf is the address a connection is counted under.
func clientOf(c net.Conn) netip.Addr {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
