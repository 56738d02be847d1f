package dnsproxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/miekg/dns"

	"github.com/usernet/usernet/stack/drop"
)

// listen serves s on loopback and returns the address.
func listen(t testing.TB, s *Server) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.ServeTCP(l); err != nil {
			t.Errorf("ServeTCP: %v", err)
		}
	})
	t.Cleanup(func() { s.Close(); wg.Wait() })
	return l.Addr().String()
}

func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// receive reads one answer.
func receive(t testing.TB, in *splitter) *dns.Msg {
	t.Helper()
	b, err := in.next(nil)
	if err != nil {
		t.Fatalf("read answer: %v", err)
	}
	var m dns.Msg
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	return &m
}

// askTCP asks one question on its own connection.
func askTCP(t testing.TB, addr, name string) *dns.Msg {
	t.Helper()
	c := dial(t, addr)
	defer c.Close()
	if _, err := c.Write(appendFramed(nil, pack(question(name, dns.TypeA)))); err != nil {
		t.Fatal(err)
	}
	return receive(t, &splitter{r: c})
}

// waitClosed fails unless the far side ends the connection, orderly or not, without a byte.
func waitClosed(t testing.TB, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := c.Read(make([]byte, 1))
	var ne net.Error
	if n != 0 || err == nil || errors.As(err, &ne) && ne.Timeout() {
		t.Fatalf("read %d bytes, error %v; want the end", n, err)
	}
}

// TestTCP: local names, forwarding, half-close, pipelining in one segment.
func TestTCP(t *testing.T) {
	up := startUpstream(t, answerA, nil)
	s := newServer(t, Config{Upstreams: []netip.AddrPort{up.addr}, Hosts: testHosts})
	addr := listen(t, s)
	c := dial(t, addr)
	var all []byte
	names := []string{"web", "a.example", "db.internal", "b.example", "empty"}
	for i, n := range names {
		m := question(n, dns.TypeA)
		m.Id = uint16(i)
		all = appendFramed(all, pack(m))
	}
	c.Write(all)
	c.CloseWrite()
	in := splitter{r: c}
	seen := make(map[uint16]bool)
	for range names {
		r := receive(t, &in)
		if r.Question[0].Name != names[r.Id]+"." || seen[r.Id] {
			t.Errorf("answer %d is %v", r.Id, r.Question)
		}
		seen[r.Id] = true
	}
	if _, err := in.next(nil); err != io.EOF {
		t.Errorf("after the last answer: %v, want EOF", err)
	}
}

// TestIdleTCP is DN-06: silent clients disturb nobody and are sent away.
func TestIdleTCP(t *testing.T) {
	s := newServer(t, Config{Hosts: testHosts})
	s.time.idle = 300 * time.Millisecond
	addr := listen(t, s)
	var idle []net.Conn
	for range 60 {
		idle = append(idle, dial(t, addr))
	}
	for range 20 {
		start := time.Now()
		wantRcode(t, askTCP(t, addr, "web"), dns.RcodeSuccess)
		wantRcode(t, ask(t, s, question("web", dns.TypeA)), dns.RcodeSuccess)
		// One client at a time would mean a wait for all sixty to be sent away.
		if d := time.Since(start); d > 10*s.time.idle {
			t.Errorf("two answers took %v beside idle clients", d)
		}
	}
	for _, c := range idle {
		waitClosed(t, c)
	}
}

// TestIdleWaitsForAnswers: a client that waits for us is not idle.
func TestIdleWaitsForAnswers(t *testing.T) {
	up, release := held(t)
	s := newServer(t, Config{Upstreams: []netip.AddrPort{up.addr}})
	s.time.idle = 20 * time.Millisecond
	c := dial(t, listen(t, s))
	c.Write(appendFramed(nil, pack(question("x.example", dns.TypeA))))
	<-time.After(5 * s.time.idle)
	release()
	wantRcode(t, receive(t, &splitter{r: c}), dns.RcodeSuccess)
	waitClosed(t, c)
}

// openConns is how many connections are being served.
func (s *Server) openConns() int {
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	return len(s.conns.open)
}

