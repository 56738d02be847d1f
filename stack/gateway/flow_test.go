package gateway

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/usernet/usernet/internal/packettest"
)

// smallBuffers makes a world's buffers small, so that they are soon full.
func (w *world) smallBuffers(t *testing.T, size int) {
	t.Helper()
	rcv := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: size, Max: size}
	snd := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: size, Max: size}
	for _, o := range []tcpip.SettableTransportProtocolOption{&rcv, &snd} {
		if err := stackOf(t, w.gw).SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			t.Fatal(err)
		}
		if err := w.c.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFullBuffers: a reader that stops until everything is full, and then drains, gets all of it, time after
// time (TCP-10). A lost wake-up would leave both sides waiting for good.
func TestFullBuffers(t *testing.T) {
	t.Parallel()
	const rounds = 150
	for _, dir := range []string{"up", "down"} {
		t.Run(dir, func(t *testing.T) {
			o := newOutside(t)
			w := newWorld(t, withDial(o.dial))
			w.smallBuffers(t, 32<<10)
			c, h := pair(t, w, o, outside4)
			h.SetWriteBuffer(32 << 10)
			var from, to net.Conn = c, h
			if dir == "down" {
				from, to = h, c
			}
			for i := range rounds {
				sent := fill(t, from, byte(i))
				got := make([]byte, sent)
				to.SetReadDeadline(time.Now().Add(packetWait))
				if n, err := io.ReadFull(to, got); err != nil {
					t.Fatalf("round %d: %d of %d bytes arrived: %v", i, n, sent, err)
				}
				if !bytes.Equal(got, bytes.Repeat([]byte{byte(i)}, sent)) {
					t.Fatalf("round %d: bytes differ", i)
				}
			}
		})
	}
}

// TestFullBufferOfAnswers: what has been read from the host and finds no room in the endpoint is kept, in its place, and before the end.
func TestFullBufferOfAnswers(t *testing.T) {
	o := newOutside(t)
	w := newWorld(t, withDial(o.dial))
	w.smallBuffers(t, 32<<10)
	c, h := pair(t, w, o, outside4)
	f := onlyFlow(t, w.gw)
	rest := func() bool {
		f.mu.Lock()
		n := len(f.rest)
		f.mu.Unlock()
		f.work(0) // what came while we had the lock
		return n > 0
	}
	var sent []byte
	for i := 0; !rest(); i++ {
		answer := bytes.Repeat([]byte{byte(i)}, quietBytes-1)
		if _, err := h.Write(answer); err != nil {
			t.Fatal(err)
		}
		sent = append(sent, answer...)
		waitFor(t, func() bool {
			n, err := queued(f.fd)
			return err == nil && n == 0 || rest()
		})
	}
	h.Close()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes arrived of %d, or others, %v", len(got), len(sent), err)
	}
}

// fill writes until nothing more is taken and returns how much was.
func fill(t *testing.T, to net.Conn, b byte) (sent int) {
	t.Helper()
	chunk := bytes.Repeat([]byte{b}, 64<<10)
	for {
		to.SetWriteDeadline(time.Now().Add(2 * time.Millisecond))
		n, err := to.Write(chunk)
		sent += n
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			return sent
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// endpoint is the gateway's end of its only flow, which has come of age.
func (b *bench) endpoint() (ep tcpip.Endpoint) {
	b.t.Helper()
	b.gw.young.tick(time.Now().Add(keepaliveFrom))
	waitFor(b.t, func() bool {
		for _, te := range stackOf(b.t, b.gw).RegisteredEndpoints() {
			e, ok := te.(tcpip.Endpoint)
			if ok && tcp.EndpointState(e.State()) != tcp.StateListen && e.SocketOptions().GetKeepAlive() {
				ep = e
			}
		}
		return ep != nil
	})
	return ep
}

// TestKeepalive: a flow of a peer that vanished ends within 10 minutes (TCP-13), and one of two idle peers that live
// never does (NAT-22): nothing but keepalive ends an established flow.
func TestKeepalive(t *testing.T) {
	o := newOutside(t)
	b := newBench(t, withDial(o.dial))
	b.connect(o)
	ep := b.endpoint()
	var idle tcpip.KeepaliveIdleOption
	var interval tcpip.KeepaliveIntervalOption
	var user tcpip.TCPUserTimeoutOption
	for _, opt := range []tcpip.GettableSocketOption{&idle, &interval, &user} {
		if err := ep.GetSockOpt(opt); err != nil {
			t.Fatal(err)
		}
	}
	count, err := ep.GetSockOptInt(tcpip.KeepaliveCountOption)
	if err != nil {
		t.Fatal(err)
	}
	lost := time.Duration(idle) + time.Duration(count)*time.Duration(interval)
	if lost > 10*time.Minute || count < 3 {
		t.Errorf("a lost peer is noticed after %v and %d probes, want 10 minutes and 3 probes", lost, count)
	}
	if user != 0 {
		t.Errorf("user timeout of %v ends flows that only wait", time.Duration(user))
	}
	fd := onlyFlow(t, b.gw).fd
	option := func(level, name int) int {
		v, err := syscall.GetsockoptInt(fd, level, name)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	waitFor(t, func() bool { return option(syscall.SOL_SOCKET, syscall.SO_KEEPALIVE) == 1 })
	hostIdle, hostInterval := option(syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE), option(syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL)
	if n := option(syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT); hostIdle != 60 || hostInterval != 15 || n != 9 {
		t.Errorf("the host's socket asks after %d s, %d times every %d s", hostIdle, n, hostInterval)
	}
}

// TestYoungFlowsEnd: a flow that ends before it has keepalive is not kept until it would have.
func TestYoungFlowsEnd(t *testing.T) {
	o := newOutside(t)
	b := newBench(t, withDial(o.dial))
	b.gw.young.age = time.Hour
	_, h := b.connect(o)
	reset(h)
	waitFor(t, func() bool { return b.gw.Flows() == 0 })
	b.gw.young.mu.Lock()
	defer b.gw.young.mu.Unlock()
	if b.gw.young.first != nil {
		t.Error("a flow that is over waits for its keepalive")
	}
}

// TestKeepaliveProbes: the container is asked whether it lives; its answer keeps the flow, its silence ends it
// with a reset to the outside, and half-closed flows are asked too (NAT-23).
func TestKeepaliveProbes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name       string
		halfClosed bool
	}{{"open", false}, {"half-closed", true}} {
		t.Run(tc.name, func(t *testing.T) {
			o := newOutside(t)
			b := newBench(t, withDial(o.dial))
			c, h := b.connect(o)
			if tc.halfClosed {
				c.send(packettest.FIN|packettest.ACK, nil)
				c.acked(c.seq)
			}
			ep := b.endpoint()
			every := tcpip.KeepaliveIdleOption(30 * time.Millisecond)
			ep.SetSockOpt(&every)
			ep.SetSockOptInt(tcpip.KeepaliveCountOption, 3)
			probe := func(p segment) bool { return p.Seq == c.ack-1 && len(p.Payload) <= 1 }
			for range 5 {
				c.next("keepalive probe", probe)
				c.sendAt(packettest.ACK, c.seq, c.ack, nil)
			}
			if _, err := h.Write([]byte("alive")); err != nil {
				t.Fatal(err)
			}
			c.read(5)
			// From here on nobody answers. Before, a busy machine has 15 s for each answer.
			again := tcpip.KeepaliveIntervalOption(30 * time.Millisecond)
			ep.SetSockOpt(&again)
			for range 3 {
				c.next("keepalive probe", probe)
			}
			waitFor(t, func() bool { return b.gw.Flows() == 0 })
			_, err := h.Read(make([]byte, 1))
			if tc.halfClosed { // the end that was read before hides the reset
				_, err = h.Write([]byte("x"))
			}
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("outside was told %v, want a reset", err)
			}
		})
	}
}

