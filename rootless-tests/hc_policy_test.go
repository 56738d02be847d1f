package rootlesstests

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/rootless-tests/rig"
)

// recordDNS answers every question for an A record with 192.0.2.7, and remembers whatever it is sent, query or not.
func recordDNS(t testing.TB, n *rig.Node, where netip.Addr) *udpServer {
	t.Helper()
	return listenUDP(t, n, at(where, nextPort()), func(d datagram) []byte {
		q := new(dns.Msg)
		if q.Unpack([]byte(d.payload)) != nil || len(q.Question) != 1 {
			return []byte("?")
		}
		a := new(dns.Msg).SetReply(q)
		a.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1},
			A:   net.IPv4(192, 0, 2, 7),
		}}
		b, err := a.Pack()
		if err != nil {
			t.Errorf("DNS server: %v", err)
		}
		return b
	})
}

// query is a DNS query for the A record of a name.
func query(t testing.TB, name string) []byte {
	t.Helper()
	b, err := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// HC-06: a container speaks from its own addresses only. Neither its packets leave from others, nor is a name
// server made to answer a victim.
func TestHC06(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	upstream := recordDNS(t, r.X1, rig.X1v4)
	sb := r.Run(t, "--dns", upstream.at.String())
	link, gateway := sb.OpenPacket(t, rig.DevEth0), gatewayMAC(t, sb)
	victims := []string{"10.0.2.101", "10.0.2.1", "10.0.2.2", "10.0.2.3", "8.8.8.8", "203.0.113.1", "198.51.100.20", "127.0.0.1", "0.0.0.0",
		"255.255.255.255", "10.0.2.255", "224.0.0.1", "240.0.0.1",
		"fd00::101", "fd00::2", "fd00::3", "2001:db8::1", "fd01::1", "fd02::20", "::1", "::", "ff02::1", "::ffff:10.0.2.100", "fe80::1"}
	answers := sb.Capture(t, rig.DevEth0, func(d packettest.Decoded) bool {
		return d.Src.Port() == 53 && d.Proto == packettest.ProtoUDP
	})
	var packets [][]byte
	for _, v := range victims {
		src := netip.MustParseAddr(v)
		f := families[0]
		if src.Is6() {
			f = families[1]
		}
		packets = append(packets,
			udp(at(src, 9000), at(f.x1, 9), evil), packettest.TCP(at(src, 9000), at(f.x1, 80), packettest.SYN, 1, 0, []byte(evil)),
			packettest.Echo(src, f.x1, 1, 1, []byte(evil)), udp(at(src, 9000), at(f.gateway, 9), evil),
			packettest.UDP(at(src, 9000), at(f.dns, 53), query(t, evil+".example")))
	}
	syns := r.R.Capture(t, rig.DevToH, func(d packettest.Decoded) bool { return d.Proto == packettest.ProtoTCP && d.Dst.Port() == 80 })
	wantDropped(t, r, sb, packets)
	// The one query that is to be answered, behind all others.
	link.SendPacket(t, gateway, packettest.UDP(at(rig.SandboxAddr4, 9000), at(rig.DNS4, 53), query(t, "good.example")))
	rig.WaitFor(t, rig.Patience, "answer to a query from the container's own address", func() bool { return len(answers.Seen()) > 0 })
	for _, d := range answers.Seen() {
		if d.Dst.Addr() != rig.SandboxAddr4 {
			t.Errorf("an answer went to %v", d.Dst)
		}
	}
	for _, d := range upstream.received() {
		if strings.Contains(d.payload, evil) {
			t.Error("a query from an address that is not the container's was forwarded")
		}
	}
	for _, d := range syns.Seen() {
		if d.Dst.Addr() == rig.X1v4 || d.Dst.Addr() == rig.X1v6 {
			t.Errorf("a SYN from an address that is not the container's was carried: %v to %v", d.Src, d.Dst)
		}
	}
}

// HC-15: what listens on the host's loopback is out of reach, unless it is asked for.
func TestHC15(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	closed, open := r.Run(t), r.Run(t, "--host-loopback")
	bothFamilies(t, func(t *testing.T, f family) {
		tcp, udps := serveEcho(t, r.H, f.loopback), listenUDP(t, r.H, at(f.loopback, 0), sendBack)
		for _, to := range []netip.Addr{f.gateway, f.dns, f.host} {
			c, err := closed.Dial(rig.Within(t, 5*time.Second), "tcp", at(to, tcp.Port()))
			if err == nil {
				c.Close()
			}
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("TCP to %v: %v, want %v", to, err, syscall.ECONNREFUSED)
			}
			wantNoAnswer(t, closed, at(to, udps.at.Port()))
		}
		if n := len(udps.received()); n > 0 {
			t.Errorf("%d datagrams reached the host's loopback", n)
		}
		wantSmallEcho(t, open.DialTCP(t, at(f.gateway, tcp.Port())))
		if got := exchange(t, open.DialUDP(t, at(f.gateway, udps.at.Port())), []byte("hi")); string(got) != "hi" {
			t.Errorf("UDP with --host-loopback: %q", got)
		}
	})
}

