package dnsproxy

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/usernet/usernet/stack/spec"

	"github.com/usernet/usernet/stack/drop"
)

// header returns a message header with the given counts and one byte string behind it.
func header(flags uint16, qd, an, ns, ar uint16, body string) []byte {
	b := []byte{0x12, 0x34}
	for _, v := range []uint16{flags, qd, an, ns, ar} {
		b = binary.BigEndian.AppendUint16(b, v)
	}
	return append(b, body...)
}

const silence = -1

var bombs = []struct {
	name  string
	msg   []byte
	rcode int
}{
	{"empty", nil, silence},
	{"short", []byte("\x12\x34\x01\x00\x00"), silence},
	{"a response", header(flagQR, 1, 0, 0, 0, "\x01a\x00\x00\x01\x00\x01"), silence},
	{"text", []byte("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"), dns.RcodeNotImplemented},
	{"ssh", []byte("SSH-2.0-OpenSSH_9.2p1 Debian-2"), dns.RcodeNotImplemented},
	{"status", header(2<<11, 1, 0, 0, 0, "\x01a\x00\x00\x01\x00\x01"), dns.RcodeNotImplemented},
	{"notify", header(4<<11, 1, 0, 0, 0, "\x01a\x00\x00\x06\x00\x01"), dns.RcodeNotImplemented},
	{"update", header(5<<11, 1, 0, 0, 0, "\x01a\x00\x00\x06\x00\x01"), dns.RcodeNotImplemented},
	{"no question", header(0, 0, 0, 0, 0, ""), dns.RcodeFormatError},
	{"two questions", header(0, 2, 0, 0, 0, strings.Repeat("\x01a\x00\x00\x01\x00\x01", 2)), dns.RcodeFormatError},
	{"counts 65535 in 12 bytes", header(0, 65535, 65535, 65535, 65535, ""), dns.RcodeFormatError},
	{"records that are not there", header(0, 1, 65535, 65535, 65535, "\x01a\x00\x00\x01\x00\x01"), dns.RcodeFormatError},
	{"pointer to itself", header(0, 1, 0, 0, 0, "\xc0\x0c\x00\x01\x00\x01"), dns.RcodeFormatError},
	{"pointer loop", header(0, 1, 0, 0, 0, "\x01a\xc0\x0c\x00\x01\x00\x01"), dns.RcodeFormatError},
	{"pointer forward", header(0, 1, 0, 0, 0, "\xc0\x12\x00\x01\x00\x01\x01a\x00"), dns.RcodeFormatError},
	{"label 64", header(0, 1, 0, 0, 0, "\x40"+strings.Repeat("a", 64)+"\x00\x00\x01\x00\x01"), dns.RcodeFormatError},
	{"label type 10", header(0, 1, 0, 0, 0, "\x80a\x00\x00\x01\x00\x01"), dns.RcodeFormatError},
	{"name 256", header(0, 1, 0, 0, 0, strings.Repeat("\x3f"+strings.Repeat("a", 63), 4)+"\x00\x00\x01\x00\x01"), dns.RcodeFormatError},
	{"name without end", header(0, 1, 0, 0, 0, "\x01a"), dns.RcodeFormatError},
	{"question cut", header(0, 1, 0, 0, 0, "\x01a\x00\x00\x01\x00"), dns.RcodeFormatError},
	{"RDLENGTH lies", header(0, 1, 0, 0, 1, "\x01a\x00\x00\x01\x00\x01\x00\x00\x29\x04\xd0\x00\x00\x00\x00\xff\xff"), dns.RcodeFormatError},
	{"two OPT records", header(0, 1, 0, 0, 2, "\x01a\x00\x00\x01\x00\x01"+strings.Repeat("\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00", 2)), dns.RcodeFormatError},
	{"OPT of a name", header(0, 1, 0, 0, 1, "\x01a\x00\x00\x01\x00\x01"+"\x01b\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"), dns.RcodeFormatError},
	{"bytes behind", header(0, 1, 0, 0, 0, "\x01a\x00\x00\x01\x00\x01tunnel"), dns.RcodeFormatError},
	{"EDNS version 1", header(0, 1, 0, 0, 1, "\x01a\x00\x00\x01\x00\x01\x00\x00\x29\x04\xd0\x00\x01\x00\x00\x00\x00"), dns.RcodeBadVers},
	{"zone transfer", header(0, 1, 0, 0, 0, "\x01a\x00\x00\xfc\x00\x01"), dns.RcodeNotImplemented},
}

