package dnsproxy

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"pgregory.net/rapid"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/quota"
	"github.com/usernet/usernet/stack/spec"
)

// held is an upstream that answers only when released.
func held(t *testing.T) (u *fakeUpstream, release func()) {
	gate := make(chan struct{})
	var once sync.Once
	var wg sync.WaitGroup
	release = func() { once.Do(func() { close(gate) }) }
	u = bindUpstream(t, "127.0.0.1:0")
	u.serve(t, func(q []byte, from netip.AddrPort) []byte {
		wg.Go(func() {
			<-gate
			u.send(from, answerA(q, from))
		})
		return nil
	}, nil)
	t.Cleanup(func() { release(); wg.Wait() })
	return u, release
}

// TestCoalesce is DN-03: as many identical queries of ten containers as they may have, in all letter cases, are one upstream.
func TestCoalesce(t *testing.T) {
	up, release := held(t)
	s := newServer(t, Config{Upstreams: []netip.AddrPort{up.addr}})
	type answered struct {
		sent *dns.Msg
		raw  []byte
	}
	got := make(chan answered, 900)
	for i := range 900 {
		name := []byte("www.example.com.")
		for bit := range 10 {
			if i>>bit&1 != 0 && name[bit] != '.' {
				name[bit] ^= 0x20
			}
		}
		m := question(string(name), dns.TypeA)
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, byte(100 + i%10)}), uint16(1024+i))
		// The id under which the question went upstream would be taken for a loop.
		for len(s.idsOf(m)) > 0 && s.idsOf(m)[0] == m.Id {
			m.Id++
		}
		s.HandleUDP(pack(m), from, func(b []byte) { got <- answered{m, b} })
	}
	// A query that asks for something else in its bits is another one.
	for _, change := range []func(*dns.Msg){
		func(m *dns.Msg) { m.CheckingDisabled = true },
		func(m *dns.Msg) { m.RecursionDesired = false },
		func(m *dns.Msg) { m.AuthenticatedData = true },
		func(m *dns.Msg) { m.SetEdns0(1232, false) },
		func(m *dns.Msg) { m.SetEdns0(1232, true) },
		func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA },
		func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
	} {
		m := question("www.example.com", dns.TypeA)
		change(m)
		s.HandleUDP(pack(m), clientAddr, func([]byte) {})
	}
	if n := len(s.flights()); n != 8 {
		t.Errorf("%d flights, want 1 for the identical queries and 7 for the others", n)
	}
	release()
	for range 900 {
		a := <-got
		var r dns.Msg
		if err := r.Unpack(a.raw); err != nil {
			t.Fatal(err)
		}
		if r.Id != a.sent.Id || r.Question[0] != a.sent.Question[0] || answerSection(&r) != "A 192.0.2.1" {
			t.Fatalf("answer %v to %v", &r, a.sent)
		}
	}
	s.Close()
	if n := up.queries.Load(); n > 8 {
		t.Errorf("%d queries went upstream, want 8 at most", n)
	}
}

// flights returns the keys of the flights on their way.
func (s *Server) flights() (keys []flightKey) {
	s.flight.mu.Lock()
	defer s.flight.mu.Unlock()
	for k := range s.flight.byKey {
		keys = append(keys, k)
	}
	return keys
}

// idsOf returns the ids under which m's question has gone upstream.
func (s *Server) idsOf(m *dns.Msg) []uint16 {
	q, _, _ := parseQuery(pack(m))
	s.flight.mu.Lock()
	defer s.flight.mu.Unlock()
	if f := s.flight.byKey[flightKey{s.ring.Load(), string(q.appendKey(nil))}]; f != nil {
		return append([]uint16(nil), f.ids...)
	}
	return nil
}

// inFlight returns the counts of admission.
func (s *Server) inFlight() (total, clients int) {
	s.flight.mu.Lock()
	defer s.flight.mu.Unlock()
	return s.dir.queries.Used(), len(s.flight.client)
}