// cpuTime is what the process has used.
func cpuTime(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestTruncatedTCP is DN-07: a message that is cut and the end, a thousand times, leave nothing that runs.
func TestTruncatedTCP(t *testing.T) {
	s := newServer(t, Config{Hosts: testHosts})
	addr := listen(t, s)
	for i := range 1000 {
		c := dial(t, addr)
		c.Write([]byte{0, 60})
		if i%2 == 1 {
			c.SetLinger(0) // RST
			c.Close()
			continue
		}
		c.CloseWrite()
		waitClosed(t, c)
		c.Close()
	}
	deadline := time.Now().Add(5 * time.Second)
	for s.openConns() > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are still served", s.openConns())
		}
		<-time.After(time.Millisecond)
	}
	before := cpuTime(t)
	const window = 200 * time.Millisecond
	<-time.After(window)
	if used := cpuTime(t) - before; used > window/4 {
		t.Errorf("%v of CPU in %v after the last client", used, window)
	}
	wantRcode(t, askTCP(t, addr, "web"), dns.RcodeSuccess)
}

// TestGreedyTCP is DN-08.
func TestGreedyTCP(t *testing.T) {
	s := newServer(t, Config{Hosts: testHosts})
	s.time.message = 200 * time.Millisecond
	addr := listen(t, s)
	query := appendFramed(nil, pack(question("web", dns.TypeA)))

	t.Run("slow", func(t *testing.T) {
		c := dial(t, addr)
		start := time.Now()
		for _, b := range query {
			if _, err := c.Write([]byte{b}); err != nil {
				break
			}
			<-time.After(s.time.message / 10)
		}
		waitClosed(t, c)
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("closed after %v", d)
		}
	})
	t.Run("many", func(t *testing.T) {
		c := dial(t, addr)
		go c.Write(bytes.Repeat(query, 1000))
		in := splitter{r: c}
		n := 0
		for {
			if _, err := in.next(nil); err != nil {
				break
			}
			n++
		}
		if n != maxQueriesPerConn {
			t.Errorf("%d answers, want %d", n, maxQueriesPerConn)
		}
	})
	t.Run("large", func(t *testing.T) {
		// The largest message there is: a query with one long record behind it.
		m := header(flagRD, 1, 0, 0, 1, "\x03web\x00\x00\x01\x00\x01"+"\x00\xff\x11\x00\x01\x00\x00\x00\x00")
		rest := 0xffff - len(m) - 2
		m = binary.BigEndian.AppendUint16(m, uint16(rest))
		m = append(m, make([]byte, rest)...)
		c := dial(t, addr)
		c.Write(appendFramed(nil, m))
		wantRcode(t, receive(t, &splitter{r: c}), dns.RcodeSuccess)
	})
	t.Run("not a query", func(t *testing.T) {
		for _, b := range []string{"\x00\x00", "\x00\x05hello", string(appendFramed(nil, header(flagQR, 0, 0, 0, 0, "")))} {
			c := dial(t, addr)
			c.Write([]byte(b))
			waitClosed(t, c)
		}
	})
}

// TestDeafTCP: a client that asks and does not read holds its share only until the write times out.
func TestDeafTCP(t *testing.T) {
	big := strings.Repeat("x", 200)
	up := startUpstream(t, func(q []byte, _ netip.AddrPort) []byte {
		r := aRecord(q)
		r.Answer, r.Truncated = nil, true
		return pack(r)
	}, func(q []byte) []byte {
		r := aRecord(q)
		for range 200 {
			r.Answer = append(r.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeTXT, Class: 1}, Txt: []string{big}})
		}
		return pack(r)
	})
	s := newServer(t, Config{Upstreams: []netip.AddrPort{up.addr}})
	s.time.writeOut = 100 * time.Millisecond
	near, far := net.Pipe() // takes nothing that is not read
	t.Cleanup(func() { far.Close() })
	s.ServeConn(near)
	for i := range 20 {
		if _, err := far.Write(appendFramed(nil, pack(question(fmt.Sprintf("n%d.example", i), dns.TypeTXT)))); err != nil {
			break
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		total, _ := s.inFlight()
		if total == 0 && s.openConns() == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d in flight, %d connections", total, s.openConns())
		}
		<-time.After(time.Millisecond)
	}
}

// addrConn is a pipe that comes from somewhere.
type addrConn struct {
	net.Conn
	from netip.AddrPort
}

