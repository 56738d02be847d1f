package portfwd

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lowAt is from how many bytes on the source of g is readable.
func (g *gathering) lowAt(t *testing.T) (n int) {
	t.Helper()
	if err := control(g.from, func(fd int) (err error) {
		n, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// soon is the age of a count that no stall of this machine makes too old.
const soon = -time.Hour

// count tells g of n bytes, which come so long after it began to count.
func (g *gathering) count(t *testing.T, n int, after time.Duration) {
	t.Helper()
	g.began = time.Now().Add(-after)
	if err := control(g.from, func(fd int) error { g.add(uintptr(fd), n); return nil }); err != nil {
		t.Fatal(err)
	}
}

// TestGathering: a stream gathers once it has moved much in a short time, goes on doing so while its source is readable in time, and not
// after a wait that was too long.
func TestGathering(t *testing.T) {
	received := make(chan *net.TCPConn, 1)
	port := tcpService(t, "127.0.0.1", func(c *net.TCPConn) {
		received <- c
		_, _ = io.Copy(io.Discard, c) // until the client goes
	})
	dialTCP(t, netip.AddrPortFrom(loopback4, port))
	rc, err := (<-received).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	g := &gathering{from: rc}
	g.wait()
	g.readable()
	g.count(t, gatherAfter-1, soon)
	if n := g.lowAt(t); n > 1 { // 0 where nobody has set it
		t.Errorf("a stream that has moved little: its source is readable from %d bytes on", n)
	}
	g.count(t, 1, 2*gatherWithin)
	if n := g.lowAt(t); n > 1 {
		t.Errorf("much has moved, little at a time: the source is readable from %d bytes on", n)
	}
	g.count(t, gatherAfter-1, soon)
	g.count(t, 1, soon)
	if n := g.lowAt(t); n != gatherBytes {
		t.Errorf("a stream that has moved much: its source is readable from %d bytes on, want %d", n, gatherBytes)
	}
	for range 3 { // without a wait, and in time
		g.readable()
		g.mu.Lock()
		g.state = gatherWaiting
		g.mu.Unlock()
		g.timer = time.AfterFunc(time.Hour, g.expire)
		g.readable()
		g.count(t, gatherAfter, soon)
		if n := g.lowAt(t); !g.on || n != gatherBytes {
			t.Errorf("readable in time: on is %v, the source is readable from %d bytes on", g.on, n)
		}
	}
	g.wait()
	eventually(t, "the source to be readable from any byte on", func() bool { return g.lowAt(t) == 1 })
	g.readable()
	g.expire() // comes late
	if g.count(t, gatherAfter-1, soon); g.on || g.lowAt(t) != 1 {
		t.Errorf("after a long wait: on is %v, the source is readable from %d bytes on", g.on, g.lowAt(t))
	}
	if g.count(t, 1, soon); g.lowAt(t) != gatherBytes {
		t.Errorf("a stream again: its source is readable from %d bytes on", g.lowAt(t))
	}
}

// TestGatheringClosed: a wait that ends after its socket was closed leaves alone what has the socket's number now.
func TestGatheringClosed(t *testing.T) {
	port := tcpService(t, "127.0.0.1", echo)
	to := netip.AddrPortFrom(loopback4, port)
	c := dialTCP(t, to)
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	g := &gathering{from: rc, on: true, state: gatherWaiting}
	var fd int
	if err := control(rc, func(n int) error { fd = n; return readableFrom(n, gatherBytes) }); err != nil {
		t.Fatal(err)
	}
	c.Close()
	next, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(next)
	if next != fd { // another goroutine took the number
		t.Logf("the number %d of the closed socket is not free", fd)
	}
	if err := readableFrom(next, gatherBytes); err != nil {
		t.Fatal(err)
	}
	g.expire()
	if n, err := unix.GetsockoptInt(next, unix.SOL_SOCKET, unix.SO_RCVLOWAT); err != nil || n != gatherBytes {
		t.Errorf("the next socket of the number is readable from %d bytes on, %v", n, err)
	}
}

// TestSpliceRest: what a stream leaves that is little arrives without anything after it, and so do what is said then and the end.
func TestSpliceRest(t *testing.T) {
	r := newRig(t, &memDialer{}, nil, Limits{})
	c := dialTCP(t, r.publishAt(t, "127.0.0.1", tcpService(t, "127.0.0.1", echo), lo(inside(t))))
	for range 2 { // the second time after a pause
		sent := bytes.Repeat([]byte("a stream, "), (2*gatherAfter+gatherBytes/2)/10)
		got := make([]byte, len(sent))
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Write(sent); err != nil {
				t.Errorf("Write: %v", err)
			}
		})
		_, err := io.ReadFull(c, got)
		wg.Wait()
		if err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("the stream did not come back: %v", err)
		}
		for _, say := range []string{"a", "little"} {
			if _, err := io.WriteString(c, say); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, got[:len(say)]); err != nil || string(got[:len(say)]) != say {
				t.Fatalf("said %q, heard %q, %v", say, got[:len(say)], err)
			}
		}
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %d bytes, %v", len(rest), err)
	}
}

// TestGatheringEnds: the end of a stream that comes while its pump waits for more passes without the timer, and with it what is left; so does
// a reset.
func TestGatheringEnds(t *testing.T) {
	for name, end := range map[string]func(c *net.TCPConn) error{
		"end":   (*net.TCPConn).CloseWrite,
		"reset": func(c *net.TCPConn) error { _ = c.SetLinger(0); return c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			received := make(chan *net.TCPConn, 1)
			gone := make(chan struct{})
			port := tcpService(t, "127.0.0.1", func(c *net.TCPConn) { received <- c; <-gone })
			defer close(gone)
			c := dialTCP(t, netip.AddrPortFrom(loopback4, port))
			from := <-received
			rc, err := from.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			if err := control(rc, func(fd int) error { return readableFrom(fd, gatherBytes) }); err != nil {
				t.Fatal(err)
			}
			var p pump // whose timer never comes: it counts, and so does not gather
			defer p.release()
			got := make(chan error, 1)
			go func() { got <- rc.Read(p.fill) }()
			if _, err := io.WriteString(c, "rest"); err != nil {
				t.Fatal(err)
			}
			if err := end(c); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-got:
				if err != nil || name == "end" && (p.n != len("rest") || p.err != nil) {
					t.Errorf("%d bytes, %v, %v", p.n, p.err, err)
				}
			case <-time.After(10 * time.Second):
				from.Close()
				<-got
				t.Error("still waiting")
			}
		})
	}
}