// TestLimits is RX-14: 5000 queries to a dead upstream.
func TestLimits(t *testing.T) {
	dead := silent(t)
	s := newServer(t, Config{Upstreams: []netip.AddrPort{dead.addr}})
	quick(s, time.Second)
	var mu sync.Mutex
	refusedAtOnce := make(map[netip.Addr]int)
	for i := range 5000 {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, byte(100 + i%10)}), uint16(1024+i))
		m := question("n"+strings.Repeat("x", i%50)+"."+string(rune('a'+i%26))+".example", dns.TypeA)
		m.Question[0].Qtype = uint16(1000 + i)
		called := false
		s.HandleUDP(pack(m), from, func(b []byte) {
			mu.Lock()
			defer mu.Unlock()
			if rcodeOf(b) != rcodeServFail {
				t.Errorf("rcode %d", rcodeOf(b))
			}
			if !called {
				refusedAtOnce[from.Addr()]++
			}
		})
		mu.Lock()
		called = true
		mu.Unlock()
	}
	total, _ := s.inFlight()
	// Ten clients share all but what is kept for the eleventh.
	if total > maxInFlight || total < maxInFlight*19/20 {
		t.Errorf("%d in flight, want nearly %d", total, maxInFlight)
	}
	if n := s.env.Drops.Get(drop.DNSLimit); n != uint64(5000-total) {
		t.Errorf("%d counted as over the limit, want %d", n, 5000-total)
	}
	s.Close()
	if total, clients := s.inFlight(); total != 0 || clients != 0 {
		t.Errorf("after Close %d in flight of %d clients", total, clients)
	}
}

func TestLimitPerClient(t *testing.T) {
	dead := silent(t)
	n := testNet
	n.Limits.DNSQueries = 7
	s := New(Env{Drops: new(drop.Counters)}, n)
	defer s.Close()
	s.Configure(Config{Upstreams: []netip.AddrPort{dead.addr}, Hosts: testHosts})
	for i := range 20 {
		m := question("x.example", uint16(1000+i))
		s.HandleUDP(pack(m), clientAddr, func([]byte) {})
	}
	if total, _ := s.inFlight(); total != 7 {
		t.Errorf("%d in flight, want 7", total)
	}
	// Local names cost nothing, and another client has its own count.
	wantRcode(t, ask(t, s, question("web", dns.TypeA)), dns.RcodeSuccess)
	s.HandleUDP(pack(question("x.example", 5000)), netip.MustParseAddrPort("10.0.2.101:1"), func([]byte) {})
	if total, _ := s.inFlight(); total != 8 {
		t.Errorf("%d in flight, want 8", total)
	}
}

// TestFlights compares admission with a model that counts.
func TestFlights(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var f flights
		f.init(3, quota.NewPool(0))
		type entry struct{ client, name int }
		var model []entry
		running, one := make(map[string]*flight), newRing(nil)
		gate := make(chan struct{})
		defer func() { close(gate); f.wg.Wait() }()
		t.Repeat(map[string]func(*rapid.T){
			"join": func(t *rapid.T) {
				e := entry{rapid.IntRange(0, 3).Draw(t, "client"), rapid.IntRange(0, 3).Draw(t, "name")}
				q, _, _ := parseQuery(pack(question(string(rune('a'+e.name)), dns.TypeA)))
				want, mine := joinFirst, 0
				for _, m := range model {
					if m.client == e.client {
						mine++
					}
					if m.name == e.name {
						want = joinOther
					}
				}
				if mine == 3 {
					want = joinLimit
				}
				var started *flight
				begun := make(chan struct{})
				got := f.join(one, &waiter{q: q, client: client{mac: l2.MAC{2, byte(e.client)}}}, func(fl *flight) {
					started = fl
					close(begun)
					<-gate
				})
				if got != want {
					t.Fatalf("join %v = %d, want %d; model %v", e, got, want, model)
				}
				if got == joinFirst {
					<-begun
					running[string(q.appendKey(nil))] = started
				}
				if got != joinLimit {
					model = append(model, e)
				}
			},
			"finish": func(t *rapid.T) {
				name := rapid.IntRange(0, 3).Draw(t, "name")
				q, _, _ := parseQuery(pack(question(string(rune('a'+name)), dns.TypeA)))
				fl := running[string(q.appendKey(nil))]
				if fl == nil {
					return
				}
				delete(running, fl.key.question)
				var rest []entry
				waiting := 0
				for _, m := range model {
					if m.name == name {
						waiting++
					} else {
						rest = append(rest, m)
					}
				}
				ws := f.finish(fl)
				if len(ws) != waiting {
					t.Fatalf("%d waiters, want %d", len(ws), waiting)
				}
				for _, w := range ws {
					f.release(w.client)
				}
				model = rest
			},
			"": func(t *rapid.T) {
				if n := f.pool.Used(); n != len(model) {
					t.Fatalf("total %d, want %d", n, len(model))
				}
			},
		})
	})
}