// TestParserBombs is DN-05 and HC-19: none of it goes upstream.
func TestParserBombs(t *testing.T) {
	up := startUpstream(t, answerA, nil)
	s := newServer(t, Config{Upstreams: []netip.AddrPort{up.addr}})
	for i, tt := range bombs {
		t.Run(tt.name, func(t *testing.T) {
			var got []byte
			s.HandleUDP(tt.msg, clientAddr, func(b []byte) { got = b })
			if n := s.env.Drops.Get(drop.DNSMalformed); n != uint64(i+1) {
				t.Errorf("%d malformed queries counted, want %d", n, i+1)
			}
			if tt.rcode == silence {
				if got != nil {
					t.Errorf("answered %x, want silence", got)
				}
				return
			}
			var r dns.Msg
			if err := r.Unpack(got); err != nil {
				t.Fatalf("unpack answer %x: %v", got, err)
			}
			wantRcode(t, &r, tt.rcode)
			if r.Id != binary.BigEndian.Uint16(tt.msg) || !r.Response {
				t.Errorf("answer %v, want the query's id", r.MsgHdr)
			}
			if len(got) > len(tt.msg)+optLen {
				t.Errorf("%d bytes answered to %d", len(got), len(tt.msg))
			}
		})
	}
	if n := up.queries.Load(); n != 0 {
		t.Errorf("%d of the messages went upstream", n)
	}
}

