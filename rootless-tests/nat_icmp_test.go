package rootlesstests

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/rootless-tests/rig"
	"github.com/usernet/usernet/stack/l2"
)

// NAT-11: the sender of a datagram learns that nobody listens, in a message about its own datagram (RFC 4787
// REQ-12b, 5508 REQ-4).
func TestNAT11(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	bothFamilies(t, func(t *testing.T, f family) {
		told := sb.Capture(t, rig.DevEth0, isICMP(f, f.unreachable, f.portUnreachable))
		c := sb.DialUDP(t, at(f.x1, nextPort()))
		wantPrompt(t, "read", 100*time.Millisecond, func() time.Duration {
			began := time.Now()
			if _, err := c.Write([]byte("anybody?")); err != nil {
				t.Fatal(err)
			}
			_, err := c.Read(make([]byte, 10))
			wantErrno(t, "read", err, syscall.ECONNREFUSED)
			return time.Since(began)
		})
		rig.WaitFor(t, rig.Patience, "capture of the message", func() bool { return len(told.Seen()) > 0 })
		quote, err := packettest.Decode(packettest.Frame(l2.MAC{}, l2.MAC{}, padded(told.Seen()[0].Payload)))
		if err != nil {
			t.Fatal(err)
		}
		if want := addrOf(t, c.LocalAddr()); quote.Src != want || quote.Dst != addrOf(t, c.RemoteAddr()) {
			t.Errorf("message quotes a datagram from %v to %v, want from %v", quote.Src, quote.Dst, want)
		}
	})
}

// padded makes a quoted packet as long as its header says, so that it decodes.
func padded(quote []byte) []byte {
	var n int
	if quote[0]>>4 == 4 {
		n = int(binary.BigEndian.Uint16(quote[2:]))
	} else {
		n = 40 + int(binary.BigEndian.Uint16(quote[4:]))
	}
	return append(append([]byte(nil), quote...), make([]byte, max(n-len(quote), 0))...)
}

// icmpSender sends ICMP messages from a node.
type icmpSender struct {
	t  *testing.T
	fd func(b []byte, dst netip.Addr) error
}

// newICMPSender opens a raw socket in a node.
func newICMPSender(t *testing.T, n *rig.Node) icmpSender {
	t.Helper()
	f, err := n.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.FilePacketConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return icmpSender{t, func(b []byte, dst netip.Addr) error {
		_, err := c.WriteTo(b, &net.IPAddr{IP: dst.AsSlice()})
		return err
	}}
}

// send sends a message to H that quotes a packet.
func (s icmpSender) send(kind, code uint8, rest uint32, quote []byte) {
	s.t.Helper()
	// The packet is made for its checksum; the socket makes a header of its own.
	b := packettest.ICMP(rig.X1v4, rig.H4, kind, code, rest, quote)[20:]
	if err := s.fd(b, rig.H4); err != nil {
		s.t.Fatal(err)
	}
}

// liveQuotes are messages about a live flow that must not end it: unreachable host, port, too big, time
// exceeded, source quench.
var liveQuotes = []struct{ kind, code uint8 }{{3, 1}, {3, 3}, {3, 4}, {11, 0}, {4, 0}}

// NAT-12: no ICMP message ends a mapping or a connection (RFC 4787 REQ-12, 5382 REQ-10, 5508 REQ-6).
// It lowers H's path MTU to X1, so it is not parallel.
func TestNAT12(t *testing.T) {
	r := rig.Start(t)
	t.Cleanup(func() { flushRoutes(t, r.H) })
	sb := r.Run(t)
	sender := newICMPSender(t, r.X1)
	t.Run("UDP", func(t *testing.T) {
		server := listenUDP(t, r.X1, at(rig.X1v4, 0), sendBack)
		c := sb.ListenUDP(t, at(netip.IPv4Unspecified(), 0)) // unconnected: an error does not stop it
		buf := make([]byte, 100)
		var external netip.AddrPort
		for i := range 1 + len(liveQuotes) {
			text := fmt.Sprint("datagram ", i)
			if _, err := c.WriteToUDPAddrPort([]byte(text), server.at); err != nil {
				t.Fatal(err)
			}
			if n, _, err := c.ReadFromUDPAddrPort(buf); err != nil || string(buf[:n]) != text {
				t.Fatalf("answer %q, %v; want %q", buf[:n], err, text)
			}
			now := server.sources()[text]
			if i > 0 && now != external {
				t.Fatalf("mapping was %v and is %v after ICMP %v", external, now, liveQuotes[i-1])
			}
			external = now
			if i < len(liveQuotes) {
				sender.send(liveQuotes[i].kind, liveQuotes[i].code, 1280, udp(external, server.at, text))
			}
		}
	})
	t.Run("TCP", func(t *testing.T) {
		wire := r.R.OpenPacket(t, rig.DevToX1)
		echo := serveEcho(t, r.X1, rig.X1v4)
		c := sb.DialTCP(t, echo)
		buf := make([]byte, 5)
		for _, q := range liveQuotes {
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, buf); err != nil {
				t.Fatalf("before ICMP %v: %v", q, err)
			}
			// A real segment, so that its sequence number is one that H takes seriously.
			_, frame, err := wire.Receive(rig.Patience, func(d packettest.Decoded) bool {
				return d.Proto == packettest.ProtoTCP && d.Dst == echo && len(d.Payload) == 5
			})
			if err != nil {
				t.Fatal(err)
			}
			sender.send(q.kind, q.code, 1280, frame[l2.HeaderLen:])
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); err != nil || len(b) != 0 {
			t.Errorf("after all: %q, %v", b, err)
		}
	})
}