// TestConfigureDuringFlight: a query after Configure does not join a flight to the old upstreams (DN-17).
func TestConfigureDuringFlight(t *testing.T) {
	dead, live := silent(t), startUpstream(t, answerA, nil)
	s := newServer(t, Config{Upstreams: []netip.AddrPort{dead.addr}})
	old := make(chan []byte, 1)
	s.HandleUDP(pack(question("x.example", dns.TypeA)), clientAddr, func(b []byte) { old <- b })
	s.Configure(Config{Upstreams: []netip.AddrPort{live.addr}})
	wantRcode(t, ask(t, s, question("x.example", dns.TypeA)), dns.RcodeSuccess)
	s.Close() // the old one ends, with an answer
	if b := <-old; rcodeOf(b) != rcodeServFail {
		t.Errorf("rcode %d, want SERVFAIL", rcodeOf(b))
	}
	if total, _ := s.inFlight(); total != 0 {
		t.Errorf("%d in flight after Close", total)
	}
}

// TestLoop is DN-12 at work: an upstream that forwards to us does not make a storm.
func TestLoop(t *testing.T) {
	for name, changeID := range map[string]bool{"id kept": false, "id changed": true} {
		t.Run(name, func(t *testing.T) {
			up := bindUpstream(t, "127.0.0.1:0")
			s := newServer(t, Config{Upstreams: []netip.AddrPort{up.addr}})
			quick(s, 200*time.Millisecond)
			up.serve(t, func(q []byte, from netip.AddrPort) []byte {
				id := binary.BigEndian.Uint16(q)
				if changeID {
					binary.BigEndian.PutUint16(q, id+1)
				}
				s.HandleUDP(q, netip.MustParseAddrPort("10.0.2.100:53"), func(b []byte) {
					binary.BigEndian.PutUint16(b, id)
					up.send(from, b)
				})
				return nil
			}, nil)
			start := time.Now()
			wantRcode(t, ask(t, s, question("x.example", dns.TypeA)), dns.RcodeServerFailure)
			if d := time.Since(start); d > 3*s.time.overall || !changeID && d > s.time.overall/2 {
				t.Errorf("SERVFAIL after %v", d)
			}
			s.Close()
			// One, and its repetitions at the pace of tries.
			if n := up.queries.Load(); n > 4 || !changeID && n > 1 {
				t.Errorf("%d copies of the query upstream", n)
			}
		})
	}
}

