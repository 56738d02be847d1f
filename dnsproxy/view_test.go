package dnsproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// lan is a process with Networks, each with a Server, and an upstream that answers whatever it is asked.
type lan struct {
	t        testing.TB
	dir      *Directory
	up       *fakeUpstream
	networks map[string]*Server
	asked    atomic.Pointer[[]string] // names that went upstream
}

func newLAN(t testing.TB, names ...string) *lan {
	t.Helper()
	reserved := netip.MustParsePrefix("10.0.0.0/8")
	l := &lan{t: t, dir: NewDirectory(reserved.Contains, 0), networks: make(map[string]*Server)}
	l.asked.Store(new([]string))
	l.up = startUpstream(t, func(q []byte, from netip.AddrPort) []byte {
		var m dns.Msg
		if m.Unpack(q) == nil {
			next := append(slices.Clone(*l.asked.Load()), m.Question[0].Name)
			l.asked.Store(&next)
		}
		return answerA(q, from)
	}, nil)
	for i, name := range names {
		l.network(i+1, name, nil)
	}
	return l
}

// network adds the Network 10.i.0.0/16, whose id is "id-" and its name.
func (l *lan) network(i int, name string, change func(*spec.Network)) *Server {
	n := spec.Network{
		ID: "id-" + name, Name: name,
		Subnet4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i)}), 16), Gateway4: netip.AddrFrom4([4]byte{10, byte(i), 0, 1}),
	}
	if change != nil {
		change(&n)
	}
	s := New(Env{Drops: new(drop.Counters), Directory: l.dir}, n)
	s.Configure(Config{Upstreams: []netip.AddrPort{l.up.addr}})
	l.networks[name] = s
	l.t.Cleanup(func() { s.Close() })
	return s
}

// endpoint is an Endpoint at addr in the Network with that name.
func (l *lan) endpoint(network, addr string, r spec.Resolver, names ...string) spec.Endpoint {
	ep := spec.Endpoint{ID: network + "/" + addr, Names: names, Resolver: r}
	for _, a := range strings.Fields(addr) {
		ep.Addrs = append(ep.Addrs, netip.MustParseAddr(a))
	}
	l.networks[network].SetEndpoint(ep)
	return ep
}

// ask asks the Server of a Network as the container at from; the answer is its code and sorted data.
func (l *lan) ask(network, from, name string, qtype uint16) string {
	l.t.Helper()
	raw := askRaw(l.t, l.networks[network], pack(question(name, qtype)), netip.AddrPortFrom(netip.MustParseAddr(from), 1000))
	var r dns.Msg
	if err := r.Unpack(raw); err != nil {
		l.t.Fatal(err)
	}
	return strings.TrimSpace(dns.RcodeToString[r.Rcode] + " " + answerSection(&r))
}

const forwarded = "NOERROR A 192.0.2.1"