// flushRoutes forgets what a node has learned about paths. It is for the end of a test.
func flushRoutes(t testing.TB, n *rig.Node) {
	t.Helper()
	for _, v := range []string{"-4", "-6"} {
		if out, code, err := n.Exec(context.Background(), "", "ip", v, "route", "flush", "cache"); err != nil || code != 0 {
			t.Errorf("flush routes: %v %s", err, out)
		}
	}
}

// NAT-13: messages about flows that do not exist reach no container (5508 REQ-4).
func TestNAT13(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	echo := serveUDP(t, r.X1, rig.X1v4)
	c := sb.DialUDP(t, echo)
	exchange(t, c, []byte("a flow, so that there is something to mistake"))
	got := sb.Capture(t, rig.DevEth0, func(d packettest.Decoded) bool { return d.Proto == packettest.ProtoICMP })
	sender := newICMPSender(t, r.X2)
	for i := range 1000 {
		from := at(rig.H4, uint16(1024+i*61))
		sender.send(3, 3, 0, udp(from, at(rig.X2v4, uint16(1+i)), "never sent"))
	}
	waitArrived(t, r, families[0])
	exchange(t, c, []byte("behind all of them"))
	if n := len(got.Seen()); n > 0 {
		t.Errorf("%d messages came through", n)
	}
}

// NAT-14 and HC-21 from outside: messages with strange quotes are translated or dropped, and hurt nobody
// (5508 REQ-3). It lowers H's path MTU to X1, so it is not parallel.
func TestNAT14(t *testing.T) {
	r := rig.Start(t)
	t.Cleanup(func() { flushRoutes(t, r.H) })
	sb := r.Run(t)
	datapath := sb.Datapath(t)
	server := listenUDP(t, r.X1, at(rig.X1v4, 0), sendBack)
	c := sb.DialUDP(t, server.at)
	exchange(t, c, []byte("flow"))
	quote := udp(server.sources()["flow"], server.at, "flow")
	sender := newICMPSender(t, r.X1)
	options := func(o ...byte) []byte {
		q := bytes.Clone(quote[:20])
		q[0] = 0x40 | byte(5+len(o)/4)
		q = append(append(q, o...), quote[20:]...)
		binary.BigEndian.PutUint16(q[2:], uint16(len(q)))
		return packettest.FixIPv4(q)
	}
	change := func(i int, v byte) []byte { q := bytes.Clone(quote); q[i] = v; return q }
	quotes := [][]byte{
		nil, {0x45}, quote[:10], quote[:19], quote[:20], quote[:23], quote[:27],
		options(1, 1, 1, 0), options(7, 4, 4, 0), options(0x83, 3, 4, 0), options(0x44, 255, 0, 0), options(bytes.Repeat([]byte{1}, 40)...),
		change(0, 0x00), change(0, 0x44), change(0, 0x4f), change(0, 0x65), change(2, 0xff), change(3, 0),
		change(6, 0x3f), change(7, 0xff), change(9, 132), change(9, 253), change(9, 1), change(9, 6), change(9, 58),
		change(10, 0xee), change(12, 127), change(16, 127), change(20, 0), change(24, 0),
	}
	for _, q := range quotes {
		for _, k := range []struct{ kind, code uint8 }{{3, 0}, {3, 2}, {3, 4}, {3, 15}, {11, 1}, {12, 0}, {5, 1}} {
			sender.send(k.kind, k.code, 0, q)
		}
	}
	wantAlive(t, r, sb, datapath)
	// What is quoted down to 8 bytes of UDP is enough to be translated.
	u := sb.DialUDP(t, server.at)
	exchange(t, u, []byte("another"))
	// The messages before may have used up what the sandbox is told of errors in a second, so it is tried again.
	var err error
	if !rig.Eventually(t, rig.Patience, func() bool {
		sender.send(3, 3, 0, udp(server.sources()["another"], server.at, "another")[:28])
		u.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, err = u.Read(make([]byte, 10))
		return err != nil && strings.Contains(err.Error(), syscall.ECONNREFUSED.Error())
	}) {
		t.Errorf("after messages with a short quote: %v, want %v", err, syscall.ECONNREFUSED)
	}
}

