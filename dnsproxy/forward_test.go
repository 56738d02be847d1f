package dnsproxy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestForward: what goes upstream and what comes back.
func TestForward(t *testing.T) {
	var mu sync.Mutex
	var seen []byte
	up := startUpstream(t, func(q []byte, from netip.AddrPort) []byte {
		mu.Lock()
		defer mu.Unlock()
		seen = q
		return answerA(q, from)
	}, nil)
	s := newServer(t, Config{Upstreams: []netip.AddrPort{up.addr}})
	for bits := range 32 {
		q := question("wWw.eXample.com", dns.TypeA)
		q.RecursionDesired, q.CheckingDisabled, q.AuthenticatedData = bits&1 != 0, bits&2 != 0, bits&4 != 0
		if bits&8 != 0 {
			q.SetEdns0(4096, bits&16 != 0)
			// A cookie is between the client and us; it must not reach the upstream.
			q.IsEdns0().Option = append(q.IsEdns0().Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"})
		}
		r := ask(t, s, q)
		if got := answerSection(r); got != "A 192.0.2.1" || r.Question[0] != q.Question[0] {
			t.Fatalf("answer %q to %v", got, r.Question)
		}
		var sent dns.Msg
		mu.Lock()
		err := sent.Unpack(seen)
		mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		if sent.RecursionDesired != q.RecursionDesired || sent.CheckingDisabled != q.CheckingDisabled ||
			sent.AuthenticatedData != q.AuthenticatedData || sent.Question[0] != q.Question[0] {
			t.Errorf("bits %05b: sent %v", bits, &sent)
		}
		o := sent.IsEdns0()
		if (o != nil) != (bits&8 != 0) || o != nil && (o.Do() != (bits&16 != 0) || o.UDPSize() != upstreamSize || len(o.Option) != 0) {
			t.Errorf("bits %05b: sent OPT %v", bits, o)
		}
	}
}

// TestAnswerUntouched: an answer with records nobody here knows comes back byte by byte.
func TestAnswerUntouched(t *testing.T) {
	body := "\xc0\x0c\xff\x11\x00\x01\x00\x00\x00\x05\x00\x03\x01\xff\x00"
	up := startUpstream(t, func(q []byte, _ netip.AddrPort) []byte {
		r := append(bytes.Clone(q), body...)
		binary.BigEndian.PutUint16(r[2:], flagQR|flagRD|flagRA|flagAD|flagAA)
		r[7] = 1
		return r
	}, nil)
	s := newServer(t, Config{Upstreams: []netip.AddrPort{up.addr}})
	q := pack(question("x.example", 65297))
	got := askRaw(t, s, q, clientAddr)
	if want := string(q[headerLen:]) + body; string(got[headerLen:]) != want || !bytes.Equal(got[:2], q[:2]) {
		t.Errorf("answer %q, want the id and %q", got, want)
	}
}

// TestRandomPortAndID is DN-01.
func TestRandomPortAndID(t *testing.T) {
	const n = 10000
	ports, ids := make(map[uint16]bool), make(map[uint16]bool)
	var series []float64
	up := startUpstream(t, func(q []byte, from netip.AddrPort) []byte {
		id := binary.BigEndian.Uint16(q)
		ports[from.Port()], ids[id] = true, true
		series = append(series, float64(id))
		return answerA(q, from)
	}, nil)
	s := newServer(t, Config{Upstreams: []netip.AddrPort{up.addr}})
	for i := range n {
		ask(t, s, question(fmt.Sprintf("n%d.example", i), dns.TypeA))
	}
	s.Close()
	up.conn.Close()
	up.wg.Wait()
	if len(ports) < 8000 || len(ids) < 9000 {
		t.Errorf("%d ports and %d ids in %d queries, want at least 8000 and 9000", len(ports), len(ids), n)
	}
	// Of independent ids the correlation is within 4 standard errors of zero.
	if c := correlation(series); math.Abs(c) > 4/math.Sqrt(n) {
		t.Errorf("serial correlation %.3f", c)
	}
}

// correlation is the correlation of a series with itself shifted by one.
func correlation(x []float64) float64 {
	var mean, cov, variance float64
	for _, v := range x {
		mean += v / float64(len(x))
	}
	for i, v := range x {
		variance += (v - mean) * (v - mean)
		if i > 0 {
			cov += (v - mean) * (x[i-1] - mean)
		}
	}
	return cov / variance
}

// TestForgedReplies is DN-02: everything that could pass for the answer to a careless reader comes first.
func TestForgedReplies(t *testing.T) {
	stranger, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	up := bindUpstream(t, "127.0.0.1:0")
	up.serve(t, func(q []byte, from netip.AddrPort) []byte {
		good := aRecord(q)
		forged := good.Copy()
		forged.Answer[0].(*dns.A).A = net.IPv4(6, 6, 6, 6)
		full := pack(forged)
		stranger.WriteToUDPAddrPort(full, from) // right in everything but where it comes from
		for _, change := range []func(b []byte) []byte{
			func(b []byte) []byte { return nil },
			func(b []byte) []byte { return b[:5] },
			func(b []byte) []byte { return b[:len(b)-1] },              // record cut
			func(b []byte) []byte { return append(b, 0) },              // bytes behind
			func(b []byte) []byte { b[0]++; return b },                 // id
			func(b []byte) []byte { b[2] &^= 0x80; return b },          // a query
			func(b []byte) []byte { b[2] |= 0x20; return b },           // opcode
			func(b []byte) []byte { b[headerLen+1] ^= 0x20; return b }, // letter case
			func(b []byte) []byte { b[headerLen+1]++; return b },       // name
			func(b []byte) []byte { b[questionEnd(b)-3]++; return b },  // type
			func(b []byte) []byte { b[5] = 0; return b },               // no question
			func(b []byte) []byte { b[7] = 200; return b },             // count lies
		} {
			up.send(from, change(bytes.Clone(full)))
		}
		return pack(good)
	}, nil)
	s := newServer(t, Config{Upstreams: []netip.AddrPort{up.addr}})
	for i := range 100 {
		r := ask(t, s, question(fmt.Sprintf("a%d.Example", i), dns.TypeA))
		if got := answerSection(r); got != "A 192.0.2.1" {
			t.Fatalf("query %d: answer %q, rcode %d", i, got, r.Rcode)
		}
	}
}

// silent is a socket that takes queries and never answers.
func silent(t *testing.T) *fakeUpstream { return startUpstream(t, nil, nil) }

// closedPort is an address at which nobody listens.
func closedPort(t *testing.T) netip.AddrPort {
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// TestOneDeadUpstream is the first half of DN-10.
func TestOneDeadUpstream(t *testing.T) {
	dead, live := silent(t), startUpstream(t, answerA, nil)
	s := newServer(t, Config{Upstreams: []netip.AddrPort{dead.addr, live.addr}})
	wantRcode(t, ask(t, s, question("first.example", dns.TypeA)), dns.RcodeSuccess)
	wantRcode(t, ask(t, s, question("second.example", dns.TypeA)), dns.RcodeSuccess)
	if n := dead.queries.Load(); n != 1 {
		t.Errorf("the dead upstream was asked %d times, want once: it was not remembered", n)
	}
}

// TestAllUpstreamsDead is the second half of DN-10: SERVFAIL in time, and local names at once meanwhile.
func TestAllUpstreamsDead(t *testing.T) {
	a, b, c := silent(t), silent(t), silent(t)
	s := newServer(t, Config{Upstreams: []netip.AddrPort{a.addr, b.addr, c.addr}, Hosts: testHosts})
	quick(s, 100*time.Millisecond)
	done := make(chan *dns.Msg)
	var wg sync.WaitGroup
	wg.Go(func() { done <- ask(t, s, question("x.example", dns.TypeA)) })
	defer wg.Wait()
	start := time.Now()
	for {
		select {
		case r := <-done:
			wantRcode(t, r, dns.RcodeServerFailure)
			if d := time.Since(start); d > 3*s.time.overall {
				t.Errorf("SERVFAIL after %v, want about %v", d, s.time.overall)
			}
			for i, u := range []*fakeUpstream{a, b, c} {
				if u.queries.Load() == 0 {
					t.Errorf("upstream %d was never asked", i)
				}
			}
			return
		default:
			// No clock is needed to know that a local name waits for nobody: its answer is there when
			// the call returns.
			var local []byte
			s.HandleUDP(pack(question("web", dns.TypeA)), clientAddr, func(b []byte) { local = b })
			if local == nil || rcodeOf(local) != rcodeSuccess {
				t.Fatal("a local name was not answered at once")
			}
		}
	}
}

// TestDefaultTiming: the proportions above hold for the real durations too.
func TestDefaultTiming(t *testing.T) {
	d := defaultTiming
	if d.try > 2*time.Second || d.overall > 5*time.Second || d.overall < 3*d.try || d.idle != 3*time.Second || d.message > 10*time.Second {
		t.Errorf("timing %+v", d)
	}
}

// TestRefusingUpstreams: an upstream that is not there, or refuses, costs no waiting.
func TestRefusingUpstreams(t *testing.T) {
	refusal := func(code int) *fakeUpstream {
		return startUpstream(t, func(q []byte, _ netip.AddrPort) []byte {
			m := aRecord(q)
			m.Answer, m.Rcode = nil, code
			return pack(m)
		}, nil)
	}
	live := startUpstream(t, answerA, nil)
	for name, tt := range map[string]struct {
		ups  []netip.AddrPort
		want int
	}{
		"nobody there":          {[]netip.AddrPort{closedPort(t)}, dns.RcodeServerFailure},
		"next one answers":      {[]netip.AddrPort{closedPort(t), live.addr}, dns.RcodeSuccess},
		"after SERVFAIL":        {[]netip.AddrPort{refusal(dns.RcodeServerFailure).addr, live.addr}, dns.RcodeSuccess},
		"after REFUSED":         {[]netip.AddrPort{refusal(dns.RcodeRefused).addr, live.addr}, dns.RcodeSuccess},
		"REFUSED by all":        {[]netip.AddrPort{refusal(dns.RcodeRefused).addr, closedPort(t)}, dns.RcodeRefused},
		"NXDOMAIN is an answer": {[]netip.AddrPort{refusal(dns.RcodeNameError).addr, live.addr}, dns.RcodeNameError},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, Config{Upstreams: tt.ups})
			start := time.Now()
			wantRcode(t, ask(t, s, question("x.example", dns.TypeA)), tt.want)
			if d := time.Since(start); d >= s.time.try {
				t.Errorf("took %v, as if it had waited", d)
			}
		})
	}
}

