package portfwd

import (
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// reverse serves a listener that stands for one inside a container and leads to the port of host. It returns the
// address to speak to.
func (r *rig) reverse(t *testing.T, proto Proto, at netip.Addr, host uint16) netip.AddrPort {
	t.Helper()
	ls, err := Listen([]Spec{{Proto: proto, HostIP: at, Port: host}}, true)
	if err != nil {
		t.Fatal(err)
	}
	s := ls[0].Spec
	s.Reverse = true
	if err := r.Add(s.String(), s, ls[0].File, Target{}); err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(s.HostIP, s.HostPort)
}

// tcpService echoes each connection until its client is done, at a free port of the address.
func tcpService(t *testing.T, at string, serve func(*net.TCPConn)) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(at, "0"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serve(c.(*net.TCPConn))
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().(*net.TCPAddr).AddrPort().Port()
}

func dialTCP(t *testing.T, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestReverseTCP: a connection inside the container gets to the host's loopback, of the same family, with both
// half-closes; a port without a service resets.
func TestReverseTCP(t *testing.T) {
	for _, at := range []string{"127.0.0.1", "::1"} {
		r := newRig(t, nil, nil, Limits{})
		port := tcpService(t, at, echo)
		c := dialTCP(t, r.reverse(t, TCP, netip.MustParseAddr(at), port))
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
			t.Errorf("%s: got %q, %v", at, b, err)
		}
	}
	r := newRig(t, nil, nil, Limits{})
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(r.reverse(t, TCP, addr("127.0.0.1"), silentPort(t))))
	if err != nil {
		return // reset before it was used
	}
	defer c.Close()
	if b, err := io.ReadAll(c); err == nil {
		t.Errorf("a port without a service: got %q and no error", b)
	}
}

// silentPort is a TCP port of 127.0.0.1 that refuses: the one a connection comes from, which nobody else gets.
func silentPort(t *testing.T) uint16 {
	t.Helper()
	c := dialTCP(t, netip.AddrPortFrom(addr("127.0.0.1"), tcpService(t, "127.0.0.1", echo)))
	return c.LocalAddr().(*net.TCPAddr).AddrPort().Port()
}

// TestReverseUDP: each client inside has its own conversation with the service on the host.
func TestReverseUDP(t *testing.T) {
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 65536)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			pc.WriteToUDPAddrPort(append([]byte("re: "), b[:n]...), from)
		}
	}()
	defer func() { pc.Close(); <-done }()
	r := newRig(t, nil, nil, Limits{})
	at := r.reverse(t, UDP, addr("127.0.0.1"), pc.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	for _, say := range []string{"one", "two"} {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(30 * time.Second))
		b := make([]byte, 100)
		for range 3 {
			if _, err := io.WriteString(c, say); err != nil {
				t.Fatal(err)
			}
			if n, err := c.Read(b); err != nil || string(b[:n]) != "re: "+say {
				t.Fatalf("got %q, %v", b[:n], err)
			}
		}
	}
	if n := r.Flows(); n != 2 {
		t.Errorf("%d flows, want one for each client", n)
	}
}

// TestReverseUDPIdle: a conversation nobody uses is forgotten.
func TestReverseUDPIdle(t *testing.T) {
	r := newRig(t, nil, nil, Limits{UDPIdle: 10 * time.Millisecond})
	at := r.reverse(t, UDP, addr("127.0.0.1"), 9)
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, "a flow was forgotten", func() bool {
		_, _ = io.WriteString(c, "anybody?")
		return r.Flows() == 1
	})
	eventually(t, "no flow is left", func() bool { return r.Flows() == 0 })
}

// TestReverseSpec: what a Reverse Spec must have, and that Listen, which binds on the host, refuses it.
func TestReverseSpec(t *testing.T) {
	good := Spec{Proto: TCP, HostIP: addr("127.0.0.1"), HostPort: 80, Port: 8080, Reverse: true}
	if got, want := good.String(), "reverse 127.0.0.1:80:8080/tcp"; got != want {
		t.Errorf("String: %q, want %q", got, want)
	}
	if _, err := Listen([]Spec{good}, true); err == nil || !strings.Contains(err.Error(), "the container's to make") {
		t.Errorf("Listen: %v", err)
	}
	r := newRig(t, nil, nil, Limits{})
	for _, bad := range []Spec{
		{Proto: TCP, HostPort: 80, Port: 80, Reverse: true},
		{Proto: TCP, HostIP: addr("::1"), Port: 80, Reverse: true},
		{Proto: TCP, HostIP: addr("::1"), HostPort: 80, HostPortEnd: 90, Port: 80, Reverse: true},
	} {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Add("x", bad, f, Target{}); err == nil {
			t.Errorf("Add %v: no error", bad)
		}
	}
}
