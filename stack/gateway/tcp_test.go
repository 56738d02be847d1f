package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
)

const (
	outside4 = "198.51.100.10:80"
	outside6 = "[2001:db8::10]:80"
)

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// pair connects the container to the outside and returns both ends.
func pair(t testing.TB, w *world, o *outside, to string) (*gonet.TCPConn, *net.TCPConn) {
	t.Helper()
	c, err := w.dial(testContext(t), to)
	if err != nil {
		t.Fatalf("dial %s: %v", to, err)
	}
	t.Cleanup(func() { c.Close() })
	h := o.accept(t)
	deadline := time.Now().Add(20 * time.Second)
	c.SetDeadline(deadline)
	h.SetDeadline(deadline)
	return c, h
}

// TestIntegrity moves 10 MiB and 1 B each way over both families and compares sums (TCP-09).
func TestIntegrity(t *testing.T) {
	for _, to := range []string{outside4, outside6} {
		for _, size := range []int{1, 10 << 20} {
			o := newOutside(t)
			w := newWorld(t, withDial(o.dial))
			c, h := pair(t, w, o, to)
			transfer(t, size, c, h, func() { c.CloseWrite() })
			transfer(t, size, h, c, func() { h.CloseWrite() })
		}
	}
}

func transfer(t *testing.T, size int, from io.Writer, to io.Reader, closeWrite func()) {
	t.Helper()
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(data)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := from.Write(data); err != nil {
			t.Errorf("write: %v", err)
		}
		closeWrite()
	})
	h := sha256.New()
	n, err := io.Copy(h, to)
	wg.Wait()
	if err != nil || n != int64(size) {
		t.Fatalf("received %d of %d bytes: %v", n, size, err)
	}
	if want := sha256.Sum256(data); !bytes.Equal(h.Sum(nil), want[:]) {
		t.Fatal("bytes differ")
	}
}

// TestHalfClose: the container ends its direction and still receives (NAT-24).
func TestHalfClose(t *testing.T) {
	o := newOutside(t)
	w := newWorld(t, withDial(o.dial))
	c, h := pair(t, w, o, outside4)
	if _, err := c.Write([]byte("request")); err != nil {
		t.Fatal(err)
	}
	c.CloseWrite()
	if b, err := io.ReadAll(h); string(b) != "request" || err != nil {
		t.Fatalf("host read %q, %v", b, err)
	}
	transfer(t, 1<<20, h, c, func() { h.CloseWrite() })
}

// TestDialFirst: no SYN-ACK before the outside has answered, and each way to fail is told in the
// terms a kernel understands: RST, or an ICMP error that quotes the SYN (NAT-26).
func TestDialFirst(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want ip.ErrorKind // 0: RST
	}{
		{syscall.ECONNREFUSED, 0},
		{syscall.EMFILE, 0},
		{syscall.EHOSTUNREACH, ip.HostUnreachable},
		{syscall.ENETUNREACH, ip.NetUnreachable},
		{syscall.EACCES, ip.AdminProhibited},
	} {
		for _, to := range []string{outside4, outside6} {
			asked, answer := make(chan struct{}, 8), make(chan struct{})
			w := newWorld(t, withDial(func(context.Context, string, netip.Addr, netip.AddrPort) (*net.TCPConn, error) {
				asked <- struct{}{}
				<-answer
				return nil, &net.OpError{Op: "dial", Err: tc.err}
			}))
			told := w.watchErrors()
			ctx, cancel := context.WithCancel(testContext(t))
			got := make(chan error, 1)
			go func() {
				_, err := w.dial(ctx, to)
				got <- err
			}()
			<-asked
			select {
			case err := <-got:
				t.Fatalf("answered before the dial did: %v", err)
			default:
			}
			close(answer)
			if tc.want == 0 {
				if err := <-got; err == nil || !strings.Contains(err.Error(), "refused") {
					t.Errorf("%v to %s: container got %v, want refused", tc.err, to, err)
				}
			} else if q := <-told; q.Kind != tc.want || q.Dst.String() != to || q.Src.Addr() != container4 && q.Src.Addr() != container6 {
				t.Errorf("%v to %s: container was told %+v, want %v", tc.err, to, q, tc.want)
			}
			cancel()
		}
	}
}

