package rootlesstests

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/rootless-tests/rig"
)

// addrs of a sandbox in a Network, as inspect tells.
func addrIn(t *testing.T, d *rig.Daemon, sandbox, network string) netip.Addr {
	t.Helper()
	s := d.Must(t, "usernet", "inspect", "-f", fmt.Sprintf("{{(index .NetworkSettings.Networks %q).IPAddress}}", network), sandbox)
	a, err := netip.ParseAddr(s)
	if err != nil {
		t.Fatalf("address of %s in %s: %v", sandbox, network, err)
	}
	return a
}

// unreachable tries a TCP connection from a node for a second.
func unreachable(t *testing.T, from *rig.Node, to netip.AddrPort) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if c, err := from.Dial(ctx, "tcp", to); err == nil {
		c.Close()
		t.Errorf("%s reaches %v", from.Name, to)
	}
}

// ping sends one echo request, and reports whether it was answered.
func ping(t *testing.T, from *rig.Node, to string) bool {
	t.Helper()
	_, code, err := from.Exec(rig.Within(t, rig.Patience), "", "ping", "-n", "-c", "1", "-W", "1", to)
	return err == nil && code == 0
}

// HC-12: from one network to another nothing leads but a published port.
func TestHC12(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	d.Must(t, "usernet", "network", "create", "a")
	d.Must(t, "usernet", "network", "create", "b")
	port, spec := publish(7, "tcp")
	a1, b1 := d.Run(t, "--name", "a1", "--network", "a"), d.Run(t, "--name", "b1", "--network", "b", "-p", spec)
	b1addr := addrIn(t, d, "b1", "b")
	l := b1.ListenTCP(t, at(netip.IPv4Unspecified(), 7))
	accept(t, l, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })

	// By address, which the gateway gets.
	unreachable(t, a1.Node, at(b1addr, 7))
	if ping(t, a1.Node, b1addr.String()) {
		t.Error("ping to the other network is answered")
	}
	// By MAC: a frame for b1 itself, and one for its gateway, on a's link.
	a1addr := addrIn(t, d, "a1", "a")
	seen := b1.Capture(t, "eth0", func(p packettest.Decoded) bool { return p.Src.Addr() == a1addr })
	raw := a1.OpenPacket(t, "eth0")
	echo := packettest.Echo(a1addr, b1addr, 1, 1, []byte("by MAC"))
	raw.SendPacket(t, b1.OpenPacket(t, "eth0").MAC, echo)
	// By the published port, which comes last: what was sent before would have been there by now.
	c := a1.DialTCP(t, at(rig.H4, port))
	defer c.Close()
	wantEchoed(t, c, "by the published port")
	if got := seen.Seen(); len(got) != 0 {
		t.Errorf("frames of a1 at b1: %v", got)
	}
}

