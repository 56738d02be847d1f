package stack_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap/taptest"
)

// TestNetwork: containers reach each other, the gateway, the name server and their lease.
func TestNetwork(t *testing.T) {
	for _, vnet := range []bool{true, false} {
		t.Run(fmt.Sprintf("vnet=%v", vnet), func(t *testing.T) {
			n := newNetwork(t, stack.Options{})
			a, b := attach(t, n, "a", 100, vnet), attach(t, n, "b", 101, vnet)

			a.send(packettest.ARP(packettest.ARPRequest, a.MAC, a.IP4, l2.MAC{}, b.IP4))
			b.next("ARP request", func(f l2.Frame, _ packettest.Decoded) bool { return f.Header.Type() == l2.TypeARP })
			ping := packettest.Frame(a.MAC, b.MAC, packettest.Echo(a.IP4, b.IP4, 1, 1, []byte("hello")))
			a.send(ping)
			b.next("ping", func(f l2.Frame, p packettest.Decoded) bool { return packettest.Equal(f, ping) })

			a.send(packettest.ARP(packettest.ARPRequest, a.MAC, a.IP4, l2.MAC{}, testNet.Gateway4))
			a.next("ARP reply", func(f l2.Frame, _ packettest.Decoded) bool {
				return f.Header.Type() == l2.TypeARP && f.Header.Src() == testNet.GatewayMAC
			})
			a.toGateway(packettest.Echo(a.IP4, testNet.Gateway4, 7, 1, nil))
			a.next("reply of the gateway", echoReply(7))

			q := new(dns.Msg).SetQuestion("b.", dns.TypeA)
			raw, err := q.Pack()
			if err != nil {
				t.Fatal(err)
			}
			a.toGateway(packettest.UDP(netip.AddrPortFrom(a.IP4, 5353), netip.AddrPortFrom(testNet.DNS4, 53), raw))
			_, p := a.next("DNS answer", func(_ l2.Frame, p packettest.Decoded) bool { return p.Src.Port() == 53 })
			answer := new(dns.Msg)
			if err := answer.Unpack(p.Payload); err != nil || len(answer.Answer) != 1 || !strings.Contains(answer.String(), b.IP4.String()) {
				t.Errorf("asked for b, got %v, %v", answer, err)
			}

			b.send(packettest.DHCPDiscover(b.MAC, 7))
			b.next("DHCP offer of its address", func(_ l2.Frame, p packettest.Decoded) bool {
				return p.Src.Port() == 67 && len(p.Payload) > 20 && netip.AddrFrom4([4]byte(p.Payload[16:20])) == b.IP4
			})
			b.send(packettest.RS(b.MAC, packettest.LinkLocal(b.MAC)))
			b.next("router advertisement", func(_ l2.Frame, p packettest.Decoded) bool { return p.Kind == 134 })
		})
	}
}

// TestOutgoing: a TCP connection and a datagram of a container reach the host's sockets and come back.
func TestOutgoing(t *testing.T) {
	n := newNetwork(t, stack.Options{})
	a := attach(t, n, "a", 100, true)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	src, dst := netip.AddrPortFrom(a.IP4, 1000), netip.AddrPortFrom(testNet.Gateway4, l.Addr().(*net.TCPAddr).AddrPort().Port())
	a.toGateway(packettest.TCP(src, dst, packettest.SYN, 1, 0, nil))
	_, p := a.next("SYN-ACK", func(_ l2.Frame, p packettest.Decoded) bool { return p.Flags == packettest.SYN|packettest.ACK })
	a.toGateway(packettest.TCP(src, dst, packettest.ACK|packettest.PSH, 2, p.Seq+1, []byte("hello")))
	h, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	got := make([]byte, 5)
	if _, err := io.ReadFull(h, got); err != nil || string(got) != "hello" {
		t.Fatalf("host read %q, %v", got, err)
	}
	if s := n.Stats(); s.TCPFlows != 1 {
		t.Errorf("%d TCP flows, want 1", s.TCPFlows)
	}

	u, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	to := netip.AddrPortFrom(testNet.Gateway4, u.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	a.toGateway(packettest.UDP(src, to, []byte("ping")))
	u.SetDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 10)
	k, from, err := u.ReadFromUDPAddrPort(b)
	if err != nil || string(b[:k]) != "ping" {
		t.Fatalf("host read %q, %v", b[:k], err)
	}
	if _, err := u.WriteToUDPAddrPort([]byte("pong"), from); err != nil {
		t.Fatal(err)
	}
	a.next("answer", func(_ l2.Frame, p packettest.Decoded) bool {
		return p.Src == to && p.Dst == src && string(p.Payload) == "pong"
	})
}

