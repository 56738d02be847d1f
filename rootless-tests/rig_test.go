package rootlesstests

import (
	"io"
	"net/netip"
	"os"
	"testing"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/rootless-tests/rig"
)

// The rig itself: an ordinary user, and a connection between any two of its hosts.
func TestRig(t *testing.T) {
	r := rig.Start(t)
	if os.Geteuid() == 0 {
		t.Error("the tests run as root")
	}
	for _, to := range []netip.Addr{rig.H4, rig.H6, rig.X1v4, rig.X1v6, rig.X2v4, rig.X2v6} {
		at := map[netip.Addr]*rig.Node{rig.H4: r.H, rig.H6: r.H, rig.X2v4: r.X2, rig.X2v6: r.X2}[to]
		if at == nil {
			at = r.X1
		}
		l := at.ListenTCP(t, netip.AddrPortFrom(to, 0))
		seen := r.R.Capture(t, rig.DevToX1, func(d packettest.Decoded) bool { return d.Proto == packettest.ProtoTCP })
		for _, from := range []*rig.Node{r.H, r.X1, r.X2} {
			c := from.DialTCP(t, l.Addr().(interface{ AddrPort() netip.AddrPort }).AddrPort())
			s, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Write([]byte("hi")); err != nil {
				t.Error(err)
			}
			s.Close()
			if b, err := io.ReadAll(c); err != nil || string(b) != "hi" {
				t.Errorf("%s to %v: %q, %v", from.Name, to, b, err)
			}
		}
		rig.WaitFor(t, rig.Patience, "packets at R", func() bool { return len(seen.Seen()) > 5 })
	}
}

// A sandbox reaches an internet host.
func TestSandbox(t *testing.T) {
	r := rig.Start(t)
	sb := r.Run(t)
	echo := serveEcho(t, r.X1, rig.X1v4)
	c := sb.DialTCP(t, echo)
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
		t.Fatalf("echo: %q, %v", b, err)
	}
	sb.End(t)
}