// HC-13, LK6: with icc off containers do not see each other, but published ports and links work.
func TestHC13(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	d.Must(t, "usernet", "network", "create", "-o", "com.docker.network.bridge.enable_icc=false", "apart")
	port, spec := publish(7, "tcp")
	b := d.Run(t, "--name", "b", "--network", "apart", "-p", spec, "--expose", "7")
	a := d.Run(t, "--name", "a", "--network", "apart")
	accept(t, b.ListenTCP(t, at(netip.IPv4Unspecified(), 7)), func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	accept(t, b.ListenTCP(t, at(netip.IPv4Unspecified(), 8)), func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	baddr := addrIn(t, d, "b", "apart")
	for _, p := range []uint16{7, 8} {
		unreachable(t, a.Node, at(baddr, p))
	}
	if ping(t, a.Node, baddr.String()) {
		t.Error("ping is answered although icc is off")
	}
	c := a.DialTCP(t, at(rig.H4, port))
	wantEchoed(t, c, "by the published port")
	c.Close()
}

// HC-14: from an internal network nothing leaves, and names of the outside are not asked for; those inside are answered.
func TestHC14(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	d.Must(t, "usernet", "network", "create", "--internal", "in")
	a, b := d.Run(t, "--name", "a", "--network", "in"), d.Run(t, "--name", "b", "--network", "in")
	_ = b
	server := serveEcho(t, r.X1, rig.X1v4)
	unreachable(t, a.Node, server)
	if ping(t, a.Node, rig.X1v4.String()) {
		t.Error("ping leaves an internal network")
	}
	if !ping(t, a.Node, "b") {
		t.Error("b does not answer inside of the network")
	}
	out, code, err := a.Node.Exec(rig.Within(t, rig.Patience), "", "dig", "+time=2", "+tries=1", unique())
	if err != nil || !strings.Contains(out, "SERVFAIL") {
		t.Errorf("dig of a name outside: code %d, %v\n%s", code, err, out)
	}
	if out := a.Node.Run(t, "ip", "route", "show", "default"); strings.TrimSpace(out) != "" {
		t.Errorf("a default route: %s", out)
	}
}

// M6, M7: a sandbox in two networks is no way from one to the other, although it reaches both.
func TestTwoLegs(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	d.Must(t, "usernet", "network", "create", "a")
	d.Must(t, "usernet", "network", "create", "b")
	a := d.Run(t, "--name", "a", "--network", "a")
	both := d.Run(t, "--name", "both", "--network", "a", "--network", "b")
	b := d.Run(t, "--name", "b", "--network", "b")
	for _, to := range []string{"a", "b"} {
		if !ping(t, both.Node, to) {
			t.Errorf("both does not reach %s", to)
		}
	}
	if !ping(t, a.Node, "both") || !ping(t, b.Node, "both") {
		t.Error("both is not reached")
	}
	// The one who is in both as a router: his neighbour has a route through him.
	baddr := addrIn(t, d, "b", "b")
	a.Node.Run(t, "ip", "route", "add", baddr.String()+"/32", "via", addrIn(t, d, "both", "a").String())
	if ping(t, a.Node, baddr.String()) {
		t.Error("a reaches b through a sandbox in both networks")
	}
}

// SD1, SD3, DN-15, DN-16: names are those of the networks one is in.
func TestNetworkNames(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	d.Must(t, "usernet", "network", "create", "a")
	d.Must(t, "usernet", "network", "create", "b")
	a1 := d.Run(t, "--name", "a1", "--network", "a", "--hostname", "host-a1")
	d.Run(t, "--name", "a2", "--network", "name=a,alias=web")
	d.Run(t, "--name", "a3", "--network", "name=a,alias=web")
	b1 := d.Run(t, "--name", "b1", "--network", "b")
	a2, a3 := addrIn(t, d, "a2", "a").String(), addrIn(t, d, "a3", "a").String()
	dig := func(n *rig.Node, args ...string) string {
		out, _, err := n.Exec(rig.Within(t, rig.Patience), "", append([]string{"dig", "+time=3", "+tries=1"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, name := range []string{"a2", "A2", "a2.a", "a2.", "host-a1", "a2.A."} {
		if got := strings.TrimSpace(dig(a1.Node, "+short", name)); got == "" || name[0] != 'h' && got != a2 {
			t.Errorf("%s is %q, want %s", name, got, a2)
		}
	}
	if got := dig(a1.Node, "+short", "web"); !strings.Contains(got, a2) || !strings.Contains(got, a3) {
		t.Errorf("the alias of two: %q", got)
	}
	if got := dig(a1.Node, "a2", "AAAA"); !strings.Contains(got, "NOERROR") || !strings.Contains(got, "ANSWER: 0") {
		t.Errorf("AAAA of a container without IPv6:\n%s", got)
	}
	if got := strings.TrimSpace(dig(a1.Node, "+short", "-x", a2)); got != "a2.a." {
		t.Errorf("reverse of %s is %q", a2, got)
	}
	for _, q := range [][]string{{"b1"}, {"B1."}, {"b1.b"}, {"-x", addrIn(t, d, "b1", "b").String()}} {
		if got := dig(a1.Node, append([]string{"+short"}, q...)...); strings.TrimSpace(got) != "" {
			t.Errorf("a1 learns %v of the other network: %q", q, got)
		}
	}
	// Within a second of connect, and again of disconnect.
	d.Must(t, "usernet", "network", "connect", "--alias", "guest", "a", "b1")
	rig.WaitFor(t, time.Second, "the alias of b1", func() bool { return strings.TrimSpace(dig(a1.Node, "+short", "guest")) != "" })
	if got := strings.TrimSpace(dig(b1.Node, "+short", "a2")); got != a2 {
		t.Errorf("b1 on a sees a2 as %q", got)
	}
	d.Must(t, "usernet", "network", "disconnect", "a", "b1")
	rig.WaitFor(t, time.Second, "the end of b1's alias", func() bool { return strings.TrimSpace(dig(a1.Node, "+short", "guest")) == "" })
}

// SD2: a DNS server that runs in a sandbox has port 53, although the resolver answers at 127.0.0.11.
func TestOwnPort53(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	d.Must(t, "usernet", "network", "create", "n")
	a := d.Run(t, "--name", "server", "--network", "n")
	for _, l := range []netip.Addr{netip.IPv4Unspecified()} {
		a.ListenUDP(t, at(l, 53))
		a.ListenTCP(t, at(l, 53))
	}
	for _, how := range []string{"+notcp", "+tcp"} {
		out, _, err := a.Node.Exec(rig.Within(t, rig.Patience), "", "dig", how, "+short", "+time=3", "@127.0.0.11", "server")
		if err != nil || strings.TrimSpace(out) != addrIn(t, d, "server", "n").String() {
			t.Errorf("dig %s: %q, %v", how, out, err)
		}
	}
	// Port 53 of the container's other loopback addresses is its own.
	unreachableUDP := a.DialUDP(t, netip.MustParseAddrPort("127.0.0.1:53"))
	if _, err := unreachableUDP.Write([]byte("x")); err != nil {
		t.Error(err)
	}
}