// TestPublish: a client of a published port reaches the container, is reset when that refuses, and
// finds the port closed when it is no longer published.
func TestPublish(t *testing.T) {
	n := newNetwork(t, stack.Options{})
	a := attach(t, n, "a", 100, true)
	ls, err := portfwd.Listen([]portfwd.Spec{{Proto: "tcp", HostIP: netip.MustParseAddr("127.0.0.1"), Port: 80}}, false)
	if err != nil || len(ls) != 1 {
		t.Fatal(ls, err)
	}
	if err := n.Publish("p", ls[0].Spec, ls[0].File, "a"); err != nil {
		t.Fatal(err)
	}
	if s := n.Stats(); s.Ports != 1 || s.Endpoints != 1 {
		t.Errorf("stats %+v, want 1 port and 1 endpoint", s)
	}
	at := netip.AddrPortFrom(ls[0].Spec.HostIP, ls[0].Spec.HostPort).String()
	client, err := net.Dial("tcp4", at)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_, p := a.next("SYN", func(_ l2.Frame, p packettest.Decoded) bool { return p.Flags == packettest.SYN })
	if p.Dst != netip.AddrPortFrom(a.IP4, 80) || !p.ChecksumOK {
		t.Errorf("the container got %v", p)
	}
	a.toGateway(packettest.TCP(p.Dst, p.Src, packettest.RST|packettest.ACK, 0, p.Seq+1, nil))
	client.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client read %v, want ECONNRESET", err)
	}
	if err := n.Unpublish("p"); err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp4", at); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial of an unpublished port: %v, %v", c, err)
	}
	if s := n.Stats(); s.Ports != 0 {
		t.Errorf("%d ports, want none", s.Ports)
	}
}

// TestRefusals: what cannot be done is said so, changes nothing and leaks no file.
func TestRefusals(t *testing.T) {
	n := newNetwork(t, stack.Options{})
	attach(t, n, "a", 100, true)
	before := openFiles(t)
	try := func(what string, ep spec.Endpoint) {
		f, info, far, err := taptest.Socket("x", 1500, true)
		if err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		if err := n.Attach(ep, f, info); err == nil || !strings.Contains(err.Error(), ep.ID) {
			t.Errorf("%s: %v", what, err)
		}
	}
	same := endpointSpec("a", packettest.NewStation(101))
	try("the same ID", same)
	try("the same addresses", endpointSpec("b", packettest.NewStation(100)))
	bad := endpointSpec("c", packettest.NewStation(102))
	bad.Addrs = append(bad.Addrs, netip.MustParseAddr("224.0.0.1"))
	try("a group address", bad)
	taken := endpointSpec("d", packettest.NewStation(103))
	taken.Addrs[0] = testNet.Gateway4
	try("the gateway's address", taken)

	pipe, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := n.Publish("p", portfwd.Spec{Proto: "tcp", Port: 80}, pipe, "nobody"); err == nil {
		t.Error("a port of nobody was published")
	}
	if err := n.Detach("nobody"); err == nil {
		t.Error("nobody was detached")
	}
	if s := n.Stats(); s.Endpoints != 1 || s.Ports != 0 {
		t.Errorf("stats %+v, want 1 endpoint", s)
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d open files, %d before", after, before)
	}
	n.Close()
	try("a closed network", endpointSpec("e", packettest.NewStation(104)))
	file := filepath.Join(t.TempDir(), "late.pcap")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Capture(f, false); err == nil {
		t.Error("a closed network is captured")
	}
	if _, err := f.Write([]byte{0}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file of a refused capture is still open: %v", err)
	}
}