// TestSlowUpstream: the first upstream answers after the second was asked, and its answer counts. The
// question goes to it once more meanwhile, under the same id from the same port.
func TestSlowUpstream(t *testing.T) {
	type datagram struct {
		id   uint16
		from netip.AddrPort
	}
	var seen []datagram
	slow := startUpstream(t, func(q []byte, from netip.AddrPort) []byte {
		seen = append(seen, datagram{binary.BigEndian.Uint16(q), from})
		if len(seen) < 3 {
			return nil
		}
		return answerA(q, from)
	}, nil)
	s := newServer(t, Config{Upstreams: []netip.AddrPort{slow.addr}})
	quick(s, 100*time.Millisecond)
	wantRcode(t, ask(t, s, question("x.example", dns.TypeA)), dns.RcodeSuccess)
	slow.conn.Close()
	slow.wg.Wait()
	if len(seen) != 3 || seen[0] != seen[1] || seen[1] != seen[2] {
		t.Errorf("datagrams %v, want one three times", seen)
	}
}

// TestRecovery: an upstream that is back is found by a probe nobody waits for, and is the first again.
func TestRecovery(t *testing.T) {
	var mu sync.Mutex
	alive := false
	answered := make(chan struct{}, 1000)
	first := startUpstream(t, func(q []byte, from netip.AddrPort) []byte {
		mu.Lock()
		defer mu.Unlock()
		if !alive {
			return nil
		}
		answered <- struct{}{}
		return answerA(q, from)
	}, nil)
	second := startUpstream(t, answerA, nil)
	s := newServer(t, Config{Upstreams: []netip.AddrPort{first.addr, second.addr}})
	quick(s, 50*time.Millisecond)
	ask(t, s, question("down.example", dns.TypeA))
	mu.Lock()
	alive = true
	mu.Unlock()
	for i := 0; ; i++ {
		before := second.queries.Load()
		ask(t, s, question(fmt.Sprintf("n%d.example", i), dns.TypeA))
		if second.queries.Load() == before {
			break // the first is first again
		}
	}
	if len(answered) == 0 {
		t.Error("the second upstream was not asked, nor was the first")
	}
}

