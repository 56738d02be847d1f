package portfwd

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/stack/drop"
)

// udpClient is an ordinary program on the host.
func udpClient(t *testing.T, to netip.AddrPort) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func localPort(c net.Conn) uint16 { return c.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

// TestUDPSizes is UDP-01 for published ports: every size there and back, unchanged.
func TestUDPSizes(t *testing.T) {
	r := newRig(t, nil, &memEmitter{echo: true}, Limits{})
	for _, value := range []string{"127.0.0.1::53/udp", "[::1]::53/udp"} {
		c := udpClient(t, r.publish(t, value, both)[0])
		buf := make([]byte, 65536)
		for i, size := range []int{0, 1, 1472, 1473, 8000, 65507} {
			data := bytes.Repeat([]byte{byte('a' + i)}, size)
			if _, err := c.Write(data); err != nil {
				t.Fatal(err)
			}
			n, err := c.Read(buf)
			if err != nil || !bytes.Equal(buf[:n], data) {
				t.Errorf("%s: %d bytes came back as %d, %v", value, size, n, err)
			}
		}
	}
	if m := r.drops.Snapshot(); len(m) != 0 {
		t.Errorf("drops: %v", m)
	}
}

// TestUDPAnswersFromSpokenAddress is UDP-02: the socket of all addresses answers from the one the
// client spoke to; a connected client would not see the answer otherwise.
func TestUDPAnswersFromSpokenAddress(t *testing.T) {
	e := &memEmitter{echo: true, got: make(chan datagram, 8)}
	r := newRig(t, nil, e, Limits{})
	at := r.publish(t, "53/udp", both)
	for _, a := range []string{"127.0.0.1", "127.0.0.2", "127.3.4.5", "::1"} {
		c := udpClient(t, netip.AddrPortFrom(addr(a), at[0].Port()))
		fmt.Fprint(c, a)
		buf := make([]byte, 64)
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != a {
			t.Errorf("%s: answer %q, %v", a, buf[:n], err)
		}
		want := netip.AddrPortFrom(gateway4, localPort(c))
		if addr(a).Is6() {
			want = netip.AddrPortFrom(gateway6, localPort(c))
		}
		if d := <-e.got; d.from != want {
			t.Errorf("%s: the container sees %v, want %v", a, d.from, want)
		}
	}
}

// TestUDPOneClientTwoAddresses: one client socket speaks to two addresses and to two published ports
// of one container port. Four flows, which the container tells apart, and no answer goes astray.
func TestUDPOneClientTwoAddresses(t *testing.T) {
	e := &memEmitter{echo: true, got: make(chan datagram, 8)}
	r := newRig(t, nil, e, Limits{})
	first, second := r.publish(t, "53/udp", both)[0].Port(), r.publish(t, "53/udp", both)[0].Port()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	seen := make(map[netip.AddrPort]bool)
	for _, to := range []netip.AddrPort{
		netip.AddrPortFrom(addr("127.0.0.1"), first), netip.AddrPortFrom(addr("127.0.0.2"), first),
		netip.AddrPortFrom(addr("127.0.0.1"), second), netip.AddrPortFrom(addr("127.0.0.2"), second),
	} {
		c.WriteToUDPAddrPort([]byte(to.String()), to)
		buf := make([]byte, 64)
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil || from != to || string(buf[:n]) != to.String() {
			t.Errorf("asked %v, answer %q from %v, %v", to, buf[:n], from, err)
		}
		seen[(<-e.got).from] = true
	}
	if len(seen) != 4 || !seen[netip.AddrPortFrom(gateway4, localPort(c))] {
		t.Errorf("the container sees %v for four flows of port %d", seen, localPort(c))
	}
}

func TestUDPFamilies(t *testing.T) {
	e := &memEmitter{echo: true, got: make(chan datagram, 8)}
	r := newRig(t, nil, e, Limits{})
	rows := []struct {
		publish  string
		to       Target
		from, at netip.Addr
	}{
		{"[::1]::53/udp", Target{Addr4: both.Addr4}, gateway4, both.Addr4},
		{"127.0.0.1::53/udp", Target{Addr6: both.Addr6}, gateway6, both.Addr6},
	}
	for _, row := range rows {
		c := udpClient(t, r.publish(t, row.publish, row.to)[0])
		fmt.Fprint(c, "x")
		if n, err := c.Read(make([]byte, 8)); n != 1 || err != nil {
			t.Errorf("%s: answer of %d bytes, %v", row.publish, n, err)
		}
		if d := <-e.got; d.from.Addr() != row.from || d.to.Addr() != row.at {
			t.Errorf("%s: the container %v sees %v", row.publish, d.to, d.from)
		}
	}
}

// TestUDPSegments: datagrams that the client's kernel sends as one, and that a container sends as
// one, arrive as the datagrams they are.
func TestUDPSegments(t *testing.T) {
	e := &memEmitter{echo: true, got: make(chan datagram, 256)}
	r := newRig(t, nil, e, Limits{})
	for _, row := range []struct{ segment, count int }{{1000, 20}, {1, 64}, {1400, 46}, {4000, 10}} {
		c := udpClient(t, r.publish(t, "127.0.0.1::53/udp", both)[0])
		rc, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		rc.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, row.segment) })
		if err != nil {
			t.Fatal(err)
		}
		var data []byte
		for i := range row.count {
			data = append(data, bytes.Repeat([]byte{byte('0' + i)}, row.segment)...)
		}
		if _, err := c.Write(data); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 65536)
		for i := range row.count {
			n, err := c.Read(buf)
			if err != nil || !bytes.Equal(buf[:n], data[i*row.segment:][:row.segment]) {
				t.Fatalf("segment %d of %d × %d: %d bytes, %v", i, row.count, row.segment, n, err)
			}
		}
		for len(data) > 0 {
			d := <-e.got
			if d.segment != 0 && d.segment != row.segment || d.segment == 0 && len(d.payload) != row.segment {
				t.Errorf("emitted %d bytes with segment size %d, want %d", len(d.payload), d.segment, row.segment)
			}
			if d.segment > 1472 {
				t.Errorf("a USO packet of segments over the MTU: %d", d.segment)
			}
			data = data[len(d.payload):]
		}
	}
}

