package rootlesstests

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// NAT-01: a socket has one external port, whomever it sends to (RFC 4787 REQ-1).
func TestNAT01(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	bothFamilies(t, func(t *testing.T, f family) {
		servers := []*udpServer{
			listenUDP(t, r.X1, at(f.x1, 0), sendBack),
			listenUDP(t, r.X1, at(f.x1, 0), sendBack),
			listenUDP(t, r.X2, at(f.x2, 0), sendBack),
		}
		const sockets = 900 // of both families together: below the limit of flows
		for i := range sockets {
			sendToAll(t, sb, f, servers, fmt.Sprint(i))
		}
		first, second, third := servers[0].sources(), servers[1].sources(), servers[2].sources()
		ports := map[netip.AddrPort]bool{}
		for i := range sockets {
			k := fmt.Sprint(i)
			if first[k] != second[k] || first[k] != third[k] {
				t.Errorf("socket %d is %v, %v and %v to three servers", i, first[k], second[k], third[k])
			}
			if ports[first[k]] {
				t.Errorf("socket %d shares %v with another", i, first[k])
			}
			ports[first[k]] = true
		}
	})
}

// sendToAll exchanges a datagram with each server from one new socket, which stays open: the sandbox's kernel
// would give its port to another.
func sendToAll(t *testing.T, sb *rig.Sandbox, f family, servers []*udpServer, text string) {
	t.Helper()
	c := sb.ListenUDP(t, at(f.any, 0))
	buf := make([]byte, 100)
	for _, s := range servers {
		if _, err := c.WriteToUDPAddrPort([]byte(text), s.at); err != nil {
			t.Fatal(err)
		}
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil || string(buf[:n]) != text || from != s.at {
			t.Fatalf("answer %q from %v, %v; want %q from %v", buf[:n], from, err, text, s.at)
		}
	}
}