// NAT-15: who sends too large a packet with DF is told the path's MTU, and TCP follows (REQ-13).
func TestNAT15(t *testing.T) {
	r := rig.Start(t)
	t.Cleanup(func() { flushRoutes(t, r.H) })
	r.R.SetMTU(t, rig.DevToX1, 1280, 1500)
	r.X1.SetMTU(t, rig.DevEth0, 1280, 1500)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			sb := r.Run(t)
			began := time.Now()
			out, _, err := sb.Exec(t.Context(), "", "ping", "-n", "-c2", "-i0.3", "-W1", "-M", "do", "-s", "1400", f.x1.String())
			if took := time.Since(began); err != nil || took > busy*4*time.Second {
				t.Errorf("ping: %v after %v", err, took)
			}
			if !regexp.MustCompile(`(?i)mtu ?= ?1280`).MatchString(out) {
				t.Errorf("ping does not hear of an MTU of 1280:\n%s", out)
			}
			if out := sb.Run(t, "ip", "route", "get", f.x1.String()); !strings.Contains(out, "mtu 1280") {
				t.Errorf("the sandbox has not learned the path's MTU: %s", out)
			}
			wantTooBig(t, r, r.Run(t), f)
			transfer(t, r.Run(t).Node, r.X1, f.x1, 1<<20, time.Second)
		})
	}
}

// wantTooBig sends a datagram with DF that does not fit the path, from a sandbox that does not know it.
func wantTooBig(t *testing.T, r *rig.Rig, sb *rig.Sandbox, f family) {
	t.Helper()
	server := listenUDP(t, r.X1, at(f.x1, 0), sendBack)
	c, err := sb.DialFrom(t.Context(), "udp", netip.AddrPort{}, server.at, func(fd int) error {
		if f.x1.Is4() {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rig.WaitFor(t, time.Second, "EMSGSIZE for a datagram with DF", func() bool {
		_, err := c.Write(payload(1400))
		return err != nil && strings.Contains(err.Error(), syscall.EMSGSIZE.Error())
	})
}

// NAT-17: fragments in any order make one datagram; those that overlap make none (REQ-14).
func TestNAT17(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	link, gateway := sb.OpenPacket(t, rig.DevEth0), gatewayMAC(t, sb)
	type piece struct{ offset, n int }
	a, b, c := piece{0, 1000}, piece{1000, 1000}, piece{2000, 1000}
	for i, row := range []struct {
		name   string
		pieces []piece
		want   int
	}{
		{"in order", []piece{a, b, c}, 1},
		{"a hole until the end", []piece{a, c, b}, 1},
		{"backwards", []piece{c, b, a}, 1},
		{"the first last", []piece{b, c, a}, 1},
		{"one twice", []piece{a, b, b, c}, 1},
		{"the first twice, backwards", []piece{c, b, b, a}, 1},
		// All of the datagram comes, too: the overlap alone is why it is dropped.
		{"one inside another", []piece{a, b, {1008, 512}, c}, 0},
		{"one around another", []piece{a, {1008, 512}, b, c}, 0},
		{"overlap by 8 bytes", []piece{a, {992, 1008}, b, c}, 0},
		{"overlap with the first", []piece{b, {0, 1008}, a, c}, 0},
		{"one is missing", []piece{a, c}, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			server := listenUDP(t, r.X1, at(rig.X1v4, 0), nil)
			whole := packettest.UDP(at(rig.SandboxAddr4, 9000), server.at, payload(2992-8))
			for _, p := range row.pieces {
				n := p.n
				if p == c {
					n = len(whole) - 20 - p.offset
				}
				link.SendPacket(t, gateway, fragment(whole, uint16(100+i), p.offset, n))
			}
			link.SendPacket(t, gateway, udp(at(rig.SandboxAddr4, 9000), server.at, "marker"))
			var got []datagram
			rig.WaitFor(t, rig.Patience, "marker behind the fragments", func() bool {
				got = server.received()
				return len(got) > 0 && got[len(got)-1].payload == "marker"
			})
			if len(got)-1 != row.want {
				t.Errorf("%d datagrams, want %d", len(got)-1, row.want)
			}
			if row.want == 1 && got[0].payload != string(payload(2992-8)) {
				t.Error("the datagram has other bytes than were sent")
			}
		})
	}
}

// NAT-19: the gateway is the first hop, and a packet whose TTL ends there goes no further.
func TestNAT19(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	bothFamilies(t, func(t *testing.T, f family) {
		out := sb.Run(t, "traceroute", "-n", "-q1", "-w2", "-m5", f.x1.String())
		var hops []string
		for _, line := range strings.Split(strings.TrimSpace(out), "\n")[1:] {
			hops = append(hops, strings.Fields(line)[1])
		}
		if want := []string{f.gateway.String(), f.router.String(), f.x1.String()}; fmt.Sprint(hops) != fmt.Sprint(want) {
			t.Errorf("hops are %v, want %v", hops, want)
		}
		server := listenUDP(t, r.X1, at(f.x1, 0), sendBack)
		onWire := r.R.Capture(t, rig.DevToH, to(packettest.ProtoUDP, f.x1))
		last, err := sb.DialFrom(t.Context(), "udp", netip.AddrPort{}, server.at, func(fd int) error {
			if f.x1.Is4() {
				return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, 1)
			}
			return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 1)
		})
		if err != nil {
			t.Fatal(err)
		}
		defer last.Close()
		if _, err := last.Write([]byte("short-lived")); err != nil {
			t.Fatal(err)
		}
		exchange(t, sb.DialUDP(t, server.at), []byte("behind it"))
		for _, d := range onWire.Seen() {
			if d.Dst == server.at && string(d.Payload) == "short-lived" {
				t.Errorf("a packet with TTL 1 left the host: %+v", d)
			}
		}
	})
}