// wantNoAnswer sends a datagram that must be refused or lost.
func wantNoAnswer(t *testing.T, sb *rig.Sandbox, to netip.AddrPort) {
	t.Helper()
	c := sb.DialUDP(t, to)
	if err := c.SetDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	// Not evil: to the host's own address it is carried, and other tests look for that on the host's lo.
	if _, err := c.Write([]byte("nobody answers")); err != nil {
		return
	}
	if n, err := c.Read(make([]byte, 100)); err == nil {
		t.Errorf("UDP to %v: an answer of %d bytes", to, n)
	}
}

// trickAddrs are ways to say "this host", "everybody" and "nobody".
var trickAddrs = []string{
	"0.0.0.0", "0.1.2.3", "127.0.0.1", "127.8.8.8", "127.255.255.255", "255.255.255.255", "240.0.0.1", "224.0.0.1", "239.255.255.250", "10.0.2.255", "10.0.2.0",
	"::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:0.0.0.0", "::ffff:203.0.113.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::", "2002:7f00:1::", "2002:7f00:1::1",
	"fe80::1", "ff02::1", "ff01::1", "ff05::2",
}

// probes are packets of each protocol to an address.
func probes(to netip.Addr, port uint16) [][]byte {
	f := families[0]
	if to.Is6() {
		f = families[1]
	}
	return [][]byte{
		udp(at(f.own, 9000), at(to, port), evil),
		packettest.TCP(at(f.own, 9000), at(to, port), packettest.SYN, 1, 0, nil),
		packettest.Echo(f.own, to, 1, 1, []byte(evil)),
	}
}

// HC-16: no spelling of the host's loopback or of anything that is not one ordinary host is connected to. What
// the datapath did would show on the host's lo or on its way out.
func TestHC16(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	port := nextPort()
	toPort := func(d packettest.Decoded) bool { return d.Dst.Port() == port }
	lo, wire := r.H.Capture(t, "lo", toPort), r.R.Capture(t, rig.DevToH, toPort)
	var packets [][]byte
	for _, a := range trickAddrs {
		packets = append(packets, probes(netip.MustParseAddr(a), port)...)
	}
	wantDropped(t, r, sb, packets)
	for _, d := range slices.Concat(lo.Seen(), wire.Seen()) {
		t.Errorf("a packet to %v", d.Dst)
	}
	// Would they have shown? A packet of the host's own does.
	c := r.H.DialUDP(t, at(netip.MustParseAddr("127.8.8.8"), port))
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	rig.WaitFor(t, rig.Patience, "a packet that does go to loopback", func() bool { return len(lo.Seen()) > 0 })
}