// TestUrgent: an urgent byte is a byte of the stream, in its place, and so is what follows it.
func TestUrgent(t *testing.T) {
	o := newOutside(t)
	w := newWorld(t, withDial(o.dial))
	c, h := pair(t, w, o, outside4)
	rc, err := h.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []struct {
		b     string
		flags int
	}{{"before", 0}, {"!", syscall.MSG_OOB}, {"after", 0}, {"?", syscall.MSG_OOB}, {"end", 0}} {
		if cerr := rc.Control(func(fd uintptr) { err = syscall.Sendto(int(fd), []byte(part.b), part.flags, nil) }); cerr != nil || err != nil {
			t.Fatal(cerr, err)
		}
	}
	readFull(t, c, "before!after?end")
}

// TestFlowsShareGoroutines: flows cost no goroutine each, and all of them still relay.
func TestFlowsShareGoroutines(t *testing.T) {
	const flows = 200
	o := newOutside(t)
	b := newBench(t, withDial(o.dial))
	before := runtime.NumGoroutine()
	var clients [flows]*client
	var hosts [flows]*net.TCPConn
	for i := range clients {
		clients[i] = b.newClient(uint16(1000 + i))
		hosts[i] = clients[i].open(o)
	}
	waitFor(t, func() bool { return runtime.NumGoroutine() < before+flows/4 })
	for i, c := range clients {
		c.write([]byte("up"))
		readFull(t, hosts[i], "up")
	}
}

// onlyFlow is the one that a gateway has.
func onlyFlow(t *testing.T, g *Gateway) (f *flow) {
	t.Helper()
	carrier, err := g.carriers.get()
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		carrier.mu.Lock()
		defer carrier.mu.Unlock()
		for _, f = range carrier.flows {
		}
		return len(carrier.flows) == 1
	})
	return f
}

// TestBusyFlowGrows: a flow with small buffers has large ones when it has moved much, as long as there are not too many
// of the kind, and gives its place back.
func TestBusyFlowGrows(t *testing.T) {
	o := newOutside(t)
	w := newWorld(t, withDial(o.dial))
	shared := w.gw.cfg.Shared
	for _, room := range []bool{true, false} {
		if shared.grown.Store(0); !room {
			shared.grown.Store(growBudget)
		}
		c, h := pair(t, w, o, outside4)
		options := onlyFlow(t, w.gw).ep.SocketOptions()
		options.SetReceiveBufferSize(minBuffer, true)
		options.SetSendBufferSize(minBuffer, true)
		transfer(t, 2*busyBytes, c, h, func() { c.CloseWrite() })
		go h.Write(make([]byte, 2*busyBytes))
		if _, err := io.ReadFull(c, make([]byte, 2*busyBytes)); err != nil {
			t.Fatal(err)
		}
		grown := func() bool {
			return options.GetReceiveBufferSize() == maxBuffer && options.GetSendBufferSize() == maxSend
		}
		if room {
			waitFor(t, grown) // it grows after what it was that moved
		} else if options.GetReceiveBufferSize() != minBuffer || options.GetSendBufferSize() != minBuffer {
			t.Errorf("no room: receive buffer %d, send buffer %d", options.GetReceiveBufferSize(), options.GetSendBufferSize())
		}
		transfer(t, 1, h, c, func() { h.CloseWrite() })
		waitFor(t, func() bool { return w.gw.Flows() == 0 })
		if n := shared.grown.Load(); room && n != 0 {
			t.Errorf("%d bytes taken when no flow is left", n)
		}
	}
}