// DU4, SD1, SD3, SD5, DN-15, DN-16, HC-14: one table for what each container is told of names.
func TestViews(t *testing.T) {
	l := newLAN(t, "netA", "netB", "netC")
	both := []string{"id-netB", "id-netA"} // in this order
	l.endpoint("netA", "10.1.0.2 fd01::2", spec.Resolver{}, "a1", "Alias", "web", "short.id")
	l.endpoint("netA", "10.1.0.3", spec.Resolver{}, "a2", "web")
	l.endpoint("netB", "10.2.0.2", spec.Resolver{}, "b1", "web", "api.example.com")
	l.endpoint("netB", "10.2.0.3", spec.Resolver{Networks: both}, "c2")
	l.endpoint("netC", "10.3.0.2", spec.Resolver{Closed: true}, "c1")
	l.endpoint("netC", "10.3.0.3", spec.Resolver{NDots: true}, "c3")
	const a, b, ab, closed, ndots = "netA 10.1.0.2", "netB 10.2.0.2", "netB 10.2.0.3", "netC 10.3.0.2", "netC 10.3.0.3"
	for _, tt := range []struct {
		who, name string
		qtype     uint16
		want      string
	}{
		{a, "a2", dns.TypeA, "NOERROR A 10.1.0.3"},
		{a, "A2.", dns.TypeA, "NOERROR A 10.1.0.3"},
		{a, "alias", dns.TypeA, "NOERROR A 10.1.0.2"},
		{a, "a1", dns.TypeAAAA, "NOERROR AAAA fd01::2"},
		{a, "a2", dns.TypeAAAA, "NOERROR"},
		{a, "a2", dns.TypeMX, "NOERROR"},
		{a, "a1", dns.TypeANY, "NOERROR A 10.1.0.2, AAAA fd01::2"},
		{a, "web", dns.TypeA, "NOERROR A 10.1.0.2, A 10.1.0.3"},
		{a, "a2.neta", dns.TypeA, "NOERROR A 10.1.0.3"},
		{a, "A2.NetA.", dns.TypeA, "NOERROR A 10.1.0.3"},
		{a, "short.id.netA", dns.TypeA, "NOERROR A 10.1.0.2"},
		{a, reverse("10.1.0.3"), dns.TypePTR, "NOERROR PTR a2.netA."},
		{a, reverse("fd01::2"), dns.TypePTR, "NOERROR PTR a1.netA."},

		// DN-15: nothing of B is told to A, and nothing of it leaves.
		{a, "b1", dns.TypeA, "NXDOMAIN"},
		{a, "B1.", dns.TypeAAAA, "NXDOMAIN"},
		{a, "b1", dns.TypeTXT, "NXDOMAIN"},
		{a, "b1.netB", dns.TypeA, "NXDOMAIN"},
		{a, "B1.NETb.", dns.TypeA, "NXDOMAIN"},
		{a, reverse("10.2.0.2"), dns.TypePTR, "NXDOMAIN"},
		{a, reverse("10.77.0.2"), dns.TypePTR, "NXDOMAIN"}, // of a Network that has no Endpoint now
		{a, "a2.netB", dns.TypeA, forwarded},
		{a, "api.example.com", dns.TypeA, forwarded}, // the real one
		{a, "www.example.com", dns.TypeA, forwarded},
		{a, "netB", dns.TypeA, forwarded},

		{b, "web", dns.TypeA, "NOERROR A 10.2.0.2"},
		{b, "api.example.com", dns.TypeA, "NOERROR A 10.2.0.2"},
		{b, "a2", dns.TypeA, "NXDOMAIN"},

		// Of several Networks the first that knows the name answers.
		{ab, "a2", dns.TypeA, "NOERROR A 10.1.0.3"},
		{ab, "web", dns.TypeA, "NOERROR A 10.2.0.2"},
		{ab, "web.netA", dns.TypeA, "NOERROR A 10.1.0.2, A 10.1.0.3"},
		{ab, reverse("10.1.0.3"), dns.TypePTR, "NOERROR PTR a2.netA."},
		{ab, reverse("10.2.0.2"), dns.TypePTR, "NOERROR PTR b1.netB."},

		// HC-14: from a closed one nothing leaves, and what exists elsewhere cannot be told from what does not.
		{closed, "c3", dns.TypeA, "NOERROR A 10.3.0.3"},
		{closed, "www.example.com", dns.TypeA, "SERVFAIL"},
		{closed, "b1", dns.TypeA, "SERVFAIL"},
		{closed, "b2", dns.TypeA, "SERVFAIL"},
		{closed, reverse("192.0.2.9"), dns.TypePTR, "SERVFAIL"},
		{closed, reverse("10.2.0.2"), dns.TypePTR, "NXDOMAIN"},

		{ndots, "nas", dns.TypeA, "NOERROR"},
		{ndots, "b1", dns.TypeAAAA, "NOERROR"},
		{ndots, "nas.example.com", dns.TypeA, forwarded},
	} {
		t.Run(fmt.Sprintf("%s asks for %s %s", tt.who, tt.name, dns.TypeToString[tt.qtype]), func(t *testing.T) {
			before := len(*l.asked.Load())
			network, from, _ := strings.Cut(tt.who, " ")
			if got := l.ask(network, from, tt.name, tt.qtype); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
			if left := (*l.asked.Load())[before:]; len(left) > 0 && tt.want != forwarded {
				t.Errorf("%v left the host", left)
			}
		})
	}
}