// NAT-20: echo requests of two containers with one id get their own answers (5508 REQ-1); where the host has no
// ping sockets for its users, the container and the log are told.
func TestNAT20(t *testing.T) {
	r := rig.Start(t)
	t.Run("allowed", func(t *testing.T) {
		var senders []*rawPing
		for range 2 {
			senders = append(senders, newRawPing(t, r.Run(t)))
		}
		for _, f := range families {
			for k := range 20 {
				for i, s := range senders {
					text := fmt.Sprintf("sandbox %d", i)
					if got := s.ping(f, 7, uint16(k), text); got != text {
						t.Fatalf("%s: echo request %d of sandbox %d has the answer %q", f.name, k, i, got)
					}
				}
			}
		}
	})
	t.Run("refused", func(t *testing.T) {
		r.H.SetSysctl(t, "net.ipv4.ping_group_range", "1 0")
		sb := r.Run(t)
		datapath := sb.Datapath(t)
		for _, f := range families {
			told := sb.Capture(t, rig.DevEth0, isICMP(f, f.unreachable, f.prohibited))
			out, code, err := sb.Exec(t.Context(), "", "ping", "-n", "-c3", "-i0.2", "-W1", f.x1.String())
			if err != nil || code == 0 || len(told.Seen()) == 0 {
				t.Errorf("%s: ping: code %d, %v, %d messages\n%s", f.name, code, err, len(told.Seen()), out)
			}
		}
		if n := strings.Count(sb.Stderr.String(), "ping_group_range"); n != 1 {
			t.Errorf("%d lines about it in the log, want 1:\n%s", n, sb.Stderr)
		}
		wantAlive(t, r, sb, datapath)
	})
}

// rawPing sends echo requests with an id of choice. The sandbox's own kernel takes no notice of the answers: no
// socket of it has the id.
type rawPing struct {
	t       *testing.T
	link    *rig.PacketSocket
	gateway l2.MAC
}

func newRawPing(t *testing.T, sb *rig.Sandbox) *rawPing {
	t.Helper()
	return &rawPing{t, sb.OpenPacket(t, rig.DevEth0), gatewayMAC(t, sb)}
}

// ping sends an echo request to X1 and returns what is in the answer.
func (p *rawPing) ping(f family, id, seq uint16, text string) string {
	p.t.Helper()
	p.link.SendPacket(p.t, p.gateway, packettest.Echo(f.own, f.x1, id, seq, []byte(text)))
	d, _, err := p.link.Receive(rig.Patience, func(d packettest.Decoded) bool {
		return d.Proto == f.icmp && d.Kind == f.echoReply && d.Src.Addr() == f.x1
	})
	if err != nil {
		p.t.Fatalf("no answer to echo request %d: %v", seq, err)
	}
	return string(d.Payload)
}
