package rootlesstests

import (
	"crypto/sha256"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/rootless-tests/rig"
)

// family is the world in IPv4 or IPv6.
type family struct {
	name                                      string
	x1, x2, host, host2, nowhere, router, any netip.Addr
	own, gateway, dns, loopback               netip.Addr // of the sandbox; loopback is of any
	echoReply, unreachable                    uint8      // ICMP types
	portUnreachable, prohibited               uint8      // codes of unreachable
	timeExceeded                              uint8
	icmp                                      uint8 // the protocol
}

var families = []family{
	{
		"IPv4", rig.X1v4, rig.X2v4, rig.H4, rig.H24, rig.Nowhere4, rig.R4, netip.IPv4Unspecified(),
		rig.SandboxAddr4, rig.Gateway4, rig.DNS4, netip.MustParseAddr("127.0.0.1"),
		0, 3, 3, 13, 11, packettest.ProtoICMP,
	},
	{
		"IPv6", rig.X1v6, rig.X2v6, rig.H6, rig.H26, rig.Nowhere6, rig.R6, netip.IPv6Unspecified(),
		rig.SandboxAddr6, rig.Gateway6, rig.DNS6, netip.IPv6Loopback(),
		129, 1, 4, 1, 3, packettest.ProtoICMPv6,
	},
}

// bothFamilies runs a test in each.
func bothFamilies(t *testing.T, test func(t *testing.T, f family)) {
	t.Helper()
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) { test(t, f) })
	}
}

// lastPort is the last port that nextPort gave. They lie below those that the kernel gives out.
var lastPort atomic.Uint32

// nextPort returns a port of H, X1 or X2 that no other test uses.
func nextPort() uint16 { return uint16(20000 + lastPort.Add(1)) }

// publish returns a free host port and the value of --publish that leads it to a port of the sandbox.
func publish(port uint16, proto string) (uint16, string) {
	p := nextPort()
	return p, strconv.Itoa(int(p)) + ":" + strconv.Itoa(int(port)) + "/" + proto
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// addrOf is the local address of a listener or socket.
func addrOf(t testing.TB, a net.Addr) netip.AddrPort {
	t.Helper()
	switch a := a.(type) {
	case *net.TCPAddr:
		return netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
	case *net.UDPAddr:
		return netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
	}
	t.Fatalf("%T has no port", a)
	return netip.AddrPort{}
}

// wantErrno checks an error.
func wantErrno(t testing.TB, what string, err error, want syscall.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// busy stretches what a requirement says.
const busy = rig.Busy

// wantPrompt does something that takes at most limit, not counting what it takes to set it up: do says how long it
// took. A busy machine may delay one of several attempts; a timer that the product waits for delays all.
func wantPrompt(t testing.TB, what string, limit time.Duration, do func() time.Duration) {
	t.Helper()
	const attempts = 5
	best := time.Duration(math.MaxInt64)
	for range attempts {
		if best = min(best, do()); best <= limit {
			return
		}
	}
	t.Errorf("%s: %v at best, want at most %v", what, best, limit)
}

// stream is n bytes that anybody can make again: no period that a lost or repeated block would hide in.
type stream struct {
	r    *rand.ChaCha8
	left int64
}

func newStream(n int64) *stream { return &stream{rand.NewChaCha8([32]byte{1}), n} }

func (s *stream) Read(b []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n, _ := s.r.Read(b[:min(int64(len(b)), s.left)]) // never fails
	s.left -= int64(n)
	return n, nil
}

// sum is the checksum of all that r has, and its length.
func sum(r io.Reader) (s [sha256.Size]byte, n int64, err error) {
	h := sha256.New()
	n, err = io.Copy(h, r)
	return [sha256.Size]byte(h.Sum(nil)), n, err
}

// payload is n bytes of a stream.
func payload(n int) []byte {
	b := make([]byte, n)
	_, _ = io.ReadFull(newStream(int64(n)), b) // it has as many
	return b
}

// wantAlive fails the test when the sandbox's datapath is not the process it was, or does not work.
func wantAlive(t testing.TB, r *rig.Rig, sb *rig.Sandbox, datapath int) {
	t.Helper()
	if now := sb.Datapath(t); now != datapath {
		t.Fatalf("datapath was process %d and is now %d: it died", datapath, now)
	}
	for _, f := range families {
		echo := serveUDP(t, r.X1, f.x1)
		c := sb.DialUDP(t, echo)
		if got := exchange(t, c, []byte("alive?")); string(got) != "alive?" {
			t.Fatalf("%s: echo: %q", f.name, got)
		}
	}
}

// exchange sends a datagram, again when nothing comes back, and returns what does.
func exchange(t testing.TB, c *net.UDPConn, b []byte) []byte {
	t.Helper()
	buf := make([]byte, 1<<16)
	for range 10 {
		if _, err := c.Write(b); err != nil {
			t.Fatalf("send datagram of %d bytes: %v", len(b), err)
		}
		if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := c.Read(buf)
		if err == nil {
			return buf[:n]
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("receive: %v", err)
		}
	}
	t.Fatalf("no answer to a datagram of %d bytes", len(b))
	return nil
}