// LK7, LK8, DN-14: links are their owner's alone, are looked up when asked for, and chains end.
func TestDN14Links(t *testing.T) {
	l := newLAN(t, "net")
	chain := map[string][]string{}
	for i := range 100 {
		chain[fmt.Sprintf("n%d", i)] = []string{fmt.Sprintf("n%d", i+1)}
	}
	for i := range 16 {
		chain[fmt.Sprintf("m%d", i)] = []string{fmt.Sprintf("m%d", i+1)}
	}
	l.endpoint("net", "10.1.0.2", spec.Resolver{Links: map[string][]string{
		"DB": {"mongo"}, "two": {"mongo", "redis"}, "mongo2": {"mongo.net"}, "redis": {"redis"},
		"swap1": {"swap2"}, "swap2": {"swap1"}, "gone": {"nobody"}, "loop1": {"loop2"}, "loop2": {"loop1"}, "self": {"self"},
	}}, "app")
	l.endpoint("net", "10.1.0.5", spec.Resolver{Links: chain}, "chained")
	l.endpoint("net", "10.1.0.3", spec.Resolver{}, "mongo")
	l.endpoint("net", "10.1.0.4", spec.Resolver{}, "redis")
	l.endpoint("net", "10.1.0.6", spec.Resolver{}, "m16", "n100")
	for _, tt := range []struct{ from, name, want string }{
		{"10.1.0.2", "db", "NOERROR A 10.1.0.3"},
		{"10.1.0.2", "two", "NOERROR A 10.1.0.3, A 10.1.0.4"},
		{"10.1.0.2", "mongo2", "NOERROR A 10.1.0.3"},
		{"10.1.0.2", "redis", "NOERROR A 10.1.0.4"},
		{"10.1.0.2", "gone", "NXDOMAIN"},
		{"10.1.0.2", "self", "NXDOMAIN"},
		{"10.1.0.2", "loop1", "SERVFAIL"},
		{"10.1.0.3", "db", forwarded}, // of another's link
		{"10.1.0.5", "m0", "NOERROR A 10.1.0.6"},
		{"10.1.0.5", "n0", "SERVFAIL"},
		{"10.1.0.5", "n90", "NOERROR A 10.1.0.6"},
	} {
		if got := l.ask("net", tt.from, tt.name, dns.TypeA); got != tt.want {
			t.Errorf("%s asks for %s: %q, want %q", tt.from, tt.name, got, tt.want)
		}
	}
	// What a link stands for is looked up when asked for.
	l.networks["net"].RemoveEndpoint("net/10.1.0.3")
	if got := l.ask("net", "10.1.0.2", "db", dns.TypeA); got != "NXDOMAIN" {
		t.Errorf("a link to what is gone: %q", got)
	}
	l.endpoint("net", "10.1.0.9", spec.Resolver{}, "mongo")
	if got := l.ask("net", "10.1.0.2", "db", dns.TypeA); got != "NOERROR A 10.1.0.9" {
		t.Errorf("a link to what is back: %q", got)
	}
}

