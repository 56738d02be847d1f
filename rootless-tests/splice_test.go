package rootlesstests

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// spliced waits until a client on the host's loopback is connected from inside the sandbox, which shows by the
// sandbox's own address. Sockets for it are made when the command runs already.
func spliced(t *testing.T, r *rig.Rig, f family, port uint16) {
	t.Helper()
	rig.WaitFor(t, rig.Patience, "a connection from inside", func() bool {
		b := answerOf(t, r, at(f.loopback, port))
		if b == nil {
			return false // while another datapath takes over
		}
		seen, err := netip.ParseAddrPort(string(b))
		if err != nil {
			t.Fatalf("the service says %q", b)
		}
		if a := seen.Addr(); a != f.own && a != f.gateway {
			t.Fatalf("a client on the host's loopback is seen as %v", a)
		}
		return seen.Addr() == f.own
	})
}

// answerOf is what the service says; nil when the connection failed.
func answerOf(t *testing.T, r *rig.Rig, to netip.AddrPort) []byte {
	t.Helper()
	c, err := r.H.Dial(rig.Within(t, rig.Patience), "tcp", to)
	if err != nil {
		return nil
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(rig.Patience)); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		return nil
	}
	return b
}

// A TCP client on the host's loopback is connected from inside the sandbox, past the network, before and after the datapath is
// killed: 10 MiB arrive whole, each side may end first, and a reset arrives as one. Remote clients are not.
func TestSplice(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	bothFamilies(t, func(t *testing.T, f family) {
		who, whoSpec := publish(80, "tcp")
		port, spec := publish(81, "tcp")
		gone, goneSpec := publish(82, "tcp")
		sb := r.Run(t, "--publish", whoSpec, "--publish", spec, "--publish", goneSpec)
		accept(t, sb.ListenTCP(t, at(f.any, 80)), func(c *net.TCPConn) { _, _ = fmt.Fprint(c, addrOf(t, c.RemoteAddr())) })
		accept(t, sb.ListenTCP(t, at(f.own, 81)), func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
		accept(t, sb.ListenTCP(t, at(f.any, 82)), func(c *net.TCPConn) {
			_, _ = io.ReadFull(c, make([]byte, 1))
			_ = c.SetLinger(0)
		})
		datapath := sb.Datapath(t)
		for round := range 2 {
			spliced(t, r, f, who)
			echoMuch(t, r.H.DialTCP(t, at(f.loopback, port)))
			c := r.H.DialTCP(t, at(f.loopback, gone))
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("after a reset by the service the client got %q, %v", b, err)
			}
			if b, err := io.ReadAll(r.X1.DialTCP(t, at(f.host, who))); err != nil {
				t.Error(err)
			} else if seen, err := netip.ParseAddrPort(string(b)); err != nil || seen.Addr() != f.x1 {
				t.Errorf("a remote client is seen as %q, want %v", b, f.x1)
			}
			if round == 0 {
				if err := syscall.Kill(datapath, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				newDatapath(t, sb.Process, datapath, rig.Patience)
			}
		}
	})
}

// echoMuch sends 10 MiB through an echo, with the client's half-close before the last of it has come back.
func echoMuch(t *testing.T, c *net.TCPConn) {
	t.Helper()
	sent := make([]byte, 10<<20)
	_, _ = rand.Read(sent)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.Write(sent); err != nil {
			t.Errorf("send: %v", err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Errorf("half-close: %v", err)
		}
	})
	got, err := io.ReadAll(c)
	wg.Wait()
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came back, or others; %v", len(got), len(sent), err)
	}
}