// TestUsable is DN-12 at the door: which upstreams Configure takes.
func TestUsable(t *testing.T) {
	s := newServer(t, Config{})
	s.source = func(netip.AddrPort) (netip.Addr, error) { return netip.MustParseAddr("198.51.100.1"), nil }
	for name, tt := range map[string]struct{ in, want string }{
		"ordinary":           {"192.0.2.1:53 192.0.2.2:53", "192.0.2.1:53 192.0.2.2:53"},
		"three at most":      {"192.0.2.1:53 192.0.2.2:53 192.0.2.3:53 192.0.2.4:53", "192.0.2.1:53 192.0.2.2:53 192.0.2.3:53"},
		"twice":              {"192.0.2.1:53 192.0.2.1:53", "192.0.2.1:53"},
		"mapped":             {"[::ffff:192.0.2.1]:53", "192.0.2.1:53"},
		"stub":               {"127.0.0.53:53", "127.0.0.53:53"},
		"zone":               {"[fe80::1%2]:53", "[fe80::1%2]:53"},
		"zone by name":       {"[fe80::1%eth0]:53", ""},
		"no addresses":       {"0.0.0.0:53 [::]:53 224.0.0.251:5353 192.0.2.1:0", ""},
		"our own":            {"10.0.2.2:53 10.0.2.3:53 [fd00::2]:53 [fd00::3]:53 192.0.2.1:53", "192.0.2.1:53"},
		"docker's and other": {"127.0.0.11:53 192.0.2.1:53", "192.0.2.1:53"},
		"docker's alone":     {"127.0.0.11:53", "127.0.0.11:53"},
	} {
		var in []netip.AddrPort
		for _, f := range strings.Fields(tt.in) {
			in = append(in, netip.MustParseAddrPort(f))
		}
		var got []string
		for _, ap := range s.usable(in) {
			got = append(got, ap.String())
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %v, want %s", name, got, tt.want)
		}
	}
}

// TestUsableAnyNeighbour: where the gateways are the host's routers, they are servers like any other; the Network's own
// name server is not.
func TestUsableAnyNeighbour(t *testing.T) {
	network := testNet
	network.AnyNeighbour = true
	s := New(Env{Drops: new(drop.Counters)}, network)
	defer s.Close()
	s.source = func(netip.AddrPort) (netip.Addr, error) { return netip.MustParseAddr("198.51.100.1"), nil }
	at := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 53) }
	got := s.usable([]netip.AddrPort{at(network.DNS4), at(network.Gateway4), at(network.DNS6), at(network.Gateway6)})
	if want := []netip.AddrPort{at(network.Gateway4), at(network.Gateway6)}; !slices.Equal(got, want) {
		t.Errorf("usable: %v, want %v", got, want)
	}
}

// TestOwnAddressOfHost: where the host has a network of the same numbers, as in a sandbox within a sandbox, its server is
// not us.
func TestOwnAddressOfHost(t *testing.T) {
	own := netip.AddrPortFrom(testNet.DNS4, 53)
	s := newServer(t, Config{})
	s.source = func(netip.AddrPort) (netip.Addr, error) { return netip.MustParseAddr("10.0.2.15"), nil }
	if got := s.usable([]netip.AddrPort{own}); len(got) != 1 {
		t.Errorf("usable = %v, want the address", got)
	}
	if src, err := sourceFor(netip.MustParseAddrPort("127.0.0.53:53")); err != nil || src != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("sourceFor loopback = %v, %v", src, err)
	}
}

// DN-19, HC-32: containers that flood, in the same Network or in others of the process, use up their own share of
// what may be in flight. Another still is answered: local names in no time, others as ever.
func TestDN19Flood(t *testing.T) {
	dead := silent(t)
	l := newLAN(t, "netA", "netB")
	l.networks["netB"].Configure(Config{Upstreams: []netip.AddrPort{dead.addr}})
	l.endpoint("netA", "10.1.0.2", spec.Resolver{}, "a2")
	for i := range 12 {
		flooder := netip.AddrFrom4([4]byte{10, 2, 0, byte(10 + i)})
		for j := range 500 {
			m := question("x.example", uint16(1000+500*i+j))
			l.networks["netB"].HandleUDP(pack(m), netip.AddrPortFrom(flooder, 1), func([]byte) {})
		}
	}
	if n := l.dir.queries.Used(); n < maxInFlight*9/10 || n > maxInFlight {
		t.Fatalf("the flood has %d in flight", n)
	}
	for range 100 {
		if got := l.ask("netA", "10.1.0.2", "a2", dns.TypeA); got != "NOERROR A 10.1.0.2" {
			t.Fatalf("a local name: %q", got)
		}
		if got := l.ask("netA", "10.1.0.2", "www.example.com", dns.TypeA); got != forwarded {
			t.Fatalf("another name: %q", got)
		}
	}
}