// HC-17: the addresses at which clouds serve credentials are refused, by every protocol, unless asked for.
func TestHC17(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	metadata := []string{"169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "fd00:ec2::254"}
	var packets [][]byte
	wire := r.R.Capture(t, rig.DevToH, func(d packettest.Decoded) bool { return slices.Contains(metadata, d.Dst.Addr().String()) })
	for _, a := range metadata {
		to := netip.MustParseAddr(a)
		began := time.Now()
		c, err := sb.Dial(rig.Within(t, 5*time.Second), "tcp", at(to, 80))
		if err == nil {
			c.Close()
		}
		if took := time.Since(began); err == nil || took > 4*time.Second {
			t.Errorf("connect to %v: %v after %v, want an error within 1s", to, err, took)
		}
		packets = append(packets, probes(to, 80)...)
	}
	wantDropped(t, r, sb, packets)
	for _, d := range wire.Seen() {
		t.Errorf("a packet to %v", d.Dst)
	}
}

// HC-18: of all ports of the gateway and of the name server, only DNS is open.
func TestHC18(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	link, gateway := sb.OpenPacket(t, rig.DevEth0), gatewayMAC(t, sb)
	for _, f := range families {
		for _, a := range []netip.Addr{f.gateway, f.dns} {
			open := sb.Capture(t, rig.DevEth0, func(d packettest.Decoded) bool {
				const synAck = packettest.SYN | packettest.ACK
				return d.Proto == packettest.ProtoTCP && d.Src.Addr() == a && d.Flags&synAck == synAck
			})
			for port := 1; port < 1<<16; port++ {
				link.SendPacket(t, gateway, packettest.TCP(at(f.own, uint16(30000+port%20000)), at(a, uint16(port)), packettest.SYN, 1, 0, nil))
				if port%300 == 0 {
					pace(t, link, gateway)
				}
			}
			pace(t, link, gateway)
			want := map[uint16]bool{}
			if a == f.dns {
				want[53] = true
				rig.WaitFor(t, rig.Patience, "DNS over TCP", func() bool { return len(open.Seen()) > 0 })
			}
			for _, d := range open.Seen() {
				if !want[d.Src.Port()] {
					t.Errorf("port %v is open", d.Src)
				}
			}
		}
	}
}

// HC-19: the name server's address is no way to the host's resolver: other ports are closed, and what is no DNS
// query is not forwarded.
func TestHC19(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	upstream := recordDNS(t, r.X1, rig.X1v4)
	sb := r.Run(t, "--dns", upstream.at.String())
	datapath := sb.Datapath(t)
	bothFamilies(t, func(t *testing.T, f family) {
		for _, port := range []uint16{1, 52, 54, 80, 853, 5353, upstream.at.Port()} {
			if _, err := sb.Dial(rig.Within(t, 5*time.Second), "tcp", at(f.dns, port)); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("TCP port %d: %v, want %v", port, err, syscall.ECONNREFUSED)
			}
			wantNoAnswer(t, sb, at(f.dns, port))
		}
		good := query(t, "example.org")
		answer := new(dns.Msg).SetReply(new(dns.Msg).SetQuestion("x.example.", dns.TypeA))
		packed, err := answer.Pack()
		if err != nil {
			t.Fatal(err)
		}
		var junk [][]byte
		for n := range len(good) {
			junk = append(junk, good[:n])
		}
		junk = append(junk, packed, payload(100), payload(512), payload(1400), payload(60000), []byte(strings.Repeat("\xc0\x0c", 100)),
			[]byte("GET / HTTP/1.0\r\n\r\n"), make([]byte, 12), make([]byte, 600))
		for _, b := range junk {
			wantRefusal(t, sb, at(f.dns, 53), b)
		}
		c := sb.DialTCP(t, at(f.dns, 53))
		if _, err := c.Write([]byte("\xff\xffGET / HTTP/1.0\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		if n := len(upstream.received()); n > 0 {
			t.Errorf("%d messages were forwarded: %.100q", n, upstream.received()[0].payload)
		}
	})
	if got := exchange(t, sb.DialUDP(t, at(rig.DNS4, 53)), query(t, "example.org")); len(got) < 12 || got[3]&15 != 0 {
		t.Errorf("answer to a good query: % x", got)
	}
	if now := sb.Datapath(t); now != datapath {
		t.Errorf("datapath was process %d and is now %d", datapath, now)
	}
}

// wantRefusal sends what is no query to the name server: silence is fine, and so is an answer that says so.
func wantRefusal(t *testing.T, sb *rig.Sandbox, to netip.AddrPort, b []byte) {
	t.Helper()
	c := sb.DialUDP(t, to)
	if err := c.SetDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	n, err := c.Read(buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	if err != nil || n < 12 || buf[3]&15 == 0 {
		t.Errorf("%.40q of %d bytes: answer % x, %v", b, len(b), buf[:n], err)
	}
}
