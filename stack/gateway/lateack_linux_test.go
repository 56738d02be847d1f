package gateway

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/stack/l2"
)

// loopback is a world in which the gateway's address leads to the host's loopback by the gateway's own dial.
func loopback(t *testing.T) (w *world, o *outside, to string, server uint64) {
	t.Helper()
	o = newOutside(t)
	w = newWorld(t, func(c *Config) { c.Spec.Policy.HostLoopback = true })
	at := o.l.Addr().(*net.TCPAddr).AddrPort()
	return w, o, netip.AddrPortFrom(testNet.Gateway4, at.Port()).String(), serverID(at)
}

// TestLateACK: the ACK of a handshake waits for the first data towards a server that was spoken to first, and towards no other.
func TestLateACK(t *testing.T) {
	w, o, to, server := loopback(t)
	servers := &w.gw.cfg.Shared.servers
	w.gw.late.age = time.Hour // nothing but data ends the wait
	talk := func(first, second net.Conn) {
		t.Helper()
		var b [1]byte
		for _, way := range [][2]net.Conn{{first, second}, {second, first}} {
			if _, err := way[0].Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := way[1].Read(b[:]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if servers.has(server) {
		t.Error("a server that nobody has spoken to is taken for one that is spoken to first")
	}
	c, h := pair(t, w, o, to)
	talk(c, h)
	waitFor(t, func() bool { return servers.has(server) }) // it was spoken to first

	c, err := w.dial(testContext(t), to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil { // the server may not know of the connection before
		t.Fatal(err)
	}
	h = o.accept(t)
	if _, err := h.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	talk(h, c)

	servers.learn(server, false)
	c, h = pair(t, w, o, to) // the server knows of it before it is spoken to
	talk(c, h)
	waitFor(t, func() bool { return servers.has(server) })
}

// TestLateACKOfSilence: a server that was spoken to first and speaks first now is told of the connection all the same, and is
// forgotten.
func TestLateACKOfSilence(t *testing.T) {
	w, o, to, server := loopback(t)
	servers := &w.gw.cfg.Shared.servers
	servers.learn(server, true)
	c, h := pair(t, w, o, to)
	if _, err := h.Write([]byte("220 ready")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return !servers.has(server) && !w.waitsToACK() })
}

// waitsToACK reports whether a flow's ACK is late.
func (w *world) waitsToACK() bool {
	w.gw.late.mu.Lock()
	defer w.gw.late.mu.Unlock()
	return w.gw.late.first != nil
}

// TestLateACKEnds: a flow that is over does not wait any more.
func TestLateACKEnds(t *testing.T) {
	w, o, to, server := loopback(t)
	w.gw.late.age = time.Hour
	w.gw.cfg.Shared.servers.learn(server, true)
	c, err := w.dial(testContext(t), to)
	if err != nil {
		t.Fatal(err)
	}
	if !w.waitsToACK() {
		t.Error("the ACK towards a server that is spoken to first is not late")
	}
	f := onlyFlow(t, w.gw)
	c.Close() // the FIN carries the ACK
	o.accept(t).Close()
	waitFor(t, func() bool { return w.gw.Flows() == 0 })
	f.mu.Lock()
	defer f.mu.Unlock()
	if w.waitsToACK() || f.late {
		t.Error("a flow that is over still waits")
	}
}

// TestLateACKAbandoned: nor does one that never begins, because the container does not ACK.
func TestLateACKAbandoned(t *testing.T) {
	w, _, to, server := loopback(t)
	w.toContainer.tap = func(*l2.Frame) bool { return false }
	w.gw.late.age = time.Hour
	w.gw.cfg.Shared.servers.learn(server, true)
	w.raw(synPacket(container4, netip.MustParseAddrPort(to), 4000))
	waitFor(t, w.waitsToACK)
	w.gw.answers.stop()
	waitFor(t, func() bool { return w.gw.Flows() == 0 && !w.waitsToACK() })
}

// TestDialLate: the kernel keeps the ACK back until it is told otherwise, or somebody sends.
func TestDialLate(t *testing.T) {
	l, to := rawListener(t, 1)
	accept := func() bool {
		c, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
		if err == nil {
			unix.Close(c)
		}
		return err == nil
	}
	// The kernel's own patience is 40 ms or more, which may pass between two lines on a busy machine.
	for range 1000 {
		fd, err := dialHost(until(t.Context()), outbound{lateACK: true}, to)
		if err != nil {
			t.Fatal(err)
		}
		early := accept()
		f := &flow{fd: fd, late: true}
		f.prompt()
		if !early {
			waitFor(t, accept)
		}
		closeSocket(fd)
		if !early {
			return
		}
	}
	t.Error("a connection whose ACK is late is there at once")
}
