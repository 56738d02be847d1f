package rootlesstests

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// Programs that people use, as they come from Debian. What they need of the network beyond what the other tests
// look at piece by piece (options, offloads, mixes of protocols) is found by letting them run.

// The sizes of what curl moves.
const (
	outward   = 1 << 30
	published = 256 << 20
)

// sumOf is the checksum of newStream(n) in hexadecimal, computed once.
func sumOf(n int64) string {
	sumsMu.Lock()
	defer sumsMu.Unlock()
	if sums[n] == "" {
		s, _, _ := sum(newStream(n)) // it has no errors
		sums[n] = hex.EncodeToString(s[:])
	}
	return sums[n]
}

var (
	sumsMu sync.Mutex
	sums   = map[int64]string{}
)

// serveHTTP serves l until the test ends: GET /N is newStream(N), and the answer to PUT is the checksum of what
// was put.
func serveHTTP(t testing.TB, l net.Listener) {
	t.Helper()
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Method == http.MethodPut {
			s, _, err := sum(q.Body)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			fmt.Fprintln(w, hex.EncodeToString(s[:]))
			return
		}
		n, err := strconv.ParseInt(strings.TrimPrefix(q.URL.Path, "/"), 10, 64)
		if err != nil {
			http.NotFound(w, q)
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		_, _ = io.Copy(w, newStream(n)) // the client sees what goes wrong
	})}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve HTTP at %v: %v", l.Addr(), err)
		}
	})
	t.Cleanup(func() {
		s.Close()
		wg.Wait()
	})
}

// wantCurl lets curl in a node fetch n bytes from the server that serveHTTP runs at an address, and put n there.
func wantCurl(t *testing.T, n *rig.Node, server netip.AddrPort, size int64) {
	t.Helper()
	url := fmt.Sprintf("http://%v/%d", server, size)
	if got := n.Run(t, "sh", "-c", `curl -gsSf "$0" | sha256sum`, url); !strings.HasPrefix(got, sumOf(size)) {
		t.Errorf("%s: curl %s: checksum %s, want %s", n.Name, url, got, sumOf(size))
	}
	if got := feed(t, n, newStream(size), "curl", "-gsSf", "-T", "-", url); got != sumOf(size)+"\n" {
		t.Errorf("%s: curl -T - %s: checksum %s, want %s", n.Name, url, got, sumOf(size))
	}
}

// feed runs a command that must succeed with all of r as its standard input, and returns what it wrote.
func feed(t *testing.T, n *rig.Node, r io.Reader, argv ...string) string {
	t.Helper()
	in, inw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outr, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	// Fd makes it blocking, which is what programs expect of their standard input.
	in.Fd()
	var wg sync.WaitGroup
	var wrote strings.Builder
	c, err := n.Start(rig.Within(t, 6*rig.Patience), in, out, out, argv...)
	in.Close()
	out.Close()
	wg.Go(func() { _, _ = io.Copy(inw, r); inw.Close() })        // a command need not read all
	wg.Go(func() { _, _ = io.Copy(&wrote, outr); outr.Close() }) // ends with the last holder of the other end
	code := -1
	if err == nil {
		code, err = c.Wait()
	}
	wg.Wait()
	if err != nil || code != 0 {
		t.Fatalf("%s: %s: exit code %d, %v\n%s", n.Name, strings.Join(argv, " "), code, err, &wrote)
	}
	return wrote.String()
}

// curl moves a GiB each way, to the outside and to a published port.
func TestCurl(t *testing.T) {
	r := rig.Start(t)
	const inside = 80
	port, flag := publish(inside, "tcp")
	sb := r.Run(t, "--publish", flag)
	bothFamilies(t, func(t *testing.T, f family) {
		t.Run("out", func(t *testing.T) {
			l := r.X1.ListenTCP(t, at(f.x1, 0))
			serveHTTP(t, l)
			wantCurl(t, sb.Node, addrOf(t, l.Addr()), outward)
		})
		t.Run("published", func(t *testing.T) {
			serveHTTP(t, sb.ListenTCP(t, at(f.any, inside)))
			wantCurl(t, r.X1, at(f.host, port), published)
		})
	})
}

