package rootlesstests

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/rootless-tests/rig"
)

// TCP-07: an urgent pointer far beyond the data neither hurts nor adds bytes.
func TestTCP07(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	datapath := sb.Datapath(t)
	got := make(chan string, 1)
	server := serveTCP(t, r.X1, rig.X1v4, func(c *net.TCPConn) {
		b, err := io.ReadAll(c)
		if err != nil {
			t.Errorf("server: %v", err)
		}
		got <- string(b)
	})
	c := newRawTCP(t, sb).open(rig.SandboxAddr4, server)
	if !c.connect(nil, rig.Patience) {
		t.Fatal("no handshake")
	}
	c.put(packettest.URG|packettest.PSH, 0xffff, []byte("0123456789"))
	c.put(packettest.FIN, 0, nil)
	select {
	case b := <-got:
		if b != "0123456789" {
			t.Errorf("server got %q", b)
		}
	case <-time.After(rig.Patience):
		t.Error("server got no end of the stream")
	}
	if now := sb.Datapath(t); now != datapath {
		t.Errorf("datapath was process %d and is now %d", datapath, now)
	}
}

// synOptions are lies and oddities.
var synOptions = [][]byte{
	{2, 4, 0, 0}, {2, 4, 0, 1}, {2, 4, 0, 87}, {2, 4, 255, 255}, // MSS 0, 1, 87, 65535
	{2, 0}, {2, 1}, {2, 2}, {2, 3, 5}, {2, 255, 5, 180}, {2, 5, 5, 180, 0}, // MSS of other lengths
	{3, 3, 15}, {3, 3, 255}, {3, 0}, {3, 2}, {3, 255, 1}, // window scale
	{4, 2}, {4, 0}, {4, 10, 0, 0, 0, 0, 0, 0, 0, 0}, // SACK permitted
	{5, 10, 0, 0, 0, 0, 255, 255, 255, 255}, {5, 0}, {5, 3, 1}, // SACK blocks in a SYN
	{8, 10, 0, 0, 0, 0, 0, 0, 0, 0}, {8, 10, 255, 255, 255, 255, 1, 2, 3, 4}, {8, 0}, {8, 9, 1, 2, 3, 4, 5, 6, 7}, // timestamps
	{30, 12, 0, 129, 1, 2, 3, 4, 5, 6, 7, 8}, {34, 2}, {19, 18, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, // MPTCP, TFO, MD5
	{253, 2}, {254, 0}, {255, 255}, {254, 1},
	{0, 2, 4, 5, 180}, {1}, {1, 1, 1, 1, 1, 1, 1, 1}, // after the end of the list; padding
	{2, 4, 5, 180, 2, 4, 0, 1, 2, 4, 255, 255}, // MSS three times
	make([]byte, 40), []byte(strings.Repeat("\x01", 40)), []byte(strings.Repeat("\xfd\x02", 20)), []byte(strings.Repeat("\x02", 40)),
}

// TCP-08: whatever the options of a SYN say, the connection is usable or refused.
func TestTCP08(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	datapath := sb.Datapath(t)
	server := serveEcho(t, r.X1, rig.X1v4)
	raw := newRawTCP(t, sb)
	refused := 0
	for _, o := range synOptions {
		c := raw.open(rig.SandboxAddr4, server)
		if !c.connect(o, time.Second) {
			refused++
			continue
		}
		c.put(packettest.PSH, 0, []byte("hello"))
		var got []byte
		for len(got) < 5 {
			// A tiny MSS is the container's own wish: the answer may come byte by byte.
			d, _, err := c.link.Receive(rig.Patience, func(d packettest.Decoded) bool { return c.mine(d) && len(d.Payload) > 0 })
			if err != nil {
				t.Fatalf("options % x: %v after %q", o, err, got)
			}
			if d.Seq == c.ack {
				got = append(got, d.Payload...)
				c.ack += uint32(len(d.Payload))
				c.put(0, 0, nil)
			}
		}
		if string(got) != "hello" {
			t.Errorf("options % x: echo %q", o, got)
		}
		c.send(c.segment(packettest.RST|packettest.ACK, 0, nil, nil))
	}
	if refused > len(synOptions)/2 {
		t.Errorf("%d of %d refused", refused, len(synOptions))
	}
	if now := sb.Datapath(t); now != datapath {
		t.Errorf("datapath was process %d and is now %d", datapath, now)
	}
}

// TCP-09: big and small files arrive as they were sent, on every path and in both directions.
func TestTCP09(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	const inside = 80
	port, flag := publish(inside, "tcp")
	sb := r.Run(t, "--publish", flag)
	bothFamilies(t, func(t *testing.T, f family) {
		local := func(n *rig.Node, a netip.Addr) func(*testing.T) (*net.TCPListener, netip.AddrPort) {
			return func(t *testing.T) (*net.TCPListener, netip.AddrPort) {
				l := n.ListenTCP(t, at(a, 0))
				return l, addrOf(t, l.Addr())
			}
		}
		published := func(t *testing.T) (*net.TCPListener, netip.AddrPort) {
			return sb.ListenTCP(t, at(f.any, inside)), at(f.host, port)
		}
		for _, path := range []struct {
			name   string
			client *rig.Node
			listen func(t *testing.T) (*net.TCPListener, netip.AddrPort)
		}{
			{"sandbox to internet", sb.Node, local(r.X1, f.x1)},
			{"sandbox to host", sb.Node, local(r.H, f.host)},
			{"sandbox to itself", sb.Node, published},
			{"internet to published", r.X2, published},
			{"host to published", r.H, published},
		} {
			for _, n := range []int64{1, 10 << 20} {
				t.Run(fmt.Sprintf("%s, %d bytes", path.name, n), func(t *testing.T) {
					l, where := path.listen(t)
					wantIntact(t, path.client, l, where, n)
				})
			}
		}
	})
}

// wantIntact sends n bytes each way, one after the other, over one connection.
func wantIntact(t *testing.T, client *rig.Node, l *net.TCPListener, where netip.AddrPort, n int64) {
	t.Helper()
	want, _, _ := sum(newStream(n))
	accept(t, l, func(c *net.TCPConn) {
		if got, k, err := sum(c); err != nil || got != want {
			t.Errorf("server got %d bytes, or others: %v", k, err)
		}
		if _, err := io.Copy(c, newStream(n)); err != nil {
			t.Errorf("server: %v", err)
		}
	})
	c := client.DialTCP(t, where)
	if _, err := io.Copy(c, newStream(n)); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, k, err := sum(c); err != nil || got != want {
		t.Errorf("client got %d bytes, or others: %v", k, err)
	}
}

// TCP-10: a connection whose buffers are all full goes on when the reader does, every time; while it is full,
// nothing spins.
func TestTCP10(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	for _, up := range []bool{true, false} {
		name := map[bool]string{true: "up", false: "down"}[up]
		t.Run(name, func(t *testing.T) {
			l := r.X1.ListenTCP(t, at(rig.X1v4, 0))
			c := sb.DialTCP(t, addrOf(t, l.Addr()))
			s, err := l.AcceptTCP()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			from, to := c, s
			if !up {
				from, to = s, c
			}
			fillAndDrain(t, r, sb.Datapath(t), from, to)
		})
	}
}

// fillAndDrain writes without end, and reads only when everything is full.
func fillAndDrain(t *testing.T, r *rig.Rig, datapath int, from, to *net.TCPConn) {
	t.Helper()
	if err := errors.Join(from.SetDeadline(time.Time{}), from.SetWriteBuffer(64<<10), to.SetReadBuffer(64<<10)); err != nil {
		t.Fatal(err)
	}
	var sent atomic.Int64
	var writer sync.WaitGroup
	writer.Go(func() {
		b := make([]byte, 16<<10)
		for {
			n, err := from.Write(b)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	defer writer.Wait()
	defer from.Close()
	received, buf := int64(0), make([]byte, 256<<10)
	const rounds = 100
	for round := range rounds {
		full := waitFull(t, &sent)
		if round == rounds/2 {
			wantIdle(t, r, datapath)
		}
		if err := to.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		for received < full {
			n, err := to.Read(buf)
			if err != nil {
				t.Fatalf("round %d: hangs after %d of %d bytes: %v", round, received, full, err)
			}
			received += int64(n)
		}
	}
}

// waitFull returns how much has been sent when no more is.
func waitFull(t *testing.T, sent *atomic.Int64) int64 {
	t.Helper()
	last, same := int64(-1), 0
	rig.WaitFor(t, rig.Patience, "full buffers", func() bool {
		now := sent.Load()
		if now != last {
			last, same = now, 0
		}
		same++
		return same > 3
	})
	return last
}

// wantIdle measures that a process uses less than 5 % of a core for half a second.
func wantIdle(t *testing.T, r *rig.Rig, pid int) {
	t.Helper()
	const span, most = 500 * time.Millisecond, 25 * time.Millisecond
	before := cpuTime(t, r, pid)
	<-time.After(span)
	if used := cpuTime(t, r, pid) - before; used > most {
		t.Errorf("process %d used %v of the processor in %v with nothing to do", pid, used, span)
	}
}

// cpuTime is how long a process has run.
func cpuTime(t *testing.T, r *rig.Rig, pid int) time.Duration {
	t.Helper()
	stat := r.H.ReadFile(t, fmt.Sprintf("/proc/%d/stat", pid))
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	var ticks int
	for _, s := range f[11:13] { // utime and stime
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100)
}

// TCP-12: packets with a wrong checksum do not leave; IPv4 UDP without one does.
func TestTCP12(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	link, gateway := sb.OpenPacket(t, rig.DevEth0), gatewayMAC(t, sb)
	bothFamilies(t, func(t *testing.T, f family) {
		server := listenUDP(t, r.X1, at(f.x1, 0), nil)
		from := at(f.own, 9000)
		header := 40
		if f.own.Is4() {
			header = 20
		}
		spoil := func(p []byte, i int) []byte { p[i] ^= 0x55; return p }
		without := udp(from, server.at, "none")
		without[header+6], without[header+7] = 0, 0
		link.SendPacket(t, gateway, without)
		link.SendPacket(t, gateway, spoil(udp(from, server.at, "bad UDP"), header+7))
		want := "good"
		if f.own.Is4() {
			link.SendPacket(t, gateway, spoil(udp(from, server.at, "bad IP"), 10))
			want = "none good"
		}
		syn := packettest.TCP(from, server.at, packettest.SYN, 1, 0, nil)
		seen := r.R.Capture(t, rig.DevToH, to(packettest.ProtoTCP, f.x1))
		link.SendPacket(t, gateway, spoil(syn, header+17))
		link.SendPacket(t, gateway, udp(from, server.at, "good"))
		var got []string
		rig.WaitFor(t, rig.Patience, "the correct datagram", func() bool {
			got = nil
			for _, d := range server.received() {
				got = append(got, d.payload)
			}
			return len(got) > 0 && got[len(got)-1] == "good"
		})
		if strings.Join(got, " ") != want {
			t.Errorf("server got %q, want %q", got, want)
		}
		for _, d := range seen.Seen() {
			if d.Dst == server.at {
				t.Errorf("a SYN with a wrong checksum caused %+v", d)
			}
		}
	})
}

// TCP-13: the host's sockets of connections that last ask silent peers whether they still live: after 60 s, then 9 times every 15 s.
func TestTCP13(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	port, flag := publish(80, "tcp")
	sb := r.Run(t, "--publish", flag)
	accept(t, sb.ListenTCP(t, at(netip.IPv4Unspecified(), 80)), func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	out, in := serveEcho(t, r.X1, rig.X1v4), at(rig.H4, port)
	wantSmallEcho(t, sb.DialTCP(t, out))
	wantSmallEcho(t, r.X2.DialTCP(t, in))
	for _, filter := range []string{"dst " + out.String(), "src " + in.String()} {
		var lines string
		rig.WaitFor(t, rig.Patience, "keepalive of the connection "+filter, func() bool {
			lines = r.H.Run(t, append([]string{"ss", "-tnoH", "state", "established"}, strings.Fields(filter)...)...)
			return strings.Contains(lines, "timer:(keepalive,")
		})
		// What is left of 60 s.
		m := regexp.MustCompile(`timer:\(keepalive,([0-9]+)sec,`).FindStringSubmatch(lines)
		if strings.Contains(lines, "timer:(keepalive,1min,") {
			continue
		}
		if m == nil {
			t.Errorf("connection %s has an odd keepalive timer:\n%s", filter, lines)
		} else if n, err := strconv.Atoi(m[1]); err != nil || n < 40 || n > 60 {
			t.Errorf("connection %s asks after %s s, want 60:\n%s", filter, m[1], lines)
		}
	}
}

// wantSmallEcho sends a few bytes and waits for them, and leaves the connection open.
func wantSmallEcho(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Fatalf("echo: %q, %v", b, err)
	}
}
