package rootlesstests

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// DN-01: ids and source ports of forwarded queries are as good as random. The server sees them as R does,
// since nothing between H and X1 translates. It needs all ports of H, so it does not run beside others.
func TestDN01(t *testing.T) {
	r := rig.Start(t)
	s := serveDNS(t, r.X1, at(rig.X1v4, nextPort()), nil)
	sb := r.Run(t, "--dns", dnsFlag(s))
	const clients, each = 40, 250
	var wg sync.WaitGroup
	for i := range clients {
		c := &dns.Conn{Conn: sb.DialUDP(t, at(rig.DNS4, 53))}
		wg.Go(func() {
			for j := range each {
				if err := errors.Join(c.SetDeadline(time.Now().Add(rig.Patience)), c.WriteMsg(question(fmt.Sprintf("c%d-%d.example", i, j)))); err != nil {
					t.Error(err)
					return
				}
				if _, err := c.ReadMsg(); err != nil {
					t.Errorf("query %d of client %d: %v", j, i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	var ids, ports []float64
	seenIDs, seenPorts := map[uint16]bool{}, map[uint16]bool{}
	for _, q := range s.queries() {
		ids, ports = append(ids, float64(q.id)), append(ports, float64(q.from.Port()))
		seenIDs[q.id], seenPorts[q.from.Port()] = true, true
	}
	t.Logf("%d queries, %d ids, %d ports", len(ids), len(seenIDs), len(seenPorts))
	if len(ids) < clients*each {
		t.Fatalf("%d queries arrived, want %d", len(ids), clients*each)
	}
	if len(seenIDs) < 9000 {
		t.Errorf("%d distinct ids, want at least 9000", len(seenIDs))
	}
	if len(seenPorts) < 8000 {
		t.Errorf("%d distinct ports, want at least 8000", len(seenPorts))
	}
	// For random numbers the correlation has a deviation of 0.01, so that 0.05 is five of them.
	for what, xs := range map[string][]float64{"ids": ids, "ports": ports} {
		if c := correlation(xs); math.Abs(c) > 0.05 {
			t.Errorf("successive %s correlate by %.3f", what, c)
		}
	}
}

// correlation is that of each number with the next.
func correlation(xs []float64) float64 {
	var mean, both, square float64
	for _, x := range xs {
		mean += x / float64(len(xs))
	}
	for i, x := range xs {
		square += (x - mean) * (x - mean)
		if i > 0 {
			both += (x - mean) * (xs[i-1] - mean)
		}
	}
	return both / square
}

// bombs are messages made against parsers, and not one of them a query.
func bombs() map[string][]byte {
	header := func(qd, an, ns, ar uint16) []byte {
		b := []byte{0x12, 0x34, 0x01, 0x00}
		for _, n := range []uint16{qd, an, ns, ar} {
			b = binary.BigEndian.AppendUint16(b, n)
		}
		return b
	}
	tail := []byte{0, 1, 0, 1}
	with := func(h []byte, parts ...[]byte) []byte {
		for _, p := range parts {
			h = append(h, p...)
		}
		return h
	}
	label := append([]byte{63}, strings.Repeat("a", 63)...)
	opt := func(length uint16) []byte {
		return binary.BigEndian.AppendUint16([]byte{0, 0, 41, 16, 0, 0, 0, 0, 0}, length)
	}
	return map[string][]byte{
		"pointer to itself":   with(header(1, 0, 0, 0), []byte{0xc0, 12}, tail),
		"two pointers":        with(header(1, 0, 0, 0), []byte{0xc0, 14, 0xc0, 12}, tail),
		"forward pointer":     with(header(1, 0, 0, 0), []byte{0xc0, 16, 0, 1, 0, 1, 1, 'a', 0}),
		"pointer past end":    with(header(1, 0, 0, 0), []byte{0xff, 0xff}, tail),
		"label of 64":         with(header(1, 0, 0, 0), []byte{64}, make([]byte, 64), []byte{0}, tail),
		"name of 256":         with(header(1, 0, 0, 0), label, label, label, label, []byte{0}, tail),
		"name without end":    with(header(1, 0, 0, 0), label),
		"no question":         header(0, 0, 0, 0),
		"65535 questions":     header(65535, 0, 0, 0),
		"65535 of everything": header(65535, 65535, 65535, 65535),
		"65535 additional":    with(header(1, 0, 0, 65535), []byte{1, 'a', 0}, tail),
		"rdlength too long":   with(header(1, 0, 0, 1), []byte{1, 'a', 0}, tail, opt(65535)),
		"rdlength too short":  with(header(1, 0, 0, 1), []byte{1, 'a', 0}, tail, opt(0), make([]byte, 40)),
		"two OPT":             with(header(1, 0, 0, 2), []byte{1, 'a', 0}, tail, opt(0), opt(0)),
	}
}

// DN-05: parser bombs get FORMERR or nothing, over both transports, and cost nothing. That one takes less than
// a millisecond and 4 KiB is shown beside the parser; here, that the process lives and goes on answering.
func TestDN05(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	s := serveDNS(t, r.X1, at(rig.X1v4, nextPort()), nil)
	sb := r.Run(t, "--dns", dnsFlag(s))
	datapath := sb.Datapath(t)
	for name, bomb := range bombs() {
		t.Run(name, func(t *testing.T) {
			u := sb.DialUDP(t, at(rig.DNS4, 53))
			tcp := sb.DialTCP(t, at(rig.DNS6, 53))
			if _, err := tcp.Write(framed(bomb)); err != nil {
				t.Fatal(err)
			}
			// The query after it marks where the bomb's answer would have been.
			after := question(unique())
			after.Id = 0x4321
			b, err := after.Pack()
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range [][]byte{bomb, b} {
				if _, err := u.Write(m); err != nil {
					t.Fatal(err)
				}
			}
			wantFormErr(t, &dns.Conn{Conn: u}, after.Id)
			if _, err := tcp.Write(framed(b)); err == nil {
				wantFormErr(t, &dns.Conn{Conn: tcp}, after.Id)
			}
		})
	}
	if got := resolve(t, sb, unique()); got != rig.X1v4.String() {
		t.Errorf("a query after the bombs: %s", got)
	}
	wantAlive(t, r, sb, datapath)
}

// wantFormErr reads answers up to that of the query last, and wants no other but refusals. A closed connection
// is a refusal as well.
func wantFormErr(t *testing.T, c *dns.Conn, last uint16) {
	t.Helper()
	for {
		a, err := c.ReadMsg()
		switch {
		case errors.Is(err, io.EOF) && c.Conn.RemoteAddr().Network() == "tcp":
			return
		case err != nil:
			t.Fatalf("no answer to the query after the bomb over %s: %v", c.Conn.RemoteAddr().Network(), err)
		case a.Id == last:
			return
		case a.Rcode != dns.RcodeFormatError && a.Rcode != dns.RcodeNotImplemented:
			t.Errorf("answered with %s", dns.RcodeToString[a.Rcode])
		}
	}
}

// DN-06: TCP clients that send nothing do not hold up others, and are sent away after 3 s.
func TestDN06(t *testing.T) {
	t.Parallel()
	for _, silent := range []int{1, 200} {
		t.Run(fmt.Sprint(silent), func(t *testing.T) {
			t.Parallel()
			r := rig.Start(t)
			sb := r.Run(t, "--add-host", "local:192.0.2.1")
			began := time.Now()
			var conns []net.Conn
			for range silent {
				c, err := sb.Dial(rig.Within(t, rig.Patience), "tcp", at(rig.DNS4, 53))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				conns = append(conns, c)
			}
			var took []time.Duration
			for range 200 {
				start := time.Now()
				if got := resolve(t, sb, "local"); got != "192.0.2.1" {
					t.Fatalf("a query beside %d silent connections: %s", silent, got)
				}
				took = append(took, time.Since(start))
			}
			if p := percentile(took, 99); p > busy*50*time.Millisecond {
				t.Errorf("p99 of a query beside %d silent connections: %v, want at most 50 ms", silent, p)
			}
			// All slots of this sandbox may be taken, but not for long.
			rig.WaitFor(t, rig.Patience, "answer over TCP", func() bool {
				a, err := ask(rig.Within(t, time.Second), sb.Node, "tcp", at(rig.DNS4, 53), question("local"))
				return err == nil && len(a.Answer) == 1
			})
			if d := time.Since(began); d > busy*4*time.Second {
				t.Errorf("TCP answers only after %v", d)
			}
			for i, c := range conns {
				if err := c.SetDeadline(began.Add(rig.Patience)); err != nil {
					t.Fatal(err)
				}
				if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("silent connection %d: %v, want it closed", i, err)
				}
			}
			if d := time.Since(began); d > busy*5*time.Second {
				t.Errorf("silent connections were closed after %v, want 3 s", d)
			}
		})
	}
}

// DN-07: half a message and then the end, by FIN and by RST, leave nothing behind. The connections come in turns
// of 50, since 64 at a time is what a sandbox may have.
func TestDN07(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t, "--add-host", "local:192.0.2.1")
	datapath := sb.Datapath(t)
	before := r.Descriptors(t, datapath)
	for range 20 {
		var turn []*net.TCPConn
		for i := range 50 {
			c, err := sb.Dial(rig.Within(t, rig.Patience), "tcp", at(rig.DNS4, 53))
			if err != nil {
				t.Fatal(err)
			}
			tcp := c.(*net.TCPConn)
			if _, err := tcp.Write([]byte{0, 0x3c}); err != nil && i < 10 {
				t.Errorf("write half a message: %v", err)
			}
			if i%2 == 0 {
				if err := tcp.SetLinger(0); err != nil {
					t.Fatal(err)
				}
			}
			turn = append(turn, tcp)
		}
		for _, c := range turn {
			c.Close()
		}
	}
	rig.WaitFor(t, 5*time.Second, "answer over TCP", func() bool {
		a, err := ask(rig.Within(t, time.Second), sb.Node, "tcp", at(rig.DNS4, 53), question("local"))
		return err == nil && len(a.Answer) == 1
	})
	if p := processor(t, datapath, time.Second); p >= 0.05 {
		t.Errorf("datapath uses %.0f %% of a processor afterwards, want less than 5", 100*p)
	}
	if after := r.Descriptors(t, datapath); after > before+5 {
		t.Errorf("datapath had %d descriptors open and has %d", before, after)
	}
}

// DN-10: one dead upstream of three costs 2 s at most; three make SERVFAIL within 5 s, and local names do not
// notice. Silence of a server is, to us, what a drop on R is.
func TestDN10(t *testing.T) {
	r := rig.Start(t)
	var servers []*nameServer
	args := []string{"--add-host", "local:192.0.2.1"}
	for _, where := range []struct {
		n *rig.Node
		a netip.Addr
	}{{r.X1, rig.X1v4}, {r.X2, rig.X2v4}, {r.X1, rig.X1v6}} {
		s := serveDNS(t, where.n, at(where.a, nextPort()), nil)
		servers = append(servers, s)
		args = append(args, "--dns", dnsFlag(s))
	}
	sb := r.Run(t, args...)
	servers[0].setSilent(true)
	began := time.Now()
	if got := dig(t, sb, unique()); !strings.Contains(got, rig.X2v4.String()) {
		t.Errorf("with the first of three dead:\n%s", got)
	}
	if d := time.Since(began); d > busy*time.Second {
		t.Errorf("with the first of three dead: answer after %v, want at most 2 s", d)
	}
	for _, s := range servers {
		s.setSilent(true)
	}
	began = time.Now()
	done := make(chan string)
	go func() { done <- dig(t, sb, unique()) }()
	var took []time.Duration
	for {
		select {
		case got := <-done:
			if d := time.Since(began); d > busy*time.Second || !strings.Contains(got, "status: SERVFAIL") {
				t.Errorf("with all three dead, after %v, want SERVFAIL within 5 s:\n%s", d, got)
			}
			if p := percentile(took, 99); p > busy*5*time.Millisecond {
				t.Errorf("p99 of %d local names meanwhile: %v, want at most 5 ms", len(took), p)
			}
			return
		default:
		}
		start := time.Now()
		if got := resolve(t, sb, "local"); got != "192.0.2.1" {
			t.Fatalf("local name: %s", got)
		}
		took = append(took, time.Since(start))
	}
}

// dig asks the sandbox's name server by the program of that name and returns what it prints. Safe on any goroutine.
func dig(t testing.TB, sb *rig.Sandbox, name string, options ...string) string {
	args := append([]string{"dig", "@" + rig.DNS4.String(), "+tries=1", "+time=10", name}, options...)
	out, _, err := sb.Exec(t.Context(), "", args...)
	if err != nil {
		t.Error(err)
	}
	return out
}

// DN-11: a truncated answer of the upstream is fetched over TCP, and ours is truncated only when it is larger than
// the client takes.
func TestDN11(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	s := serveDNS(t, r.X1, at(rig.X1v4, nextPort()), func(reply *dns.Msg, tcp bool) {
		size := 3900 // of 4096, so that the largest client takes it
		if strings.HasPrefix(reply.Question[0].Name, "small") {
			size = 1000
		}
		if !tcp {
			reply.Truncated = true
			return
		}
		for i := 0; reply.Len() < size-200; i++ {
			h := dns.RR_Header{Name: reply.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}
			reply.Answer = append(reply.Answer, &dns.TXT{Hdr: h, Txt: []string{strings.Repeat("x", 100)}})
		}
	})
	sb := r.Run(t, "--dns", dnsFlag(s))
	for _, tt := range []struct {
		name string
		size int
		cut  bool
	}{
		{"large.example", 512, true}, {"large.example", 1232, true}, {"large.example", 4096, false},
		{"small.example", 512, true}, {"small.example", 1232, false},
	} {
		q := new(dns.Msg).SetQuestion(dns.Fqdn(tt.name), dns.TypeTXT)
		q.SetEdns0(uint16(tt.size), false)
		a, err := ask(rig.Within(t, rig.Patience), sb.Node, "udp", at(rig.DNS4, 53), q)
		if err != nil {
			t.Errorf("%s for a client of %d bytes: %v", tt.name, tt.size, err)
			continue
		}
		if a.Truncated != tt.cut {
			t.Errorf("%s for a client of %d bytes: truncated is %v, want %v", tt.name, tt.size, a.Truncated, tt.cut)
		}
		if n := a.Len(); n > tt.size {
			t.Errorf("%s for a client of %d bytes has %d", tt.name, tt.size, n)
		}
		// dig asks again over TCP when it must.
		out := dig(t, sb, tt.name, "TXT", "+bufsize="+fmt.Sprint(tt.size), "+short")
		if n := strings.Count(out, "xxxx"); n == 0 || strings.Contains(out, "timed out") {
			t.Errorf("dig %s with bufsize %d:\n%s", tt.name, tt.size, out)
		}
	}
}