// TestSlowRefusal: a dial that fails after others have begun is told as any other.
func TestSlowRefusal(t *testing.T) {
	asked, answer := make(chan struct{}, 8), make(chan struct{})
	var dials atomic.Int32
	w := newWorld(t, withDial(func(context.Context, string, netip.Addr, netip.AddrPort) (*net.TCPConn, error) {
		if dials.Add(1) > 1 {
			return nil, syscall.EACCES // the container has sent its SYN again, since it was not told
		}
		asked <- struct{}{}
		<-answer
		return nil, syscall.EHOSTUNREACH
	}))
	told := w.watchErrors()
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	dialled := make(chan struct{})
	go func() {
		defer close(dialled)
		_, _ = w.dial(ctx, outside4)
	}()
	<-asked
	other := netip.AddrPortFrom(container4, 1)
	for i := range 600 { // more than the ring holds
		w.gw.syns.put(other, netip.AddrPortFrom(container4, uint16(i)), make([]byte, 28))
	}
	close(answer)
	select {
	case q := <-told:
		if q.Kind != ip.HostUnreachable || q.Dst.String() != outside4 {
			t.Errorf("container was told %+v, want that the host is unreachable", q)
		}
	case <-time.After(30 * time.Second):
		t.Error("container was told nothing")
	}
	cancel()
	<-dialled
}

// watchErrors reports the ICMP errors sent to the container.
func (w *world) watchErrors() <-chan ip.Quoted {
	ch := make(chan ip.Quoted, 16)
	w.toContainer.tap = func(f *l2.Frame) bool {
		var p ip.Packet
		var q ip.Quoted
		if f.Header.Type() != l2.TypeARP && ip.Parse(&p, f) == drop.None && p.Proto != ip.TCP && ip.ParseQuoted(&q, &p) == drop.None {
			select {
			case ch <- q:
			default:
			}
		}
		return true
	}
	return ch
}

// TestReset: RST is passed on as RST in both directions, never as a clean end (NAT-25).
func TestReset(t *testing.T) {
	t.Run("host", func(t *testing.T) {
		o := newOutside(t)
		w := newWorld(t, withDial(o.dial))
		c, h := pair(t, w, o, outside4)
		reset(h)
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Fatalf("container read: %v, want a reset", err)
		}
	})
	t.Run("container", func(t *testing.T) {
		o := newOutside(t)
		w := newWorld(t, withDial(o.dial))
		c, h := pair(t, w, o, outside4)
		w.abortContainer(c)
		if _, err := h.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("host read: %v, want ECONNRESET", err)
		}
	})
	t.Run("container after its FIN", func(t *testing.T) {
		o := newOutside(t)
		w := newWorld(t, withDial(o.dial))
		c, h := pair(t, w, o, outside4)
		c.CloseWrite()
		if _, err := h.Read(make([]byte, 1)); err != io.EOF {
			t.Fatal(err)
		}
		w.abortContainer(c)
		for {
			if _, err := h.Write(make([]byte, 1<<16)); err != nil {
				return // the reset arrived
			}
		}
	})
}

// abortContainer makes the container's stack send RST for its connections.
func (w *world) abortContainer(*gonet.TCPConn) {
	for _, ep := range w.c.RegisteredEndpoints() {
		ep.Abort()
	}
}

// TestPolicy: what the policy denies is refused and never dialled (HC-15, HC-17).
func TestPolicy(t *testing.T) {
	w := newWorld(t, withDial(func(_ context.Context, _ string, _ netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
		t.Errorf("dialled %s", to)
		return nil, syscall.ECONNREFUSED
	}))
	for _, to := range []string{"10.0.2.2:80", "10.0.2.3:80", "169.254.169.254:80", "[fd00::2]:80", "[fd00:ec2::254]:80"} {
		if _, err := w.dial(testContext(t), to); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("dial %s: %v, want refused", to, err)
		}
	}
	if n := w.drops.Get(drop.PolicyDenied); n < 5 {
		t.Errorf("policy-denied counted %d, want 5", n)
	}
}