// TestDetachUnderTraffic: containers come and go while the others talk, and who comes next with the same addresses
// is reached.
func TestDetachUnderTraffic(t *testing.T) {
	n := newNetwork(t, stack.Options{})
	a := attach(t, n, "a", 100, true)
	stop := make(chan struct{})
	var traffic sync.WaitGroup
	traffic.Go(func() {
		b := packettest.NewStation(101)
		for i := uint16(0); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if t.Failed() {
				return
			}
			a.send(packettest.Frame(a.MAC, b.MAC, packettest.Echo(a.IP4, b.IP4, 9, i, make([]byte, 1000))))
			a.send(packettest.ARP(packettest.ARPRequest, a.MAC, a.IP4, l2.MAC{}, b.IP4))
			a.toGateway(packettest.Echo(a.IP4, testNet.Gateway4, 9, i, nil))
		}
	})
	for i := range uint16(20) {
		b := attach(t, n, "b", 101, i%2 == 0)
		b.next("a frame of its neighbour", func(f l2.Frame, _ packettest.Decoded) bool { return f.Header.Src() == a.MAC })
		b.ping(i)
		if err := n.Detach("b"); err != nil {
			t.Fatal(err)
		}
		b.gone()
	}
	close(stop)
	traffic.Wait()
	a.ping(1000)
}

// TestReattach: an Endpoint that takes over addresses while their former owner is being detached keeps them.
func TestReattach(t *testing.T) {
	n := newNetwork(t, stack.Options{})
	attach(t, n, "first", 100, true)
	for i := range 200 {
		old, next := "first", "second"
		if i%2 == 1 {
			old, next = next, old
		}
		detached := make(chan error, 1)
		go func() { detached <- n.Detach(old) }()
		ep := endpointSpec(next, packettest.NewStation(100))
		var far *taptest.SocketFar
		for { // refused while the addresses are in use
			f, info, end, err := taptest.Socket(next, testNet.MTU, true)
			if err != nil {
				t.Fatal(err)
			}
			far = end
			if n.Attach(ep, f, info) == nil {
				break
			}
			far.Close()
		}
		if err := <-detached; err != nil {
			t.Fatal(err)
		}
		// The gateway must know the container before it has said anything.
		if !n.Reaches(ep.Addrs[0]) {
			t.Fatalf("round %d: the gateway forgot the new owner of %s", i, ep.Addrs[0])
		}
		t.Cleanup(func() { far.Close() })
	}
}

// TestEndpointDown: a TAP that is gone is told of, and only its Endpoint suffers.
func TestEndpointDown(t *testing.T) {
	down := make(chan string, 10)
	n := newNetwork(t, stack.Options{EndpointDown: func(id string, cause error) { down <- fmt.Sprint(id, " ", cause != nil) }})
	a, b := attach(t, n, "a", 100, true), attach(t, n, "b", 101, true)
	b.gone()
	if got := <-down; got != "b true" {
		t.Errorf("told %q", got)
	}
	a.toGateway(packettest.Echo(a.IP4, testNet.Gateway4, 3, 1, nil))
	a.next("a reply of the gateway", echoReply(3))
	if err := n.Detach("b"); err != nil {
		t.Error(err)
	}
	attach(t, n, "b", 101, true)
	if err := n.Detach("a"); err != nil {
		t.Error(err)
	}
	select {
	case got := <-down:
		t.Errorf("told %q of an Endpoint that was detached", got)
	default:
	}
}

// TestCapture: the file has what passed between a container and the switch, both ways, and can be replaced.
func TestCapture(t *testing.T) {
	n := newNetwork(t, stack.Options{})
	a := attach(t, n, "a", 100, true)
	first, second := filepath.Join(t.TempDir(), "1.pcap"), filepath.Join(t.TempDir(), "2.pcap")
	for i, name := range []string{first, second} {
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Capture(f, false); err != nil {
			t.Fatal(err)
		}
		a.toGateway(packettest.Echo(a.IP4, testNet.Gateway4, uint16(40+i), 1, []byte("captured")))
		a.next("a reply", echoReply(uint16(40+i)))
	}
	n.Close()
	for _, name := range []string{first, second} {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(raw) < 24 || binary.NativeEndian.Uint32(raw[20:]) != 1 {
			t.Fatalf("%s is no capture of Ethernet: % x", name, raw[:min(len(raw), 24)])
		}
		if k := bytes.Count(raw, []byte("captured")); k != 2 {
			t.Errorf("%s has the ping %d times, want request and reply", name, k)
		}
		for rest := raw[24:]; len(rest) > 0; {
			size := binary.NativeEndian.Uint32(rest[8:])
			if int(size)+16 > len(rest) {
				t.Fatalf("%s ends within a record", name)
			}
			rest = rest[16+size:]
		}
	}
}