// DN-18: what is removed is gone at once, everywhere, and a new owner of the address has its own name only.
func TestDN18Stale(t *testing.T) {
	l := newLAN(t, "netA", "netB")
	l.endpoint("netA", "10.1.0.2", spec.Resolver{Networks: []string{"id-netA", "id-netB"}}, "a1")
	l.endpoint("netB", "10.2.0.2", spec.Resolver{}, "old", "alias")
	check := func(name, want string) {
		t.Helper()
		if got := l.ask("netA", "10.1.0.2", name, dns.TypeANY); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	check("alias", "NOERROR A 10.2.0.2")
	l.networks["netB"].RemoveEndpoint("netB/10.2.0.2")
	check("alias", forwarded)
	check(reverse("10.2.0.2"), "NXDOMAIN")
	l.endpoint("netB", "10.2.0.2", spec.Resolver{}, "new")
	check("old", forwarded)
	check("new", "NOERROR A 10.2.0.2")
	check(reverse("10.2.0.2"), "NOERROR PTR new.netB.")
	// An update replaces.
	l.endpoint("netB", "10.2.0.2", spec.Resolver{}, "newer")
	check("new", forwarded)
	check("newer.netB", "NOERROR A 10.2.0.2")
	l.networks["netB"].Close()
	check("newer", forwarded)
}

// DB6: the default bridge has no names; it forwards, and its addresses still are nobody's business.
func TestDB6NoNames(t *testing.T) {
	l := newLAN(t)
	l.network(1, "bridge", func(n *spec.Network) { n.NoNames = true })
	l.endpoint("bridge", "10.1.0.2", spec.Resolver{}, "a")
	l.endpoint("bridge", "10.1.0.3", spec.Resolver{}, "b")
	for name, want := range map[string]string{"b": forwarded, "b.bridge": forwarded, reverse("10.1.0.3"): "NXDOMAIN"} {
		if got := l.ask("bridge", "10.1.0.2", name, dns.TypeA); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// DF1: the upstreams of one Endpoint are asked for it alone, and no answer of theirs goes to another.
func TestOwnUpstreams(t *testing.T) {
	l := newLAN(t, "net")
	own := startUpstream(t, func(q []byte, _ netip.AddrPort) []byte {
		m := aRecord(q)
		m.Answer[0].(*dns.A).A[15] = 77
		return pack(m)
	}, nil)
	l.endpoint("net", "10.1.0.2", spec.Resolver{Upstreams: []netip.AddrPort{own.addr}}, "a")
	l.endpoint("net", "10.1.0.3", spec.Resolver{}, "b")
	for range 3 {
		if got := l.ask("net", "10.1.0.2", "x.example", dns.TypeA); got != "NOERROR A 192.0.2.77" {
			t.Errorf("its own upstream: %q", got)
		}
		if got := l.ask("net", "10.1.0.3", "x.example", dns.TypeA); got != forwarded {
			t.Errorf("the Network's: %q", got)
		}
	}
}

// SD1: several Endpoints with one name are all told, each time in another order, so that load spreads.
func TestRoundRobin(t *testing.T) {
	l := newLAN(t, "net")
	l.endpoint("net", "10.1.0.1", spec.Resolver{})
	const n = 10
	for i := range n {
		l.endpoint("net", fmt.Sprintf("10.1.0.%d", i+2), spec.Resolver{}, "web")
	}
	first := make(map[string]int)
	for range 400 {
		raw := askRaw(t, l.networks["net"], pack(question("web", dns.TypeA)), netip.MustParseAddrPort("10.1.0.1:1"))
		var r dns.Msg
		if err := r.Unpack(raw); err != nil || len(r.Answer) != n {
			t.Fatalf("%d answers, %v", len(r.Answer), err)
		}
		first[r.Answer[0].(*dns.A).A.String()]++
	}
	for a, k := range first {
		if k < 10 || k > 90 { // 40 expected, of a binomial with a deviation of 6
			t.Errorf("%s came first %d times of 400", a, k)
		}
	}
	if len(first) != n {
		t.Errorf("%d of %d came first", len(first), n)
	}
}

// The client is the station that the switch vouches for, and views do not mix when addresses move.
func TestViewOfStation(t *testing.T) {
	l := newLAN(t, "net")
	macA, macB := l2.MAC{2, 1}, l2.MAC{2, 2}
	stations := map[netip.Addr]l2.MAC{
		netip.MustParseAddr("10.1.0.2"): macA, netip.MustParseAddr("fe80::2"): macA, netip.MustParseAddr("10.1.0.3"): macB,
	}
	l.networks["net"].env.Station = func(a netip.Addr) l2.MAC { return stations[a] }
	closed := spec.Endpoint{ID: "a", MAC: macA, Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.2")}, Resolver: spec.Resolver{Closed: true}}
	l.networks["net"].SetEndpoint(closed)
	for from, want := range map[string]string{"10.1.0.2": "SERVFAIL", "fe80::2": "SERVFAIL", "10.1.0.3": forwarded} {
		if got := l.ask("net", from, "x.example", dns.TypeA); got != want {
			t.Errorf("%s: %q, want %q", from, got, want)
		}
	}
	l.networks["net"].RemoveEndpoint("a")
	if got := l.ask("net", "10.1.0.2", "x.example", dns.TypeA); got != forwarded {
		t.Errorf("after it is gone: %q", got)
	}
}