// TestUDPContainerSegments: what a container sends as one USO packet leaves as its datagrams, also
// more than the kernel takes at once; more than any kernel makes is a counted drop.
func TestUDPContainerSegments(t *testing.T) {
	e := &memEmitter{got: make(chan datagram, 8)}
	r := newRig(t, nil, e, Limits{})
	c := udpClient(t, r.publish(t, "127.0.0.1::53/udp", both)[0])
	fmt.Fprint(c, "hi")
	d := <-e.got
	for _, row := range []struct{ segment, size int }{{100, 950}, {10, 1000}, {10, 1280}, {30000, 60000}, {500, 400}} {
		data := bytes.Repeat([]byte("0123456789"), row.size/10)
		if !e.input(d.to, d.from, data, row.segment) {
			t.Fatalf("%+v: not recognised as an answer", row)
		}
		r.Flush()
		buf := make([]byte, 65536)
		for len(data) > 0 {
			want := data[:min(row.segment, len(data))]
			n, err := c.Read(buf)
			if err != nil || !bytes.Equal(buf[:n], want) {
				t.Fatalf("%+v: got %d bytes, %v; want %d", row, n, err, len(want))
			}
			data = data[len(want):]
		}
	}
	if !e.input(d.to, d.from, make([]byte, 129), 1) || r.drops.Get(drop.VNetBad) != 1 {
		t.Errorf("129 segments: drops %v", r.drops.Snapshot())
	}
}

// TestUDPInputIsExact: only packets that answer a client are taken; all others are the NAT's.
func TestUDPInputIsExact(t *testing.T) {
	e := &memEmitter{got: make(chan datagram, 8)}
	r := newRig(t, nil, e, Limits{})
	at := r.publish(t, "127.0.0.1::53/udp", both)[0]
	c := udpClient(t, at)
	fmt.Fprint(c, "hi")
	d := <-e.got
	port := func(a netip.AddrPort, by uint16) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), a.Port()+by) }
	for _, other := range []struct{ from, to netip.AddrPort }{
		{port(d.to, 1), d.from}, {d.to, port(d.from, 1)}, {d.from, d.to}, {ap("10.0.2.101:53"), d.from},
	} {
		if e.input(other.from, other.to, []byte("x"), 0) {
			t.Errorf("took a packet from %v to %v", other.from, other.to)
		}
	}
	if !e.input(d.to, d.from, []byte("yes"), 0) {
		t.Fatal("did not take the answer")
	}
	r.Flush()
	buf := make([]byte, 8)
	if n, err := c.Read(buf); string(buf[:n]) != "yes" {
		t.Errorf("answer %q, %v", buf[:n], err)
	}
	for s := range r.servers {
		r.Remove(s)
	}
	if e.input(d.to, d.from, []byte("late"), 0) || r.Flows() != 0 {
		t.Errorf("%d flows after Remove", r.Flows())
	}
	again, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatalf("the port is not free after Remove: %v", err)
	}
	again.Close()
}