// TestTruncation is DN-11.
func TestTruncation(t *testing.T) {
	big := func(q []byte, n int) []byte {
		m := aRecord(q)
		for i := range n {
			m.Answer = append(m.Answer, &dns.TXT{
				Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET},
				Txt: []string{strings.Repeat(string(rune('a'+i%26)), 200)},
			})
		}
		return pack(m)
	}
	up := startUpstream(t, func(q []byte, from netip.AddrPort) []byte {
		r := aRecord(q)
		r.Answer, r.Truncated = nil, true
		return pack(r)
	}, func(q []byte) []byte {
		n := 5 // more than 512 and 1024 bytes, less than 1232
		if strings.Contains(string(q), "huge") {
			n = 19 // just over 4 KiB
		}
		return big(q, n)
	})
	s := newServer(t, Config{Upstreams: []netip.AddrPort{up.addr}})
	for _, tt := range []struct {
		name  string
		size  uint16
		whole bool
	}{
		{"big", 0, false}, {"big", 512, false}, {"big", 100, false}, {"big", 1232, true}, {"big", 4096, true}, {"big", 65535, true},
		{"huge", 0, false}, {"huge", 1232, false}, {"huge", 4096, false}, {"huge", 65535, false},
	} {
		t.Run(fmt.Sprint(tt.name, tt.size), func(t *testing.T) {
			q := question(tt.name+".example", dns.TypeTXT)
			if tt.size > 0 {
				q.SetEdns0(tt.size, false)
			}
			r := ask(t, s, q)
			wantRcode(t, r, dns.RcodeSuccess)
			if r.Truncated == tt.whole || (len(r.Answer) > 0) != tt.whole || (r.IsEdns0() != nil) != (tt.size > 0) {
				t.Errorf("truncated %v, %d answers, OPT %v", r.Truncated, len(r.Answer), r.IsEdns0())
			}
		})
	}
}

