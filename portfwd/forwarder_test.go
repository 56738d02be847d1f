package portfwd

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"github.com/usernet/usernet/stack/drop"
)

func connect(t *testing.T, at netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ping sends a byte and waits for its echo.
func ping(c net.Conn) error {
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

// wantReset connects to a port that resets. The reset may be there before connect has returned, or
// while the client is writing.
func wantReset(t *testing.T, at netip.AddrPort) {
	t.Helper()
	c, err := net.Dial("tcp", at.String())
	if err == nil {
		defer c.Close()
		err = ping(c)
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("%v: %v, want a reset", at, err)
	}
}

func TestTCPForwards(t *testing.T) {
	r := newRig(t, &memDialer{serve: echo}, nil, Limits{})
	rows := []struct{ publish, from, to string }{
		{"127.0.0.1::80", "10.0.2.2", "10.0.2.100:80"},
		{"[::1]::81", "fd00::2", "[fd00::100]:81"},
	}
	for _, row := range rows {
		at := r.publish(t, row.publish, both)[0]
		c := connect(t, at)
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		c.CloseWrite()
		if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
			t.Errorf("%s: echo %q, %v", row.publish, got, err)
		}
		local := c.LocalAddr().(*net.TCPAddr).AddrPort()
		calls := r.dialer.calls()
		want := dial{netip.AddrPortFrom(addr(row.from), local.Port()), ap(row.to)}
		if got := calls[len(calls)-1]; got != want {
			t.Errorf("%s: dialled %v, want %v", row.publish, got, want)
		}
	}
	eventually(t, "all connections released", func() bool { return r.Conns() == 0 })
}

// TestTCPIntegrity is TCP-09 as far as this package goes: what the client sends is what arrives.
func TestTCPIntegrity(t *testing.T) {
	r := newRig(t, &memDialer{serve: echo}, nil, Limits{})
	at := r.publish(t, "127.0.0.1::80", both)[0]
	for _, size := range []int{1, 10 << 20} {
		data := make([]byte, size)
		rand.NewChaCha8([32]byte{}).Read(data)
		c := connect(t, at)
		sent := make(chan error, 1)
		go func() {
			_, err := io.Copy(c, bytes.NewReader(data))
			c.CloseWrite()
			sent <- err
		}()
		h := sha256.New()
		if _, err := io.Copy(h, c); err != nil {
			t.Fatal(err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		if [32]byte(h.Sum(nil)) != sha256.Sum256(data) {
			t.Errorf("%d bytes came back changed", size)
		}
	}
}

// TestTCPRefusedByContainer: the client of a port nobody listens on in the container gets a reset,
// and only the container's address was tried, never its loopback (LU-11).
func TestTCPRefusedByContainer(t *testing.T) {
	r := newRig(t, &memDialer{}, nil, Limits{})
	wantReset(t, r.publish(t, "127.0.0.1::8000", both)[0])
	eventually(t, "the dial", func() bool { return len(r.dialer.calls()) == 1 })
	for _, d := range r.dialer.calls() {
		if d.to != ap("10.0.2.100:8000") {
			t.Errorf("dialled %v", d.to)
		}
	}
}

// TestLoopbackAddressesAreDistinct is LU-10: one port of two addresses leads to two containers.
func TestLoopbackAddressesAreDistinct(t *testing.T) {
	r := newRig(t, &memDialer{serve: echo}, nil, Limits{})
	one, two := Target{Addr4: addr("10.0.2.101")}, Target{Addr4: addr("10.0.2.102")}
	at := r.publish(t, "127.0.0.1::80", one)[0]
	at2 := r.publish(t, netip.AddrPortFrom(addr("127.0.0.2"), at.Port()).String()+":80", two)[0]
	connect(t, at).CloseWrite()
	eventually(t, "the first dial", func() bool { return len(r.dialer.calls()) == 1 })
	connect(t, at2).CloseWrite()
	eventually(t, "the second dial", func() bool { return len(r.dialer.calls()) == 2 })
	if d := r.dialer.calls(); d[0].to.Addr() != one.Addr4 || d[1].to.Addr() != two.Addr4 {
		t.Errorf("dialled %v", d)
	}
}

func TestTCPLimits(t *testing.T) {
	r := newRig(t, &memDialer{serve: echo}, nil, Limits{Conns: 3, ConnsPerListener: 2})
	first, second := r.publish(t, "127.0.0.1::80", both)[0], r.publish(t, "127.0.0.1::80", both)[0]
	a, b := connect(t, first), connect(t, first)
	for _, c := range []*net.TCPConn{a, b} {
		if err := ping(c); err != nil {
			t.Fatal(err)
		}
	}
	wantReset(t, first) // over the listener's limit
	if err := ping(connect(t, second)); err != nil {
		t.Errorf("another listener: %v", err)
	}
	wantReset(t, second) // over the total limit
	if n := r.drops.Get(drop.PublishLimit); n != 2 {
		t.Errorf("%d drops counted, want 2", n)
	}
	a.Close()
	eventually(t, "a place for another client", func() bool { return r.Conns() == 2 })
	if err := ping(connect(t, first)); err != nil {
		t.Errorf("after one left: %v", err)
	}
}

func TestAddAndRemoveLive(t *testing.T) {
	r := newRig(t, &memDialer{serve: echo}, nil, Limits{})
	keep := connect(t, r.publish(t, "127.0.0.1::80", both)[0])
	at := r.publish(t, "127.0.0.1::81", both)[0]
	id := Spec{Proto: TCP, HostIP: at.Addr(), HostPort: at.Port(), Port: 81}.String()
	gone := connect(t, at)
	if err := ping(gone); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Remove(id); err != nil {
			t.Fatal(err)
		}
	}
	// Remove waited: the connection is over and the port is free.
	if n := r.dialer.done(); n != 1 {
		t.Errorf("%d connections ended when Remove returned, want 1", n)
	}
	if _, err := gone.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the removed port's connection: %v, want a reset", err)
	}
	if _, err := net.Dial("tcp", at.String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("connecting to the removed port: %v, want refused", err)
	}
	if err := ping(keep); err != nil {
		t.Errorf("the other port's connection: %v", err)
	}
	if again := r.publish(t, at.String()+":81", both); again[0] != at {
		t.Errorf("published again at %v, want %v", again[0], at)
	}
}

func TestAddRefuses(t *testing.T) {
	r := newRig(t, &memDialer{serve: echo}, nil, Limits{})
	good := Spec{Proto: TCP, HostIP: addr("127.0.0.1"), Port: 80}
	socket := func() *os.File {
		ls, err := Listen([]Spec{good}, false)
		if err != nil {
			t.Fatal(err)
		}
		return ls[0].File
	}
	if err := r.Add("a", good, socket(), both); err != nil {
		t.Fatal(err)
	}
	pipe, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	udp := good
	udp.Proto = UDP
	rows := []struct {
		name string
		id   string
		s    Spec
		f    *os.File
		to   Target
	}{
		{"id in use", "a", good, socket(), both},
		{"no target", "b", good, socket(), Target{}},
		{"target families swapped", "b", good, socket(), Target{Addr4: both.Addr6, Addr6: both.Addr4}},
		{"bad spec", "b", Spec{Proto: TCP}, socket(), both},
		{"a pipe", "b", good, pipe, both},
		{"a TCP socket for UDP", "b", udp, socket(), both},
	}
	for _, row := range rows {
		if err := r.Add(row.id, row.s, row.f, row.to); err == nil {
			t.Errorf("%s: accepted", row.name)
		}
		if err := row.f.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: the file was left open", row.name)
		}
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Add("c", good, socket(), both); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Add after Close: %v", err)
	}
}