// NAT-02: mapping and filtering of a flow do not change while others come and go (REQ-11).
func TestNAT02(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	first := listenUDP(t, r.X1, at(rig.X1v4, 0), sendBack)
	second := listenUDP(t, r.X1, at(rig.X1v4, 0), sendBack)
	stranger := r.X2.ListenUDP(t, at(rig.X2v4, 0))
	churn := listenUDP(t, r.X1, at(rig.X1v4, 0), nil)

	probe := sb.ListenUDP(t, at(netip.IPv4Unspecified(), 0))
	if err := probe.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	buf := make([]byte, 100)
	var external netip.AddrPort
	const flows = 2000
	for i := range flows {
		<-tick.C
		c := sb.DialUDP(t, churn.at)
		if _, err := fmt.Fprint(c, i); err != nil {
			t.Fatal(err)
		}
		c.Close()
		if i%20 != 0 {
			continue
		}
		text := fmt.Sprint(i)
		for _, s := range []*udpServer{first, second} {
			if _, err := probe.WriteToUDPAddrPort([]byte(text), s.at); err != nil {
				t.Fatal(err)
			}
			n, from, err := probe.ReadFromUDPAddrPort(buf)
			if err != nil || string(buf[:n]) != text || from != s.at {
				t.Fatalf("probe %d: answer %q from %v, %v", i, buf[:n], from, err)
			}
			if now := s.sources()[text]; !external.IsValid() {
				external = now
			} else if now != external {
				t.Fatalf("probe %d: external port was %v and is %v", i, external, now)
			}
		}
		// Would be the next that the probe reads, if the filter let it pass.
		if _, err := stranger.WriteToUDPAddrPort([]byte("stranger"), external); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(churn.received()); n < flows*99/100 {
		t.Errorf("%d of %d flows came through", n, flows)
	}
}

// NAT-03: containers that use the same port get external ports of their own, and their own answers (REQ-3).
func TestNAT03(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	server := listenUDP(t, r.X1, at(rig.X1v4, 0), sendBack)
	echo := serveEcho(t, r.X1, rig.X1v4)
	const each = 3400
	var sandboxes []*rig.Sandbox
	for range 3 {
		sandboxes = append(sandboxes, r.Run(t))
	}
	external := map[netip.AddrPort]bool{}
	for i, sb := range sandboxes {
		u := sb.ListenUDP(t, at(rig.SandboxAddr4, 5000))
		buf := make([]byte, 100)
		for k := range each {
			text := fmt.Sprintf("%d %d", i, k)
			if _, err := u.WriteToUDPAddrPort([]byte(text), server.at); err != nil {
				t.Fatal(err)
			}
			if n, _, err := u.ReadFromUDPAddrPort(buf); err != nil || string(buf[:n]) != text {
				t.Fatalf("sandbox %d: answer %q, %v; want %q", i, buf[:n], err, text)
			}
		}
		c, err := sb.DialFrom(t.Context(), "tcp", at(rig.SandboxAddr4, 5000), echo, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := fmt.Fprint(c, i); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != fmt.Sprint(i) {
			t.Errorf("sandbox %d: TCP answer %q, %v", i, buf[:n], err)
		}
	}
	for _, d := range server.received() {
		external[d.from] = true
	}
	if len(external) != len(sandboxes) {
		t.Errorf("%d sandboxes have %d external ports: %v", len(sandboxes), len(external), external)
	}
}

// NAT-08: who has been sent to may answer, from any of its ports; nobody else may (REQ-8, address-dependent).
func TestNAT08(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	bothFamilies(t, func(t *testing.T, f family) {
		server := listenUDP(t, r.X1, at(f.x1, 0), sendBack)
		other, stranger := r.X1.ListenUDP(t, at(f.x1, 0)), r.X2.ListenUDP(t, at(f.x2, 0))
		c := sb.ListenUDP(t, at(f.any, 0))
		buf := make([]byte, 100)
		if _, err := c.WriteToUDPAddrPort([]byte("hello"), server.at); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.ReadFromUDPAddrPort(buf); err != nil {
			t.Fatal(err)
		}
		external := server.sources()["hello"]
		if _, err := stranger.WriteToUDPAddrPort([]byte("stranger"), external); err != nil {
			t.Fatal(err)
		}
		// It comes after the stranger's at the socket of the mapping.
		waitArrived(t, r, f)
		if _, err := other.WriteToUDPAddrPort([]byte("other port"), external); err != nil {
			t.Fatal(err)
		}
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil || string(buf[:n]) != "other port" || from != addrOf(t, other.LocalAddr()) {
			t.Errorf("got %q from %v, %v; want what another port of the same host sent, and nothing before it", buf[:n], from, err)
		}
		if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, from, err := c.ReadFromUDPAddrPort(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %q from %v, %v; want nothing more", buf[:n], from, err)
		}
	})
}

// waitArrived returns when what X2 has sent to H has been handed to the sockets there: veth delivers in order.
func waitArrived(t *testing.T, r *rig.Rig, f family) {
	t.Helper()
	sink := r.H.ListenUDP(t, at(f.host, 0))
	c := r.X2.DialUDP(t, addrOf(t, sink.LocalAddr()))
	if _, err := c.Write([]byte("marker")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := sink.ReadFromUDPAddrPort(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
}

// NAT-16: datagrams of every size pass, fragmented where they have to be (REQ-13a).
func TestNAT16(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	bothFamilies(t, func(t *testing.T, f family) {
		c := sb.DialUDP(t, serveUDP(t, r.X1, f.x1))
		for _, n := range datagramSizes {
			want := payload(n)
			if got := exchange(t, c, want); string(got) != string(want) {
				t.Errorf("datagram of %d bytes came back as %d bytes, or as others", n, len(got))
			}
		}
	})
}

// datagramSizes are around the borders: nothing, a full packet of either family, one more, many fragments, the most.
var datagramSizes = []int{0, 1, 1452, 1453, 1472, 1473, 8000, 65507}

// NAT-29: a container at its limit of flows keeps those it has, is told so about new ones, and disturbs nobody
// (RFC 6888 REQ-4, 5508 REQ-8).
func TestNAT29(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	greedy, other := r.Run(t), r.Run(t)
	server := listenUDP(t, r.X1, at(rig.X1v4, 0), nil)
	link := greedy.OpenPacket(t, rig.DevEth0)
	gateway := gatewayMAC(t, greedy)

	const limit, attempts = 2048, 5000
	send := func(from, to int) {
		for i := from; i < to; i++ {
			link.SendPacket(t, gateway, udp(at(rig.SandboxAddr4, uint16(10000+i)), server.at, fmt.Sprint(i)))
			if i%100 == 0 {
				pace(t, link, gateway)
			}
		}
		pace(t, link, gateway)
	}
	refused := greedy.Capture(t, rig.DevEth0, isICMP(families[0], 3, 13))
	began := time.Now()
	send(0, attempts)
	before := server.sources()
	rig.WaitFor(t, rig.Patience, "flows up to the limit", func() bool {
		before = server.sources()
		return len(before) >= limit
	})
	if len(before) != limit {
		t.Errorf("%d flows, want %d", len(before), limit)
	}
	told, most := len(refused.Seen()), 2+int(time.Since(began)/time.Second)
	if told == 0 || told > most {
		t.Errorf("told %d times that a flow is refused, want 1 to %d", told, most)
	}
	if c := other.DialUDP(t, serveUDP(t, r.X1, rig.X1v4)); string(exchange(t, c, []byte("x"))) != "x" {
		t.Error("another sandbox is disturbed")
	}
	server.mu.Lock()
	server.got = nil
	server.mu.Unlock()
	send(0, limit)
	rig.WaitFor(t, rig.Patience, "the flows within the limit once more", func() bool {
		return len(server.sources()) >= limit
	})
	for text, port := range server.sources() {
		if port != before[text] {
			t.Fatalf("flow %s was %v and is %v", text, before[text], port)
		}
	}
}
