package portfwd

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// partsUrgent are sent one by one; those that end with ! are urgent, by their last byte.
var partsUrgent = []string{"before", "!", "after", "more!", "end!"}

// sendUrgent sends partsUrgent and then the end of the stream.
func sendUrgent(t *testing.T, c *net.TCPConn) {
	t.Helper()
	rc, err := c.SyscallConn()
	if err != nil {
		t.Error(err)
		return
	}
	for _, part := range partsUrgent {
		flags := 0
		if part[len(part)-1] == '!' {
			flags = unix.MSG_OOB
		}
		if err := control(rc, func(fd int) error { return unix.Send(fd, []byte(part), flags) }); err != nil {
			t.Error(err)
			return
		}
		// It is at the relay alone. Without it the kernel may join it to the next, whose urgency replaces its own.
		if _, err := io.ReadFull(c, make([]byte, len(part))); err != nil {
			t.Errorf("%q did not come back: %v", part, err)
			return
		}
	}
	if err := c.CloseWrite(); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(c); err != nil || len(rest) != 0 {
		t.Errorf("after the end: %q, %v", rest, err)
	}
}

// TestSpliceUrgent: urgent bytes are bytes of a spliced stream, in their place, and what comes behind them is not held up by them;
// whichever side sends them and whoever has connected.
func TestSpliceUrgent(t *testing.T) {
	t.Run("client", func(t *testing.T) {
		r := newRig(t, &memDialer{}, nil, Limits{})
		sendUrgent(t, dialTCP(t, r.publishAt(t, "127.0.0.1", tcpService(t, "127.0.0.1", echo), lo(inside(t)))))
		eventually(t, "the connection is over", func() bool { return r.Conns() == 0 })
	})
	service := func(c *net.TCPConn) { sendUrgent(t, c) }
	for name, publish := range map[string]func(r *rig, port uint16) netip.AddrPort{
		"service": func(r *rig, port uint16) netip.AddrPort { return r.publishAt(t, "127.0.0.1", port, lo(inside(t))) },
		"host":    func(r *rig, port uint16) netip.AddrPort { return r.reverse(t, TCP, loopback4, port) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, &memDialer{}, nil, Limits{})
			c := dialTCP(t, publish(r, tcpService(t, "127.0.0.1", service)))
			io.Copy(c, c)
			c.CloseWrite()
			eventually(t, "the connection is over", func() bool { return r.Conns() == 0 })
		})
	}
}

// TestLookForReset: a look that meets a reset says so, since it is told once.
func TestLookForReset(t *testing.T) {
	c := dialTCP(t, netip.AddrPortFrom(loopback4, tcpService(t, "127.0.0.1", func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 1))
		c.SetLinger(0)
	})))
	io.WriteString(c, "x")
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the connection is over", func() bool {
		var over bool
		err := control(rc, func(fd int) (err error) {
			over, err = isOver(fd)
			return err
		})
		return over && err == nil
	})
	p := pump{more: gathering{from: rc}, look: true}
	if err := rc.Read(p.fill); err != nil || p.err != unix.ECONNRESET {
		t.Errorf("got %v, %v; want a reset", err, p.err)
	}
}