// TestTruncatedWithoutTCP: when the upstream's TCP is dead the client gets what there is.
func TestTruncatedWithoutTCP(t *testing.T) {
	up := startUpstream(t, func(q []byte, from netip.AddrPort) []byte {
		r := aRecord(q)
		r.Truncated = true
		return pack(r)
	}, nil)
	s := newServer(t, Config{Upstreams: []netip.AddrPort{up.addr}})
	if r := ask(t, s, question("x.example", dns.TypeA)); !r.Truncated {
		t.Errorf("answer %v, want it truncated", r)
	}
}

// TestUpstreamAddresses: upstreams over IPv6 and elsewhere on loopback.
func TestUpstreamAddresses(t *testing.T) {
	up := bindUpstream(t, "[::1]:0")
	up.serve(t, answerA, nil)
	s := newServer(t, Config{Upstreams: []netip.AddrPort{up.addr}})
	wantRcode(t, ask(t, s, question("six.example", dns.TypeA)), dns.RcodeSuccess)
	// The stub resolver of systemd.
	stub := bindUpstream(t, "127.0.0.53:0")
	stub.serve(t, answerA, nil)
	s.Configure(Config{Upstreams: []netip.AddrPort{stub.addr}})
	wantRcode(t, ask(t, s, question("stub.example", dns.TypeA)), dns.RcodeSuccess)
}