func (c addrConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.from) }

// TestTCPFlood is DN-09: the limits of connections.
func TestTCPFlood(t *testing.T) {
	s := newServer(t, Config{Hosts: testHosts})
	open := func(client byte) net.Conn {
		near, far := net.Pipe()
		t.Cleanup(func() { far.Close() })
		s.ServeConn(addrConn{near, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, client}), 1000)})
		return far
	}
	var first net.Conn
	for i := range 1000 {
		c := open(100)
		if i == 0 {
			first = c
		}
	}
	if n := s.openConns(); n != maxConnsPerClient {
		t.Errorf("%d connections of one client, want %d", n, maxConnsPerClient)
	}
	for i := range 2000 {
		open(byte(i % 50))
	}
	all := s.openConns()
	if all > maxConns || all < maxConns*15/16 { // some places are kept for the next clients
		t.Errorf("%d connections in all, want about %d", all, maxConns)
	}
	if n := s.env.Drops.Get(drop.DNSLimit); n != uint64(3000-all) {
		t.Errorf("%d refused, want %d", n, 3000-all)
	}
	// One that was let in is served, and its place is free afterwards.
	first.Write(appendFramed(nil, pack(question("web", dns.TypeA))))
	wantRcode(t, receive(t, &splitter{r: first}), dns.RcodeSuccess)
}

// TestCloseTCP: Close ends connections and listeners, and later ones are refused.
func TestCloseTCP(t *testing.T) {
	s := newServer(t, Config{})
	addr := listen(t, s)
	c := dial(t, addr)
	c.Write([]byte{0})
	s.Close()
	waitClosed(t, c)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ServeTCP(l); err != nil {
		t.Errorf("ServeTCP after Close: %v", err)
	}
	if _, err := l.Accept(); err == nil {
		t.Error("ServeTCP after Close left the listener open")
	}
}

// slowSplit cuts a stream the obvious way: all of it first.
func slowSplit(b []byte) (msgs [][]byte, err error) {
	for len(b) > 0 {
		if len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b)) {
			return msgs, io.ErrUnexpectedEOF
		}
		n := 2 + int(binary.BigEndian.Uint16(b))
		msgs, b = append(msgs, b[2:n]), b[n:]
	}
	return msgs, io.EOF
}

// chunked reads at most the sizes given, over and over.
type chunked struct {
	r     io.Reader
	sizes []byte
	i     int
}

func (c *chunked) Read(b []byte) (int, error) {
	if len(c.sizes) > 0 {
		n := int(c.sizes[c.i%len(c.sizes)]) + 1
		c.i++
		b = b[:min(n, len(b))]
	}
	return c.r.Read(b)
}

// FuzzTCPStream (FZ-08): a stream falls into the same messages however it is chunked, and its memory
// follows what came.
func FuzzTCPStream(f *testing.F) {
	q := pack(question("www.example.com", dns.TypeA))
	f.Add([]byte{0, 60}, []byte{0})
	f.Add(appendFramed(appendFramed(nil, q), q), []byte{0, 5, 200})
	f.Add(append(appendFramed(nil, make([]byte, 5000)), 0xff, 0xff, 1), []byte{255})
	f.Add([]byte{0, 0, 0, 0, 0, 1, 9}, []byte{1})
	f.Fuzz(func(t *testing.T, b, sizes []byte) {
		want, wantErr := slowSplit(b)
		for _, r := range []io.Reader{
			&chunked{r: bytes.NewReader(b), sizes: sizes},
			iotest.DataErrReader(&chunked{r: bytes.NewReader(b), sizes: sizes}),
		} {
			in := splitter{r: r}
			for i := 0; ; i++ {
				msg, err := in.next(nil)
				if err != nil {
					if err != wantErr || i != len(want) {
						t.Fatalf("end after %d messages: %v, want %d and %v", i, err, len(want), wantErr)
					}
					break
				}
				if i >= len(want) || !bytes.Equal(msg, want[i]) {
					t.Fatalf("message %d is %x", i, msg)
				}
			}
			if len(in.mem) > 2*len(b)+2*firstRead {
				t.Fatalf("%d bytes of memory for a stream of %d", len(in.mem), len(b))
			}
		}
	})
}
