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

// lowAt is how many bytes the socket of g tells of.
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

// count tells g of n bytes.
func (g *gathering) count(t *testing.T, n int) {
	t.Helper()
	if err := control(g.from, func(fd int) error { g.add(uintptr(fd), n); return nil }); err != nil {
		t.Fatal(err)
	}
}

// TestGathering: a stream gathers once it has moved much, goes on doing so while its source tells in time, and not after
// a wait that was too long.
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
	g.told()
	g.count(t, gatherAfter-1)
	if n := g.lowAt(t); n > 1 { // 0 where nobody has set it
		t.Errorf("a stream that has moved little: the source tells of %d bytes", n)
	}
	g.count(t, 1)
	if n := g.lowAt(t); n != gatherBytes {
		t.Errorf("a stream that has moved much: the source tells of %d bytes, want %d", n, gatherBytes)
	}
	for range 3 { // told without a wait, and in time
		g.told()
		g.mu.Lock()
		g.state = gatherWaiting
		g.mu.Unlock()
		g.timer = time.AfterFunc(time.Hour, g.expire)
		g.told()
		g.count(t, gatherAfter)
		if n := g.lowAt(t); !g.on || n != gatherBytes {
			t.Errorf("told in time: on is %v, the source tells of %d bytes", g.on, n)
		}
	}
	g.wait()
	eventually(t, "the source tells of any byte", func() bool { return g.lowAt(t) == 1 })
	g.told()
	g.expire() // comes late
	if g.count(t, gatherAfter-1); g.on || g.lowAt(t) != 1 {
		t.Errorf("after a long wait: on is %v, the source tells of %d bytes", g.on, g.lowAt(t))
	}
	if g.count(t, 1); g.lowAt(t) != gatherBytes {
		t.Errorf("a stream again: the source tells of %d bytes", g.lowAt(t))
	}
}

// TestSpliceRest: what a stream leaves that is little arrives without anything after it, and so does what is said then.
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
}