func TestUDPLimitsAndIdle(t *testing.T) {
	e := &memEmitter{echo: true}
	r := newRig(t, nil, e, Limits{FlowsPerListener: 2, UDPIdle: 200 * time.Millisecond})
	at := r.publish(t, "127.0.0.1::53/udp", both)[0]
	ask := func() *net.UDPConn {
		c := udpClient(t, at)
		fmt.Fprint(c, "x")
		return c
	}
	for range 2 {
		if _, err := ask().Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	eventually(t, "a drop at the limit", func() bool { return r.drops.Get(drop.PublishLimit) == 1 })
	eventually(t, "idle flows to be forgotten", func() bool { return r.Flows() == 0 })
	if _, err := ask().Read(make([]byte, 1)); err != nil {
		t.Errorf("after others went: %v", err)
	}
}

// TestUDPManyReplies: a queue that fills up before Flush is sent at once and in order.
func TestUDPManyReplies(t *testing.T) {
	e := &memEmitter{got: make(chan datagram, 1)}
	r := newRig(t, nil, e, Limits{})
	c := udpClient(t, r.publish(t, "127.0.0.1::53/udp", both)[0])
	fmt.Fprint(c, "hi")
	d := <-e.got
	buf := make([]byte, 65536)
	for round := range 20 {
		for i := range 150 {
			e.input(d.to, d.from, fmt.Appendf(nil, "%d/%d", round, i), 0)
		}
		r.Flush()
		for i := range 150 {
			n, err := c.Read(buf)
			if want := fmt.Sprintf("%d/%d", round, i); err != nil || string(buf[:n]) != want {
				t.Fatalf("got %q, %v; want %s", buf[:n], err, want)
			}
		}
	}
}

// TestUDPSendErrors: an answer the host refuses is a counted drop and harms no other.
func TestUDPSendErrors(t *testing.T) {
	r := newRig(t, nil, &memEmitter{}, Limits{})
	r.publish(t, "0.0.0.0::53/udp", both)
	var u *udpServer
	for _, s := range r.servers {
		u = s.server.(*udpServer)
	}
	sink, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	client := sink.LocalAddr().(*net.UDPAddr).AddrPort()
	add := func(local string, peer uint16) *flow {
		f, reason := r.flows.add(time.Now(), clientKey{group: u.group, client: client, local: addr(local)},
			replyKey{container: ap("10.0.2.100:53"), peer: netip.AddrPortFrom(gateway4, peer)}, 0)
		if f == nil {
			t.Fatal(reason)
		}
		return f
	}
	gone, good := add("192.0.2.77", 1), add("127.0.0.1", 2)
	r.queue(gone, []byte("from an address the host lost"), 0)
	r.queue(good, []byte("good"), 0)
	r.Flush()
	sink.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 64)
	if n, _, err := sink.ReadFromUDPAddrPort(buf); string(buf[:n]) != "good" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	if n := r.drops.Get(drop.SocketError); n != 1 {
		t.Errorf("drops %v, want one socket error", r.drops.Snapshot())
	}
	for id := range r.servers {
		r.Remove(id)
	}
	r.queue(good, []byte("late"), 0)
	r.Flush()
	if n := r.drops.Get(drop.SocketError); n != 2 {
		t.Errorf("drops %v, want another socket error", r.drops.Snapshot())
	}
}

// TestUDPRangeHoldsNoMemory: an idle port costs its socket and a goroutine, not receive buffers.
func TestUDPRangeHoldsNoMemory(t *testing.T) {
	const ports, each = 300, 16 << 10
	e := &memEmitter{echo: true}
	r := newRig(t, nil, e, Limits{})
	ls, err := Listen(slices.Repeat([]Spec{{Proto: UDP, HostIP: addr("127.0.0.1"), Port: 1}}, ports), false)
	if err != nil {
		t.Fatal(err)
	}
	before := held()
	for i, l := range ls {
		if err := r.Add(fmt.Sprint(i), l.Spec, l.File, both); err != nil {
			t.Fatal(err)
		}
	}
	// A buffer is given back once nothing was found to receive.
	eventually(t, fmt.Sprintf("%d idle ports with %d bytes each at most", ports, each), func() bool { return held()-before <= ports*each })
}

// held is the memory in use, in bytes, of everything that is not garbage.
func held() int64 {
	runtime.GC()
	runtime.GC() // what a pool had is garbage after the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
