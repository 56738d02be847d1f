package dnsproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

var testHosts = map[string][]netip.Addr{
	"web":                            {netip.MustParseAddr("10.0.2.100"), netip.MustParseAddr("fd00::100")},
	"DB.internal.":                   {netip.MustParseAddr("10.0.2.101")},
	"six":                            {netip.MustParseAddr("fd00::102")},
	"empty":                          nil,
	strings.Repeat("x", 64) + ".bad": {netip.MustParseAddr("10.0.2.9")},
}

// answerSection is r's answers without owner, TTL and class, sorted.
func answerSection(r *dns.Msg) string {
	var out []string
	for _, rr := range r.Answer {
		h := rr.Header()
		out = append(out, dns.TypeToString[h.Rrtype]+" "+strings.TrimPrefix(rr.String(), h.String()))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// TestLocalNames: each is answered by the Server itself, and nothing about them goes upstream (DN-15, DN-16).
func TestLocalNames(t *testing.T) {
	up := startUpstream(t, answerA, nil)
	s := newServer(t, Config{Upstreams: []netip.AddrPort{up.addr}, Hosts: testHosts})
	for _, tt := range []struct {
		name  string
		qtype uint16
		rcode int
		want  string
	}{
		{"web", dns.TypeA, dns.RcodeSuccess, "A 10.0.2.100"},
		{"web", dns.TypeAAAA, dns.RcodeSuccess, "AAAA fd00::100"},
		{"web", dns.TypeANY, dns.RcodeSuccess, "A 10.0.2.100, AAAA fd00::100"},
		{"WeB.", dns.TypeA, dns.RcodeSuccess, "A 10.0.2.100"},
		{"db.INTERNAL", dns.TypeA, dns.RcodeSuccess, "A 10.0.2.101"},
		{"db.internal", dns.TypeAAAA, dns.RcodeSuccess, ""},
		{"six", dns.TypeA, dns.RcodeSuccess, ""},
		{"web", dns.TypeMX, dns.RcodeSuccess, ""},
		{"web", dns.TypeHTTPS, dns.RcodeSuccess, ""},
		{"empty", dns.TypeA, dns.RcodeSuccess, ""},
		{"100.2.0.10.in-addr.arpa", dns.TypePTR, dns.RcodeSuccess, "PTR web."},
		{"101.2.0.10.IN-ADDR.arpa", dns.TypePTR, dns.RcodeSuccess, "PTR DB.internal."},
		{"100.2.0.10.in-addr.arpa", dns.TypeA, dns.RcodeSuccess, ""},
		{reverse("fd00::102"), dns.TypePTR, dns.RcodeSuccess, "PTR six."},
		{reverse("10.0.2.77"), dns.TypePTR, dns.RcodeNameError, ""},
		{reverse("fd00::77"), dns.TypePTR, dns.RcodeNameError, ""},
	} {
		t.Run(fmt.Sprint(tt.name, " ", dns.TypeToString[tt.qtype]), func(t *testing.T) {
			q := question(tt.name, tt.qtype)
			r := ask(t, s, q)
			wantRcode(t, r, tt.rcode)
			if got := answerSection(r); got != tt.want {
				t.Errorf("answer %q, want %q", got, tt.want)
			}
			if r.Question[0] != q.Question[0] {
				t.Errorf("question came back as %v, want %v", r.Question[0], q.Question[0])
			}
			for _, rr := range r.Answer {
				if rr.Header().Ttl > 1 {
					t.Errorf("TTL %d, want at most 1", rr.Header().Ttl)
				}
			}
		})
	}
	if n := up.queries.Load(); n != 0 {
		t.Errorf("%d queries for local names went upstream", n)
	}
}

// TestNotLocal: names that only look local are forwarded.
func TestNotLocal(t *testing.T) {
	up := startUpstream(t, answerA, nil)
	s := newServer(t, Config{Upstreams: []netip.AddrPort{up.addr}, Hosts: testHosts})
	for i, name := range []string{
		"web.example", "xweb", reverse("192.0.2.7"), reverse("2001:db8::1"), "2.0.10.in-addr.arpa",
		"1.100.2.0.10.in-addr.arpa", "256.2.0.10.in-addr.arpa", "x.0.0.d.f.ip6.arpa", "ip6.arpa",
	} {
		wantRcode(t, ask(t, s, question(name, dns.TypePTR)), dns.RcodeSuccess)
		if n := up.queries.Load(); n != int64(i+1) {
			t.Fatalf("%s: %d queries upstream, want %d", name, n, i+1)
		}
	}
	chaos := question("web", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	before := up.queries.Load()
	if r := ask(t, s, chaos); len(r.Answer) > 0 || up.queries.Load() != before {
		t.Errorf("a local name of another class: %v, with %d queries upstream", r, up.queries.Load()-before)
	}
	chaos.Question[0].Name = "version.bind."
	ask(t, s, chaos)
	if up.queries.Load() == before {
		t.Error("a name of another class was answered here")
	}
}

func TestLocalTruncation(t *testing.T) {
	var addrs []netip.Addr
	for a := netip.MustParseAddr("10.0.2.1"); len(addrs) < 200; a = a.Next() {
		addrs = append(addrs, a)
	}
	s := newServer(t, Config{Hosts: map[string][]netip.Addr{"many": addrs}})
	if r := ask(t, s, question("many", dns.TypeA)); !r.Truncated || len(r.Answer) != 0 {
		t.Errorf("truncated %v with %d answers, want a truncated message", r.Truncated, len(r.Answer))
	}
	q := question("many", dns.TypeA)
	q.SetEdns0(4096, false)
	if r := ask(t, s, q); r.Truncated || len(r.Answer) != 200 || r.IsEdns0() == nil {
		t.Errorf("truncated %v with %d answers, want all 200 and an OPT record", r.Truncated, len(r.Answer))
	}
}

// TestReverseAddr compares with dns.ReverseAddr, which goes the other way.
func TestReverseAddr(t *testing.T) {
	for _, s := range []string{"0.0.0.0", "10.0.2.3", "255.254.253.252", "::", "fd00::3", "2001:db8:1:2:3:4:5:6"} {
		var buf [maxName]byte
		n, err := dns.PackDomainName(reverse(s), buf[:], 0, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		if a, ok := reverseAddr(string(buf[:n])); !ok || a != netip.MustParseAddr(s) {
			t.Errorf("reverseAddr(%s) = %v, %v", s, a, ok)
		}
	}
}

// FZ-07: a label that ends like a reverse name is no reverse name, and no panic.
func TestReverseAddrInLabel(t *testing.T) {
	for _, s := range []string{"\x0cxx\x0cx\x07in-addr\x04arpa\x00", "\x0d1\x0c1.\x07in-addr\x04arpa\x00", "\x09x\x03ip6\x04arpa\x00\x00", "\x07in-addr\x04arpa\x00"} {
		if a, ok := reverseAddr(s); ok {
			t.Errorf("%q is the name of %v", s, a)
		}
	}
}

func reverse(addr string) string {
	r, err := dns.ReverseAddr(addr)
	if err != nil {
		panic(err)
	}
	return r
}
