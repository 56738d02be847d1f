package rootlesstests

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// Networks come to and go from a sandbox that runs and has connections.

// defaultVia waits until the default route leads over the gateway of a network, and returns the device.
func defaultVia(t *testing.T, d *rig.Daemon, sb *rig.Sandbox, network string) string {
	t.Helper()
	gw := d.Must(t, "usernet", "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", network)
	var f []string
	rig.WaitFor(t, 5*time.Second, "default route by network "+network, func() bool {
		f = strings.Fields(sb.Node.Run(t, "ip", "-4", "route", "show", "default"))
		return len(f) >= 5 && f[2] == gw
	})
	return f[4]
}

// serveName writes who it is to whoever connects to port 80 of a sandbox.
func serveName(t *testing.T, sb *rig.Sandbox, name string) {
	t.Helper()
	accept(t, sb.ListenTCP(t, at(netip.IPv4Unspecified(), 80)), func(c *net.TCPConn) { _, _ = io.WriteString(c, name) })
}

// reached waits until an internet host gets a name from a published port.
func reached(t *testing.T, r *rig.Rig, port uint16, name string) {
	t.Helper()
	rig.WaitFor(t, 5*time.Second, name+" at the published port", func() bool {
		c, err := r.X1.Dial(rig.Within(t, rig.Patience), "tcp", at(rig.H4, port))
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Second)) // the read says so
		b, err := io.ReadAll(c)
		return err == nil && string(b) == name
	})
}

// A flow on one leg goes on while others come and go; also one to the outside, while the gateway is the same.
func TestFlowsOutliveOtherLegs(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	for _, n := range []string{"a", "b"} {
		d.Must(t, "usernet", "network", "create", n)
	}
	c, peer := d.Run(t, "--name", "c", "--network", "a"), d.Run(t, "--name", "peer", "--network", "a")
	accept(t, peer.ListenTCP(t, at(netip.IPv4Unspecified(), 7)), func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	inside := c.DialTCP(t, at(addrIn(t, d, "peer", "a"), 7))
	outside := c.DialTCP(t, serveEcho(t, r.X1, rig.X1v4))
	for range 5 {
		d.Must(t, "usernet", "network", "connect", "b", "c")
		wantEchoed(t, inside, "connected")
		wantEchoed(t, outside, "connected")
		d.Must(t, "usernet", "network", "disconnect", "b", "c")
		wantEchoed(t, inside, "disconnected")
		wantEchoed(t, outside, "disconnected")
	}
	// The other end comes and goes, too: its other leg's flow does not notice.
	d.Must(t, "usernet", "network", "connect", "b", "c")
	d.Must(t, "usernet", "network", "connect", "b", "peer")
	second := c.DialTCP(t, at(addrIn(t, d, "peer", "b"), 7))
	wantEchoed(t, second, "on b")
	d.Must(t, "usernet", "network", "disconnect", "a", "peer")
	wantEchoed(t, second, "without a")
}

// The default route is that of the highest gw-priority, then of the first name; internal networks come last (§2.7).
// Published ports move with it and lead to the sandbox all the time.
func TestGatewayMoves(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	for _, n := range []string{"a", "m", "z"} {
		d.Must(t, "usernet", "network", "create", n)
	}
	d.Must(t, "usernet", "network", "create", "--internal", "0in")
	port, spec := publish(80, "tcp")
	c := d.Run(t, "--name", "c", "--network", "m", "-p", spec)
	serveName(t, c, "c")
	server := serveEcho(t, r.X1, rig.X1v4)
	for _, step := range []struct {
		command, gateway, dev string
	}{
		{"", "m", "eth0"},
		{"connect 0in c", "m", "eth0"},
		{"connect z c", "m", "eth0"},
		{"connect a c", "a", "eth3"},
		{"disconnect z c", "a", "eth3"},
		{"connect --gw-priority 5 z c", "z", ""},
		{"disconnect m c", "z", ""},
		{"disconnect z c", "a", "eth3"},
		{"connect --gw-priority -1 m c", "a", "eth3"},
		{"disconnect a c", "m", ""},
	} {
		if step.command != "" {
			d.Must(t, append([]string{"usernet", "network"}, strings.Fields(step.command)...)...)
		}
		dev := defaultVia(t, d, c, step.gateway)
		if step.dev != "" && dev != step.dev {
			t.Errorf("after %q: the default route is over %s, want %s", step.command, dev, step.dev)
		}
		reached(t, r, port, "c")
		wantEchoed(t, c.DialTCP(t, server), "out by "+step.gateway)
	}
	// Without a network that publishes, the port is not answered; with one, it is again.
	d.Must(t, "usernet", "network", "disconnect", "m", "c")
	unreachableOrSilent(t, r.X1, at(rig.H4, port))
	d.Must(t, "usernet", "network", "connect", "a", "c")
	reached(t, r, port, "c")
}

// unreachableOrSilent tries a TCP connection: it is not made, or ends without a word.
func unreachableOrSilent(t *testing.T, from *rig.Node, to netip.AddrPort) {
	t.Helper()
	c, err := from.Dial(rig.Within(t, time.Second), "tcp", to)
	if err != nil {
		return
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(c); len(b) > 0 { // however it ends
		t.Errorf("%v answers %q", to, b)
	}
}