// TestParserBombCost is the other half of DN-05: what a bomb costs.
func TestParserBombCost(t *testing.T) {
	s := newServer(t, Config{})
	for _, tt := range bombs {
		const runs = 100
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		for range runs {
			s.HandleUDP(tt.msg, clientAddr, func([]byte) {})
		}
		took := time.Since(start) / runs
		runtime.ReadMemStats(&after)
		if n := (after.TotalAlloc - before.TotalAlloc) / runs; n > 4096 || took > 100*time.Millisecond {
			t.Errorf("%s: %d bytes and %v, want at most 4096, and 1 ms (100 on a busy machine)", tt.name, n, took)
		}
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	q := question("www.example.com", dns.TypeA)
	q.SetEdns0(1232, true)
	msg := pack(q)
	if n := testing.AllocsPerRun(100, func() { parseQuery(msg) }); n != 0 {
		t.Errorf("parseQuery allocates %v times", n)
	}
}

// TestWithoutUpstreams: SERVFAIL, not NXDOMAIN, at once.
func TestWithoutUpstreams(t *testing.T) {
	s := newServer(t, Config{})
	wantRcode(t, ask(t, s, question("example.com", dns.TypeA)), dns.RcodeServerFailure)
}

func TestAfterClose(t *testing.T) {
	s := newServer(t, Config{Hosts: testHosts})
	s.Close()
	s.HandleUDP(pack(question("web", dns.TypeA)), clientAddr, func([]byte) { t.Error("answered after Close") })
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// FuzzHandle (FZ-07) compares every decision with dns.Msg.
func FuzzHandle(f *testing.F) {
	for _, b := range bombs {
		f.Add(b.msg)
	}
	for _, m := range []*dns.Msg{
		question("www.example.com", dns.TypeA), question(".", dns.TypeNS), question("web", dns.TypeAAAA),
		question("100.2.0.10.in-addr.arpa", dns.TypePTR), question(`a\.b\000\255.example`, dns.TypeTXT),
	} {
		f.Add(pack(m))
		m.SetEdns0(4096, true)
		m.CheckingDisabled = true
		f.Add(pack(m))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		var theirs dns.Msg
		theirErr := theirs.Unpack(msg)
		q, rcode, ok := parseQuery(msg)
		if ok && rcode == rcodeSuccess {
			checkForwarded(t, &q, msg, &theirs, theirErr)
		} else if theirErr == nil && ordinary(&theirs) {
			again, err := theirs.Pack()
			if err != nil {
				return // dns.Msg reads names it will not write
			}
			if _, rcode, ok := parseQuery(again); !ok || rcode != rcodeSuccess {
				t.Fatalf("refused with %d: %x\n%v", rcode, again, &theirs)
			}
		}
		checkReply(t, msg)
	})
}

// ordinary reports whether a forwarder has no reason to refuse m.
func ordinary(m *dns.Msg) bool {
	if m.Response || m.Opcode != dns.OpcodeQuery || len(m.Question) != 1 || len(m.Answer)+len(m.Ns) > 0 || len(m.Extra) > 1 {
		return false
	}
	if o := m.IsEdns0(); len(m.Extra) == 1 && (o == nil || o.Hdr.Name != "." || o.Version() != 0) {
		return false
	}
	return m.Question[0].Qtype != dns.TypeAXFR && m.Question[0].Qtype != dns.TypeIXFR
}

// checkForwarded checks what an accepted query becomes.
func checkForwarded(t *testing.T, q *query, msg []byte, theirs *dns.Msg, theirErr error) {
	up := q.appendUpstream(nil, 7)
	var sent dns.Msg
	if err := sent.Unpack(up); err != nil {
		t.Fatalf("unpack forwarded %x: %v", up, err)
	}
	if len(sent.Question) != 1 || len(sent.Answer)+len(sent.Ns) != 0 || sent.Id != 7 || sent.Opcode != dns.OpcodeQuery {
		t.Fatalf("forwarded %v", &sent)
	}
	if !bytes.Contains(msg, q.question) || len(up) > headerLen+len(q.question)+optLen {
		t.Fatalf("forwarded %x for %x", up, msg)
	}
	if !answers(append([]byte{up[0], up[1], up[2] | 0x80}, up[3:]...), up) {
		t.Fatalf("%x does not accept its own echo", up)
	}
	// dns.Msg also looks into the records, which are not forwarded, and may object to those.
	if theirErr != nil {
		return
	}
	if sent.Question[0] != theirs.Question[0] {
		t.Fatalf("forwarded question %v, dns.Msg reads %v", sent.Question[0], theirs.Question[0])
	}
	if sent.RecursionDesired != theirs.RecursionDesired || sent.CheckingDisabled != theirs.CheckingDisabled ||
		sent.AuthenticatedData != theirs.AuthenticatedData || (sent.IsEdns0() == nil) != (theirs.IsEdns0() == nil) {
		t.Fatalf("forwarded bits %v, dns.Msg reads %v", sent.MsgHdr, theirs.MsgHdr)
	}
	if o := theirs.IsEdns0(); o != nil && (o.Do() != sent.IsEdns0().Do() || o.UDPSize() != q.size) {
		t.Fatalf("EDNS do %v size %d, dns.Msg reads %v", q.do, q.size, o)
	}
}

// fuzzServer has names, links and no upstreams, so all its answers come at once.
var fuzzServer = func() *Server {
	s := New(Env{}, testNet)
	s.Configure(Config{Hosts: testHosts})
	s.SetEndpoint(spec.Endpoint{
		ID: "c", Addrs: []netip.Addr{clientAddr.Addr()}, Names: []string{"c", "a.b"},
		Resolver: spec.Resolver{Links: map[string][]string{"l": {"c"}, "m": {"n"}, "n": {"m"}}, NDots: true},
	})
	return s
}()

// checkReply checks what the client gets: at most one answer, one that any resolver understands, no larger than allowed.
func checkReply(t *testing.T, msg []byte) {
	var replies [][]byte
	fuzzServer.HandleUDP(msg, clientAddr, func(b []byte) { replies = append(replies, b) })
	if len(replies) == 0 {
		if len(msg) >= headerLen && msg[2]&0x80 == 0 {
			t.Fatalf("no answer to %x", msg)
		}
		return
	}
	var r dns.Msg
	if err := r.Unpack(replies[0]); err != nil {
		t.Fatalf("unpack answer %x: %v", replies[0], err)
	}
	if len(replies) != 1 || !r.Response || r.Id != binary.BigEndian.Uint16(msg) || len(replies[0]) > maxSize {
		t.Fatalf("%d answers, the first %v", len(replies), &r)
	}
}