// iperfReport is what the test reads of the output of iperf3 --json.
type iperfReport struct {
	Error string
	End   struct {
		SumReceived struct{ Bytes int64 } `json:"sum_received"`
		Sum         struct {
			Packets int64
			Lost    int64 `json:"lost_packets"`
		}
	}
}

// iperf3 sends and receives over TCP, with one stream and four, and UDP.
func TestIperf3(t *testing.T) {
	r := rig.Start(t)
	sb := r.Run(t)
	bothFamilies(t, func(t *testing.T, f family) {
		for _, options := range []string{"-n 64M", "-n 64M -R", "-n 64M -P 4", "-n 64M -P 4 -R"} {
			// What is in buffers when the sender has finished is not counted, so it need not be all.
			if got := iperf(t, r, sb, f, options).End.SumReceived.Bytes; got < 1<<20 {
				t.Errorf("iperf3 %s: %d bytes received", options, got)
			}
		}
		for _, options := range []string{"-u -b 20M -l 1200 -n 1M", "-u -b 20M -l 1200 -n 1M -R", "-u -b 20M -l 60000 -n 1M"} {
			// So little is lost only where a busy machine does not come to read a socket in time.
			lost := ""
			for range 5 {
				sum := iperf(t, r, sb, f, options).End.Sum
				if sum.Packets > 0 && sum.Lost*20 < sum.Packets {
					lost = ""
					break
				}
				lost += fmt.Sprintf(" %d of %d", sum.Lost, sum.Packets)
			}
			if lost != "" {
				t.Errorf("iperf3 %s: datagrams lost:%s", options, lost)
			}
		}
	})
}

// iperf runs iperf3 in a sandbox, against one in X1.
func iperf(t *testing.T, r *rig.Rig, sb *rig.Sandbox, f family, options string) iperfReport {
	t.Helper()
	host, port := f.x1.String(), strconv.Itoa(int(nextPort()))
	server, err := r.X1.Start(t.Context(), nil, nil, nil, "iperf3", "-s", "-1", "-B", host, "-p", port)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Kill()
	rig.WaitFor(t, rig.Patience, "iperf3 listens", func() bool { return r.X1.Run(t, "ss", "-Hltn", "sport", "=", port) != "" })
	args := append([]string{"iperf3", "-J", "-c", host, "-p", port}, strings.Fields(options)...)
	out, code, err := sb.Exec(rig.Within(t, 2*rig.Patience), "", args...)
	if err != nil {
		t.Fatal(err)
	}
	// Warnings come before the report.
	var report iperfReport
	if err := json.Unmarshal([]byte(out[max(0, strings.IndexByte(out, '{')):]), &report); err != nil {
		t.Fatalf("iperf3 %s: %v\n%s", options, err, out)
	}
	if code != 0 || report.Error != "" {
		t.Fatalf("iperf3 %s: exit code %d: %s", options, code, report.Error)
	}
	return report
}

// ping works for root in the sandbox, and for a user without capabilities there.
func TestPing(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	for _, ids := range []string{"root", "keep"} {
		sb := r.Run(t, "--map", ids)
		bothFamilies(t, func(t *testing.T, f family) {
			for _, to := range []netip.Addr{f.x1, f.router, f.host, f.gateway} {
				for _, options := range []string{"-s 56", "-s 0", "-s 1400", "-s 9000", "-t 7"} {
					args := append([]string{"ping", "-n", "-c", "1", "-W", "5"}, strings.Fields(options)...)
					out, code, err := sb.Exec(rig.Within(t, rig.Patience), "", append(args, to.String())...)
					if err != nil || code != 0 || !strings.Contains(out, "1 received, 0% packet loss") {
						t.Errorf("--map %s: ping %s %v: %v\n%s", ids, options, to, err, out)
					}
				}
			}
		})
	}
}

