package rootlesstests

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// transfer sends n bytes from one node to a server in another, checks that they are those, and that the server
// never waits longer than stall.
func transfer(t *testing.T, from, to *rig.Node, where netip.Addr, n int64, stall time.Duration) {
	t.Helper()
	type result struct {
		sum     [32]byte
		longest time.Duration
		err     error
	}
	done := make(chan result, 1)
	server := serveTCP(t, to, where, func(c *net.TCPConn) {
		w := &watch{r: c, last: time.Now()}
		s, _, err := sum(w)
		done <- result{s, w.longest, err}
	})
	c := from.DialTCP(t, server)
	if _, err := io.Copy(c, newStream(n)); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got := <-done
	if want, _, _ := sum(newStream(n)); got.err != nil || got.sum != want {
		t.Errorf("transfer of %d bytes: %v, or other bytes", n, got.err)
	}
	if got.longest > stall {
		t.Errorf("transfer of %d bytes stood still for %v, want at most %v", n, got.longest, stall)
	}
}

// watch is a reader that measures the longest wait for more.
type watch struct {
	r       io.Reader
	last    time.Time
	longest time.Duration
}

func (w *watch) Read(b []byte) (int, error) {
	n, err := w.r.Read(b)
	now := time.Now()
	w.longest, w.last = max(w.longest, now.Sub(w.last)), now
	return n, err
}

// NAT-10: a sandbox reaches its own published port at the host's address (RFC 5382 REQ-8).
func TestNAT10(t *testing.T) {
	r := rig.Start(t)
	port, flag := publish(80, "tcp")
	sb := r.Run(t, "--publish", flag)
	bothFamilies(t, func(t *testing.T, f family) {
		accept(t, sb.ListenTCP(t, at(f.any, 80)), func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
		var c *net.TCPConn
		wantPrompt(t, "connect", 50*time.Millisecond, func() time.Duration {
			began := time.Now()
			c = sb.DialTCP(t, at(f.host, port))
			return time.Since(began)
		})
		wantEcho(t, c, 64<<10)
	})
}

// wantEcho sends n bytes, ends its side and expects the same bytes back.
func wantEcho(t *testing.T, c *net.TCPConn, n int64) {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(c, newStream(n))
		sent <- errors.Join(err, c.CloseWrite())
	}()
	got, k, err := sum(c)
	if err := errors.Join(err, <-sent); err != nil {
		t.Fatalf("echo of %d bytes: %v after %d", n, err, k)
	}
	if want, _, _ := sum(newStream(n)); got != want {
		t.Errorf("%d of %d bytes came back, or others", k, n)
	}
}

// NAT-24: a connection closed in one direction goes on in the other (RFC 5382 REQ-2).
func TestNAT24(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	bothFamilies(t, func(t *testing.T, f family) {
		const answer = 1 << 20
		server := serveTCP(t, r.X1, f.x1, func(c *net.TCPConn) {
			if b, err := io.ReadAll(c); err != nil || string(b) != "request" {
				t.Errorf("server got %q, %v", b, err)
			}
			<-time.After(500 * time.Millisecond) // long after the FIN
			if _, err := io.Copy(c, newStream(answer)); err != nil {
				t.Errorf("server: %v", err)
			}
		})
		c := sb.DialTCP(t, server)
		if _, err := c.Write([]byte("request")); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, n, err := sum(c)
		if want, _, _ := sum(newStream(answer)); err != nil || got != want {
			t.Errorf("got %d bytes, %v; want %d and the end", n, err, answer)
		}
	})
}

// NAT-25: a reset is passed on as a reset, both ways.
func TestNAT25(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	bothFamilies(t, func(t *testing.T, f family) {
		l := r.X1.ListenTCP(t, at(f.x1, 0))
		for _, who := range []string{"server", "client"} {
			wantPrompt(t, "reset by the "+who, 100*time.Millisecond, func() time.Duration {
				c := sb.DialTCP(t, addrOf(t, l.Addr()))
				s, err := l.AcceptTCP()
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { s.Close() })
				if who == "client" {
					return reset(t, c, s)
				}
				return reset(t, s, c)
			})
		}
	})
}

// reset closes one end with a reset, expects it at the other, and returns how long it took.
func reset(t *testing.T, one, other *net.TCPConn) time.Duration {
	t.Helper()
	if _, err := one.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(one.SetLinger(0), other.SetReadDeadline(time.Now().Add(rig.Patience))); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := other.Read(make([]byte, 1))
	wantErrno(t, "read after a reset", err, syscall.ECONNRESET)
	return time.Since(began)
}

// NAT-26: refused means refused: the container's SYN is answered when the host's connection has come about.
func TestNAT26(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	bothFamilies(t, func(t *testing.T, f family) {
		wantPrompt(t, "connect", 100*time.Millisecond, func() time.Duration {
			began := time.Now()
			c, err := sb.Dial(t.Context(), "tcp", at(f.x1, nextPort()))
			if err == nil {
				c.Close()
			}
			wantErrno(t, "connect", err, syscall.ECONNREFUSED)
			return time.Since(began)
		})
	})
}
