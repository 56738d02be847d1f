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
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// Bounds of one Directory: of all Servers together, and of one client, which is an Endpoint.
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

// Env is what a Server is given by the datapath it runs in. All may be nil.
type Env struct {
	Drops *drop.Counters
	Log   *slog.Logger
	// Directory is what the Servers of the process know of each other; nil: there are no others.
	Directory *Directory
	// Station says which station of the Network has an address, zero when none is known. It tells the clients apart.
	Station func(netip.Addr) l2.MAC
	// Inside begins a conversation over "udp" or "tcp" with a station of the Network, and fails at once when nobody has the address.
	// By it servers are asked that an Endpoint was given (spec.Resolver) and that are containers; nil: the host asks all.
	Inside func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)
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

	zone   *zone
	dir    *Directory
	ring   atomic.Pointer[ring] // the Network's upstreams
	flight flights
	conns  conns

	viewMu   sync.RWMutex        // a leaf; guards what follows
	views    map[client]*view    // by station, and by address for guests whose station is not known
	viewKeys map[string][]client // by id of the Endpoint: its keys in views

	// configMu orders calls of Configure.
	configMu sync.Mutex

	ctx  context.Context // ends with Close
	stop context.CancelFunc
}

// New makes a Server for a Network, without upstreams and names: until Configure everything is SERVFAIL.
// n tells it which addresses are its own, which reverse names are local, and n.Limits.DNSQueries how many
// queries one client may have in flight.
func New(e Env, n spec.Network) *Server {
	s := &Server{
		env: e, log: e.Log, net: n, time: defaultTiming, source: sourceFor, dir: e.Directory,
		views: make(map[client]*view), viewKeys: make(map[string][]client),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.dir == nil {
		s.dir = NewDirectory(nil, 0)
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.flight.init(n.Limits.DNSQueries, s.dir.queries)
	s.conns.pool = s.dir.conns
	s.ring.Store(newRing(nil))
	s.zone = newZone(n, s.dir, s.log)
	s.dir.add(s.zone)
	return s
}

// Configure puts c in force for every query that arrives from now on; those in flight end with the
// upstreams they began with. Upstreams that would lead back to this Server are left out.
func (s *Server) Configure(c Config) {
	s.configMu.Lock()
	defer s.configMu.Unlock()
	s.zone.setHosts(c.Hosts)
	addrs := s.usable(c.Upstreams)
	if s.ring.Load().same(addrs) {
		return
	}
	// A query does not join a flight that asks yesterday's upstreams, for that has another ring.
	s.ring.Store(newRing(addrs))
	s.log.Info("dns upstreams changed", "upstreams", addrs)
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
func (s *Server) handle(msg []byte, from netip.Addr, via transport, r respond) bool {
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
	who := s.clientOf(from)
	v := s.viewOf(who, from)
	if m, local := s.answer(v, &q); local {
		r(fit(m, q.limit(via)), func() {})
		return true
	}
	ups := v.ring
	if ups == nil {
		ups = s.ring.Load()
	}
	if len(ups.list) == 0 {
		r(q.refusal(rcodeServFail), func() {})
		return true
	}
	w := waiter{q: q, client: who, via: via, respond: r}
	switch s.flight.join(ups, &w, func(f *flight) { s.fly(f, ups.list) }) {
	case joinLimit:
		s.env.Drops.Add(drop.DNSLimit)
		r(q.refusal(rcodeServFail), func() {})
	case joinLoop:
		s.log.Debug("dns query came back from an upstream", "client", from)
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
	s.dir.remove(s.zone)
	s.flight.shut()
	s.stop()
	s.conns.shut()
	s.flight.wg.Wait()
	s.conns.wg.Wait()
	return nil
}

// addrOf is the address of a connection's client.
func addrOf(c net.Conn) netip.Addr {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