// Where the host does not let its users ping, the sandbox is told at once, and the log says what to do, once.
func TestPingRefused(t *testing.T) {
	r := rig.Start(t)
	r.H.SetSysctl(t, "net.ipv4.ping_group_range", "1 0")
	sb := r.Run(t)
	bothFamilies(t, func(t *testing.T, f family) {
		want := map[string]string{"IPv4": "Packet filtered", "IPv6": "Administratively prohibited"}[f.name]
		out, code, err := sb.Exec(rig.Within(t, rig.Patience), "", "ping", "-n", "-c", "3", "-i", "0.1", f.x1.String())
		if err != nil || code != 1 || !strings.Contains(out, want) || !strings.Contains(out, "+3 errors") {
			t.Errorf("exit code %d, %v\n%s", code, err, out)
		}
		if out := sb.Run(t, "ping", "-n", "-c", "1", f.gateway.String()); !strings.Contains(out, "1 received") {
			t.Errorf("the gateway does not answer:\n%s", out)
		}
	})
	if n := strings.Count(sb.Stderr.String(), "ping_group_range"); n != 1 {
		t.Errorf("%d lines about ping_group_range, want 1:\n%s", n, sb.Stderr)
	}
}

// Programs find names as they do everywhere: by resolv.conf, which leads to what H's own leads to.
func TestNames(t *testing.T) {
	r := rig.Start(t)
	long := strings.Repeat("x", 200)
	s := serveDNS(t, r.X1, at(rig.X1v4, 53), func(reply *dns.Msg, tcp bool) {
		q := reply.Question[0]
		h := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 60}
		switch {
		case q.Name != "www.corp.example.":
			reply.Rcode = dns.RcodeNameError
		case q.Qtype == dns.TypeA:
			reply.Answer = append(reply.Answer, &dns.A{Hdr: h, A: rig.X1v4.AsSlice()})
		case q.Qtype == dns.TypeAAAA:
			reply.Answer = append(reply.Answer, &dns.AAAA{Hdr: h, AAAA: rig.X1v6.AsSlice()})
		case q.Qtype == dns.TypeTXT && !tcp:
			reply.Truncated = true
		case q.Qtype == dns.TypeTXT:
			for range 200 { // some 40 KiB
				reply.Answer = append(reply.Answer, &dns.TXT{Hdr: h, Txt: []string{long}})
			}
		}
	})
	writeResolvConf(t, fmt.Sprintf("search corp.example\nnameserver %s\n", s.at.Addr()))
	sb := r.Run(t, "--add-host", "other.example:"+rig.X2v4.String())
	for question, want := range map[string]string{
		"www.corp.example A": rig.X1v4.String(), "www.corp.example AAAA": rig.X1v6.String(),
		"www.corp.example A +tcp": rig.X1v4.String(), "+search www A": rig.X1v4.String(),
		"other.example A": rig.X2v4.String(), "other.example A @fd00::3": rig.X2v4.String(),
	} {
		if out := sb.Run(t, append([]string{"dig", "+short"}, strings.Fields(question)...)...); out != want+"\n" {
			t.Errorf("dig %s: %q, want %s", question, out, want)
		}
	}
	if out := sb.Run(t, "dig", "+short", "www.corp.example", "TXT"); strings.Count(out, long) != 200 {
		t.Errorf("dig TXT: %d bytes", len(out))
	}
	if out := sb.Run(t, "dig", "nothing.example"); !strings.Contains(out, "status: NXDOMAIN") {
		t.Errorf("dig of a name that does not exist:\n%s", out)
	}
	bothFamilies(t, func(t *testing.T, f family) {
		l := r.X1.ListenTCP(t, at(f.x1, 0))
		serveHTTP(t, l)
		digit := strings.TrimPrefix(f.name, "IPv")
		url := fmt.Sprintf("http://www:%d/3", addrOf(t, l.Addr()).Port())
		if out := sb.Run(t, "curl", "-sSf", "-"+digit, url); len(out) != 3 {
			t.Errorf("curl %s: %q", url, out)
		}
		if out := sb.Run(t, "ping", "-"+digit, "-n", "-c", "1", "www.corp.example"); !strings.Contains(out, "1 received") {
			t.Errorf("ping:\n%s", out)
		}
	})
	if out := sb.Run(t, "getent", "hosts", "other.example"); !strings.Contains(out, rig.X2v4.String()) {
		t.Errorf("getent: %s", out)
	}
}