// listen80 is a server of the container.
func (w *world) listen80(t *testing.T, at netip.Addr) *gonet.TCPListener {
	t.Helper()
	l, err := gonet.ListenTCP(w.c, tcpip.FullAddress{NIC: 1, Addr: toTCPIP(at), Port: 80}, netProto(at))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// client is a connection to the outside's listener, as a published port has it: the client's end and the accepted one.
func (o *outside) client(t *testing.T) (client, accepted *net.TCPConn) {
	t.Helper()
	client, err := net.DialTCP("tcp4", nil, o.l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client, o.accept(t)
}

// TestForward: a published port's client is seen with its own address (LU-12), and a container
// that refuses resets the client.
func TestForward(t *testing.T) {
	w, o := newWorld(t), newOutside(t)
	l := w.listen80(t, container4)
	client, accepted := o.client(t)
	from := netip.MustParseAddrPort("203.0.113.7:4242")
	done := make(chan error, 1)
	go func() {
		done <- w.gw.Forward(context.Background(), accepted, from, netip.AddrPortFrom(container4, 80))
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got := c.RemoteAddr().String(); got != from.String() {
		t.Errorf("container sees client %s, want %s", got, from)
	}
	transfer(t, 1<<20, client, c, func() { client.CloseWrite() })
	transfer(t, 1<<20, c, client, func() { c.(*gonet.TCPConn).CloseWrite() })
	c.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}

	client2, accepted2 := o.client(t)
	if err := w.gw.Forward(context.Background(), accepted2, from, netip.AddrPortFrom(container4, 81)); err == nil {
		t.Error("forward to a closed port: no error")
	}
	if _, err := client2.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client of a closed port read %v, want ECONNRESET", err)
	}
}

// TestForwardEnds: a port that is unpublished resets its connections, also one that neither side would end.
func TestForwardEnds(t *testing.T) {
	w, o := newWorld(t), newOutside(t)
	l := w.listen80(t, container4)
	client, accepted := o.client(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- w.gw.Forward(ctx, accepted, netip.MustParseAddrPort("203.0.113.7:4242"), netip.AddrPortFrom(container4, 80))
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The container accepts before the gateway has heard of it. What arrives has been relayed.
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("client read %v, want ECONNRESET", err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("container read %v, want a reset", err)
	}
}

// TestSquatting: SYNs whose SYN-ACK is never answered keep no other connection out (HC-24).
func TestSquatting(t *testing.T) {
	o := newOutside(t)
	w := newWorld(t, withDial(o.dial))
	// The wire swallows every SYN-ACK for these, so their handshakes never end.
	w.toContainer.tap = func(f *l2.Frame) bool {
		b := f.L3[0]
		return f.Header.Type() != l2.TypeIPv4 || b[9] != 6 || uint16(b[22])<<8|uint16(b[23]) < 60000
	}
	for i := range 300 {
		w.raw(synPacket(container4, netip.MustParseAddrPort(outside4), uint16(60000+i)))
	}
	for range 200 { // 256 slots, 200 for real connections of their own
		o.accept(t).Close()
	}
	waitFor(t, func() bool { return w.gw.handshakes.inFlight() >= 200 })
	c, _ := pair(t, w, o, "[2001:db8::10]:80")
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
}

// TestClose: Close ends established flows with RST and returns.
func TestClose(t *testing.T) {
	o := newOutside(t)
	w := newWorld(t, withDial(o.dial))
	_, h := pair(t, w, o, outside4)
	if err := w.gw.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("host read %v, want ECONNRESET", err)
	}
	if n := w.gw.Flows(); n != 0 {
		t.Errorf("%d flows after Close", n)
	}
}

// waitPatience is how long a busy machine may need under the race detector.
const waitPatience = time.Minute

// waitFor polls a condition that has no event to wait for.
func waitFor(t testing.TB, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(waitPatience)
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("condition not reached in %v", waitPatience)
		}
	}
}

// synPacket is an IPv4 SYN with right checksums.
func synPacket(src netip.Addr, dst netip.AddrPort, sport uint16) []byte {
	b := make([]byte, 40)
	h := header.IPv4(b)
	h.Encode(&header.IPv4Fields{TotalLength: 40, TTL: 64, Protocol: 6, SrcAddr: toTCPIP(src), DstAddr: toTCPIP(dst.Addr())})
	h.SetChecksum(^h.CalculateChecksum())
	s := header.TCP(b[20:])
	s.Encode(&header.TCPFields{SrcPort: sport, DstPort: dst.Port(), SeqNum: 1000, DataOffset: 20, Flags: header.TCPFlagSyn, WindowSize: 65535})
	s.SetChecksum(^s.CalculateChecksum(header.PseudoHeaderChecksum(6, toTCPIP(src), toTCPIP(dst.Addr()), 20)))
	return b
}

// TestForwardUnknown: a published port reaches a container that has not said a word.
func TestForwardUnknown(t *testing.T) {
	for from, to := range map[string]netip.Addr{"203.0.113.7:4242": container4, "[2001:db8::7]:4242": container6} {
		w, o := newWorld(t), newOutside(t)
		w.gw.RemoveNeighbour(to)
		l := w.listen80(t, to)
		client, accepted := o.client(t)
		done := make(chan error, 1)
		go func() {
			done <- w.gw.Forward(context.Background(), accepted, netip.MustParseAddrPort(from), netip.AddrPortFrom(to, 80))
		}()
		came := make(chan net.Conn, 1)
		go func() {
			if c, err := l.Accept(); err == nil {
				came <- c
			}
		}()
		select {
		case err := <-done:
			t.Errorf("connection of %s to %s: %v", from, to, err)
		case c := <-came:
			if got := c.RemoteAddr().String(); got != from {
				t.Errorf("container sees client %s, want %s", got, from)
			}
			client.Close()
			c.Close()
			<-done
		}
	}
}
