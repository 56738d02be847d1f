package dnsproxy

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/spec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testNet = spec.Network{
	Name:    "test",
	Subnet4: netip.MustParsePrefix("10.0.2.0/24"), Gateway4: netip.MustParseAddr("10.0.2.2"), DNS4: netip.MustParseAddr("10.0.2.3"),
	Subnet6: netip.MustParsePrefix("fd00::/64"), Gateway6: netip.MustParseAddr("fd00::2"), DNS6: netip.MustParseAddr("fd00::3"),
}

var clientAddr = netip.MustParseAddrPort("10.0.2.100:5353")

// newServer returns a Server that is closed with the test.
func newServer(t testing.TB, c Config) *Server {
	s := New(Env{Drops: new(drop.Counters)}, testNet)
	s.Configure(c)
	t.Cleanup(func() { s.Close() })
	return s
}

// fakeUpstream is a resolver on loopback that answers UDP and TCP as its handlers say.
type fakeUpstream struct {
	addr    netip.AddrPort
	conn    *net.UDPConn
	tcp     net.Listener
	queries atomic.Int64 // datagrams received
	wg      sync.WaitGroup
}

// startUpstream serves until the test ends. onUDP and onTCP return the answer, or nil for silence; without onUDP
// it is silent, and without onTCP nothing listens.
func startUpstream(t testing.TB, onUDP func(q []byte, from netip.AddrPort) []byte, onTCP func(q []byte) []byte) *fakeUpstream {
	u := bindUpstream(t, "127.0.0.1:0")
	u.serve(t, onUDP, onTCP)
	return u
}

// bindUpstream makes one that does not serve yet, for handlers that refer to it.
func bindUpstream(t testing.TB, at string) *fakeUpstream {
	t.Helper()
	// The UDP port that the kernel gives may be somebody else's TCP port; another is not.
	for attempt := 1; ; attempt++ {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at)))
		if err != nil {
			t.Fatal(err)
		}
		addr := conn.LocalAddr().(*net.UDPAddr).AddrPort()
		l, err := net.Listen("tcp", addr.String())
		if err != nil {
			conn.Close()
			if attempt == 100 {
				t.Fatal(err)
			}
			continue
		}
		u := &fakeUpstream{conn: conn, tcp: l, addr: addr}
		t.Cleanup(u.wg.Wait) // the last to run
		t.Cleanup(func() { conn.Close() })
		t.Cleanup(func() { l.Close() })
		return u
	}
}

func (u *fakeUpstream) serve(t testing.TB, onUDP func(q []byte, from netip.AddrPort) []byte, onTCP func(q []byte) []byte) {
	t.Helper()
	u.wg.Go(func() { u.serveUDP(onUDP) })
	if onTCP == nil {
		u.tcp.Close()
		return
	}
	u.wg.Go(func() { u.serveTCP(onTCP) })
}

func (u *fakeUpstream) serveUDP(on func([]byte, netip.AddrPort) []byte) {
	buf := make([]byte, 65535)
	for {
		n, from, err := u.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		u.queries.Add(1)
		if on == nil {
			continue
		}
		if r := on(append([]byte(nil), buf[:n]...), from); r != nil {
			u.conn.WriteToUDPAddrPort(r, from)
		}
	}
}

func (u *fakeUpstream) serveTCP(on func([]byte) []byte) {
	for {
		c, err := u.tcp.Accept()
		if err != nil {
			return
		}
		in := splitter{r: c}
		if q, err := in.next(nil); err == nil {
			if r := on(q); r != nil {
				c.Write(appendFramed(nil, r))
			}
		}
		c.Close()
	}
}

// send writes to a client of the upstream's.
func (u *fakeUpstream) send(to netip.AddrPort, msg []byte) { u.conn.WriteToUDPAddrPort(msg, to) }

// answerA answers any query with one A record of 192.0.2.1.
func answerA(q []byte, _ netip.AddrPort) []byte { return pack(aRecord(q)) }

func aRecord(q []byte) *dns.Msg {
	var m dns.Msg
	if m.Unpack(q) != nil {
		return nil
	}
	r := new(dns.Msg).SetReply(&m)
	r.RecursionAvailable = true
	r.Answer = []dns.RR{&dns.A{
		Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
		A:   net.IPv4(192, 0, 2, 1),
	}}
	if m.IsEdns0() != nil {
		r.SetEdns0(1232, m.IsEdns0().Do())
	}
	return r
}

func pack(m *dns.Msg) []byte {
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

func question(name string, qtype uint16) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), qtype)
	return m
}

// ask sends one query over UDP and waits for the answer.
func ask(t testing.TB, s *Server, m *dns.Msg) *dns.Msg {
	t.Helper()
	raw := askRaw(t, s, pack(m), clientAddr)
	var r dns.Msg
	if err := r.Unpack(raw); err != nil {
		t.Fatalf("unpack answer %x: %v", raw, err)
	}
	if r.Id != m.Id || !r.Response {
		t.Fatalf("answer has id %d response %v, want id %d", r.Id, r.Response, m.Id)
	}
	return &r
}

func askRaw(t testing.TB, s *Server, msg []byte, from netip.AddrPort) []byte {
	t.Helper()
	got := make(chan []byte, 1)
	s.HandleUDP(msg, from, func(b []byte) { got <- b })
	select {
	case b := <-got:
		return b
	case <-time.After(20 * time.Second):
		t.Fatal("no answer")
		return nil
	}
}

// wantRcode fails unless r has the code.
func wantRcode(t testing.TB, r *dns.Msg, code int) {
	t.Helper()
	if r.Rcode != code {
		t.Fatalf("rcode %s, want %s", dns.RcodeToString[r.Rcode], dns.RcodeToString[code])
	}
}

// quick makes the server's patience short enough for a test, in the proportions of the real one.
func quick(s *Server, try time.Duration) {
	s.time.try, s.time.overall, s.time.down = try, 16*try/5, 7*try
}