// traceroute shows the gateway, then the host's own way to the target.
func TestTraceroute(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	bothFamilies(t, func(t *testing.T, f family) {
		for _, how := range []string{"-U", "-I"} {
			out := sb.Run(t, "traceroute", how, "-n", "-q", "1", "-w", "3", "-m", "5", f.x1.String())
			var hops []string
			for line := range strings.Lines(out) {
				if l := strings.Fields(line); len(l) > 1 && l[0] == strconv.Itoa(len(hops)+1) {
					hops = append(hops, l[1])
				}
			}
			if got, want := strings.Join(hops, " "), fmt.Sprint(f.gateway, " ", f.router, " ", f.x1); got != want {
				t.Errorf("traceroute %s: by %s, want %s\n%s", how, got, want, out)
			}
		}
	})
}

// Small clients and servers: nc, wget and httpd of busybox, socat.
func TestSmallPrograms(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	tcp, flagTCP := publish(80, "tcp")
	udp, flagUDP := publish(80, "udp")
	sb := r.Run(t, "--publish", flagTCP, "--publish", flagUDP)
	bothFamilies(t, func(t *testing.T, f family) {
		echo := serveEcho(t, r.X1, f.x1)
		host, port := f.x1.String(), strconv.Itoa(int(echo.Port()))
		if out := feed(t, sb.Node, strings.NewReader("hello\n"), "busybox", "nc", host, port); out != "hello\n" {
			t.Errorf("nc: %q", out)
		}
		datagrams := serveUDP(t, r.X1, f.x1)
		if out := feed(t, sb.Node, strings.NewReader("hello\n"), "socat", "-t", "5", "-", "UDP:"+datagrams.String()+",readbytes=6"); out != "hello\n" {
			t.Errorf("socat: %q", out)
		}
		l := r.X1.ListenTCP(t, at(f.x1, 0))
		serveHTTP(t, l)
		out := sb.Run(t, "sh", "-c", `busybox wget -q -O - "$0" | sha256sum`, fmt.Sprintf("http://%v/1000000", l.Addr()))
		if !strings.HasPrefix(out, sumOf(1000000)) {
			t.Errorf("wget: %s", out)
		}
	})
	for _, argv := range [][]string{
		{"busybox", "httpd", "-f", "-p", "80", "-h", "/etc"},
		{"socat", "UDP6-LISTEN:80,fork,ipv6only=0", "EXEC:cat"},
	} {
		server, err := sb.Start(t.Context(), nil, nil, nil, argv...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Kill)
	}
	rig.WaitFor(t, rig.Patience, "servers in the sandbox listen", func() bool {
		return strings.Count(sb.Run(t, "ss", "-Hltun", "sport", "=", "80"), "\n") == 2
	})
	bothFamilies(t, func(t *testing.T, f family) {
		if out := r.X1.Run(t, "curl", "-gsSf", fmt.Sprintf("http://%v/hostname", at(f.host, tcp))); out != sb.Run(t, "cat", "/etc/hostname") {
			t.Errorf("httpd: %q", out)
		}
		if got := exchange(t, r.X1.DialUDP(t, at(f.host, udp)), []byte("hello")); string(got) != "hello" {
			t.Errorf("socat: %q", got)
		}
	})
}