// TestStats: what is dropped is counted by its reason.
func TestStats(t *testing.T) {
	n := newNetwork(t, stack.Options{})
	a := attach(t, n, "a", 100, true)
	if err := a.far.SendRaw(make([]byte, l2.VNetLen+13)); err != nil { // a runt
		t.Fatal(err)
	}
	a.send(packettest.Frame(packettest.NewStation(9).MAC, testNet.GatewayMAC, packettest.Echo(a.IP4, testNet.Gateway4, 1, 1, nil)))
	a.toGateway(packettest.Echo(netip.MustParseAddr("10.0.2.9"), testNet.Gateway4, 1, 1, nil))
	a.send(packettest.Frame(a.MAC, packettest.NewStation(9).MAC, packettest.Echo(a.IP4, testNet.Gateway4, 1, 1, nil)))
	broken := packettest.Echo(a.IP4, testNet.Gateway4, 1, 1, []byte{1})
	broken[len(broken)-1]++
	a.toGateway(broken)
	a.toGateway(packettest.Echo(a.IP4, testNet.Gateway4, 5, 1, nil))
	a.next("a reply", echoReply(5))
	s := n.Stats()
	for _, reason := range []string{"frame-runt", "src-mac-spoofed", "src-ip-spoofed", "dst-unknown", "checksum-bad"} {
		if s.Drops[reason] != 1 {
			t.Errorf("%s counted %d times, want once; all: %v", reason, s.Drops[reason], s.Drops)
		}
	}
	if s.Endpoints != 1 || s.Ports != 0 || s.TCPFlows != 0 {
		t.Errorf("stats %+v", s)
	}
}

// TestCloseLeaksNothing: Close in the middle of everything leaves no file open; TestMain looks for goroutines.
func TestCloseLeaksNothing(t *testing.T) {
	busyNetwork(t) // opens what the process keeps: the runtime's poller, what lingers
	before := openFiles(t)
	for range 3 {
		busyNetwork(t)
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d open files, %d before", after, before)
	}
}

// busyNetwork closes a network with a connection out, one in, a datagram and a ping under way.
func busyNetwork(t *testing.T) {
	n, err := stack.NewHost(stack.HostOptions{}).New(testNet, stack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	a := attach(t, n, "a", 100, true)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	src, dst := netip.AddrPortFrom(a.IP4, 1000), netip.AddrPortFrom(testNet.Gateway4, l.Addr().(*net.TCPAddr).AddrPort().Port())
	a.toGateway(packettest.TCP(src, dst, packettest.SYN, 1, 0, nil))
	_, p := a.next("SYN-ACK", func(_ l2.Frame, p packettest.Decoded) bool { return p.Flags == packettest.SYN|packettest.ACK })
	a.toGateway(packettest.TCP(src, dst, packettest.ACK, 2, p.Seq+1, nil))
	h, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	ls, err := portfwd.Listen([]portfwd.Spec{
		{Proto: "tcp", HostIP: netip.MustParseAddr("127.0.0.1"), Port: 80}, {Proto: "udp", HostIP: netip.MustParseAddr("127.0.0.1"), Port: 80},
	}, false)
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range ls {
		if err := n.Publish(fmt.Sprint(i), l.Spec, l.File, "a"); err != nil {
			t.Fatal(err)
		}
	}
	client, err := net.Dial("tcp4", netip.AddrPortFrom(ls[0].Spec.HostIP, ls[0].Spec.HostPort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	a.next("SYN", func(_ l2.Frame, p packettest.Decoded) bool { return p.Flags == packettest.SYN })
	a.toGateway(packettest.UDP(src, netip.AddrPortFrom(testNet.Gateway4, 9), []byte("x")))
	a.toGateway(packettest.Echo(a.IP4, testNet.Gateway4, 1, 1, nil))
	if err := n.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
	a.gone()
	for _, c := range []net.Conn{h, client} {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after Close the host reads %v, want ECONNRESET", err)
		}
	}
}
