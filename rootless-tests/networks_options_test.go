package rootlesstests

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// What the options of networks and of their legs do in a sandbox.

// ping6 sends one ICMPv6 echo request, and reports whether it was answered.
func ping6(t *testing.T, from *rig.Node, to string) bool {
	t.Helper()
	_, code, err := from.Exec(rig.Within(t, rig.Patience), "", "ping", "-6", "-n", "-c", "1", "-W", "2", to)
	return err == nil && code == 0
}

// digShort returns the records of an answer to a question, one a line.
func digShort(t *testing.T, n *rig.Node, args ...string) string {
	t.Helper()
	return strings.TrimSpace(n.Run(t, append([]string{"dig", "+short", "+time=3", "+tries=2"}, args...)...))
}

// C-cr9: both families in one network: names, the outside, and a published port in each. M3, C-co4.
func TestIPv6Network(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	d.Must(t, "usernet", "network", "create", "--ipv6", "--subnet", "fd77:1::/64", "n")
	port, spec := publish(80, "tcp")
	a, b := d.Run(t, "--name", "a", "--network", "n"), d.Run(t, "--name", "b", "--network", "name=n,ip6=fd77:1::b", "-p", spec)
	accept(t, b.ListenTCP(t, at(netip.IPv6Unspecified(), 80)), func(c *net.TCPConn) { _, _ = fmt.Fprint(c, addrOf(t, c.RemoteAddr()).Addr()) })
	if !ping6(t, a.Node, "b") || !ping6(t, b.Node, "a.n") {
		t.Error("no echo by name over IPv6")
	}
	if got := digShort(t, a.Node, "b", "AAAA"); got != "fd77:1::b" {
		t.Errorf("AAAA of b: %q", got)
	}
	if got := digShort(t, a.Node, "-x", "fd77:1::b"); got != "b.n." {
		t.Errorf("reverse of b: %q", got)
	}
	wantEchoed(t, a.DialTCP(t, serveEcho(t, r.X1, rig.X1v6)), "out")
	if got, err := io.ReadAll(r.X1.DialTCP(t, at(rig.H6, port))); err != nil || string(got) != rig.X1v6.String() {
		t.Errorf("the published port sees the client %q, %v", got, err)
	}
	if out := a.Node.Run(t, "ip", "-6", "route", "show", "default"); !strings.HasPrefix(out, "default via fd77:1::1 ") {
		t.Errorf("default route: %s", out)
	}
}

// A network without IPv4 has its resolver at the gateway, since 127.0.0.11 needs IPv4.
func TestIPv6OnlyNetwork(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	server := serveDNS(t, r.X1, at(rig.X1v6, 53), nil)
	d := r.Daemon(t, "--dns", server.at.Addr().String())
	d.Must(t, "usernet", "network", "create", "--ipv4=false", "--ipv6", "n")
	port, spec := publish(80, "tcp")
	a, b := d.Run(t, "--name", "a", "--network", "n"), d.Run(t, "--name", "b", "--network", "n", "-p", spec)
	accept(t, b.ListenTCP(t, at(netip.IPv6Unspecified(), 80)), func(c *net.TCPConn) { _, _ = io.WriteString(c, "b") })
	gw := gatewayOf(t, a.Node, "-6")
	if conf := a.Node.Run(t, "cat", "/etc/resolv.conf"); !strings.Contains(conf, "nameserver "+gw.String()+"\n") || strings.Contains(conf, "127.0.0.11") {
		t.Errorf("resolv.conf, with gateway %v:\n%s", gw, conf)
	}
	if !ping6(t, a.Node, "b") {
		t.Error("no echo by name")
	}
	if got := digShort(t, a.Node, "b", "A"); got != "" {
		t.Errorf("A of b: %q", got)
	}
	if got := digShort(t, a.Node, unique(), "AAAA"); got != rig.X1v6.String() {
		t.Errorf("a name outside: %q", got)
	}
	if out := a.Node.Run(t, "ip", "-4", "-o", "addr", "show", "dev", "eth0"); out != "" {
		t.Errorf("an IPv4 address: %s", out)
	}
	wantEchoed(t, a.DialTCP(t, serveEcho(t, r.X1, rig.X1v6)), "out")
	if got, err := io.ReadAll(r.X1.DialTCP(t, at(rig.H6, port))); err != nil || string(got) != "b" {
		t.Errorf("the published port: %q, %v", got, err)
	}
	// A leg with IPv4 comes: names of both networks are known by whatever resolver there is.
	d.Must(t, "usernet", "network", "create", "four")
	d.Run(t, "--name", "c", "--network", "four")
	d.Must(t, "usernet", "network", "connect", "four", "a")
	if !ping(t, a.Node, "c") || !ping6(t, a.Node, "b") {
		t.Error("a on both does not reach c and b by name")
	}
	d.Must(t, "usernet", "network", "disconnect", "four", "a")
	if !ping6(t, a.Node, "b") {
		t.Error("a does not reach b by name after it left the network with IPv4")
	}
}

// C-cr2, C-cr4, C-cr6, C-run1: ranges, gateways and addresses kept free; what a leg asks for is what the kernel has.
func TestLegOptions(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	d.Must(t, "usernet", "network", "create", "--subnet", "172.28.0.0/16", "--ip-range", "172.28.5.0/29", "--gateway", "172.28.5.1",
		"--aux-address", "one=172.28.5.0", "--aux-address", "two=172.28.5.2",
		"--subnet", "fd28::/64", "--ip-range", "fd28::5:0/124", "--ipv6", "n")
	// 5.0 and 5.2 are kept free, 5.1 is the gateway: five are left of eight.
	var got []string
	for i := range 5 {
		name := fmt.Sprintf("c%d", i)
		sb := d.Run(t, "--name", name, "--network", "n")
		got = append(got, addrIn(t, d, name, "n").String())
		if a := addr6In(t, d, name, "n"); !netip.MustParsePrefix("fd28::5:0/124").Contains(a) {
			t.Errorf("%v is not in the range", a)
		}
		if gw := gatewayOf(t, sb.Node, "-4"); gw.String() != "172.28.5.1" {
			t.Errorf("the gateway is %v", gw)
		}
	}
	if want := []string{"172.28.5.3", "172.28.5.4", "172.28.5.5", "172.28.5.6", "172.28.5.7"}; !slices.Equal(got, want) {
		t.Errorf("addresses are %v, want %v", got, want)
	}
	if res := d.Try(t, "usernet", "run", "--network", "n", "--", "true"); res.Code != 125 || !strings.Contains(res.Stderr, "no available addresses") {
		t.Errorf("one more: code %d, %s", res.Code, res.Stderr)
	}
	sb := d.Run(t, "--name", "own", "--network",
		"name=n,ip=172.28.77.7,mac-address=02:aa:bb:cc:dd:ee,link-local-ip=169.254.7.7,driver-opt=com.docker.network.endpoint.ifname=lan7")
	out := sb.Node.Run(t, "ip", "-o", "addr", "show", "dev", "lan7") + sb.Node.Run(t, "ip", "-o", "link", "show", "dev", "lan7")
	for _, want := range []string{"172.28.77.7/16", "169.254.7.7/16", "02:aa:bb:cc:dd:ee", "fd28::"} {
		if !strings.Contains(out, want) {
			t.Errorf("lan7 has no %s:\n%s", want, out)
		}
	}
	if !ping(t, sb.Node, "c0") {
		t.Error("own does not reach c0")
	}
	if got := d.Must(t, "usernet", "inspect", "-f", "{{.NetworkSettings.Networks.n.MacAddress}}", "own"); got != "02:aa:bb:cc:dd:ee" {
		t.Errorf("inspect shows the MAC address %s", got)
	}
}

// C-cr11: options of the driver bridge.
func TestBridgeOptions(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	const prefix = "com.docker.network."
	create := func(name string, flags ...string) {
		d.Must(t, slices.Concat([]string{"usernet", "network", "create"}, flags, []string{name})...)
	}
	create("named", "-o", prefix+"container_iface_prefix=lan", "-o", prefix+"driver.mtu=1400")
	create("from3", "-o", prefix+"host_ipv4="+rig.H24.String())
	create("alone", "--internal", "-o", prefix+"bridge.gateway_mode_ipv4=isolated")
	create("alone6", "--internal", "--ipv6", "-o", prefix+"bridge.gateway_mode_ipv4=isolated", "-o", prefix+"bridge.gateway_mode_ipv6=isolated")
	create("half", "--internal", "--ipv6", "-o", prefix+"bridge.gateway_mode_ipv4=isolated")
	create("bound", "-o", prefix+"bridge.host_binding_ipv4="+rig.H24.String())

	named := d.Run(t, "--network", "named")
	if out := named.Node.Run(t, "ip", "-o", "link", "show", "dev", "lan0"); !strings.Contains(out, " mtu 1400 ") {
		t.Errorf("lan0: %s", out)
	}

	from := serveTCP(t, r.X1, rig.X1v4, func(c *net.TCPConn) { _, _ = fmt.Fprint(c, addrOf(t, c.RemoteAddr()).Addr()) })
	if got, err := io.ReadAll(d.Run(t, "--network", "from3").DialTCP(t, from)); err != nil || string(got) != rig.H24.String() {
		t.Errorf("with host_ipv4=%v the outside sees %q, %v", rig.H24, got, err)
	}

	a1, a2 := d.Run(t, "--name", "a1", "--network", "alone"), d.Run(t, "--name", "a2", "--network", "alone")
	if !ping(t, a1.Node, "a2") || !ping(t, a2.Node, "a1") {
		t.Error("in an isolated network containers do not reach each other by name")
	}
	if out := a1.Node.Run(t, "ip", "route", "show", "default"); out != "" {
		t.Errorf("an isolated network has a default route: %s", out)
	}
	if got := d.Must(t, "usernet", "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "alone"); got != "" && ping(t, a1.Node, got) {
		t.Errorf("somebody answers at %s, where a gateway would be", got)
	}

	// The resolver answers there too: 127.0.0.11 needs an address of its own, not a gateway.
	for _, network := range []string{"alone", "alone6", "half"} {
		a, b := d.Run(t, "--network", network), d.Run(t, "--name", network+"-b", "--network", network)
		if out := b.Node.Run(t, "cat", "/etc/resolv.conf"); !strings.Contains(out, "nameserver 127.0.0.11\n") {
			t.Errorf("%s: resolv.conf is\n%s", network, out)
		}
		want := d.Must(t, "usernet", "inspect", "-f", "{{(index .NetworkSettings.Networks \""+network+"\").IPAddress}}", network+"-b")
		if out := a.Node.Run(t, "getent", "ahostsv4", network+"-b"); want == "" || !strings.HasPrefix(out, want+" ") {
			t.Errorf("%s: the name is answered by %q, want %s", network, out, want)
		}
	}

	port, spec := publish(80, "tcp")
	serveName(t, d.Run(t, "--network", "bound", "-p", spec), "bound")
	if got := listenersOn(t, port); !slices.Contains(got, "tcp "+rig.H24.String()) || slices.Contains(got, "tcp 0.0.0.0") {
		t.Errorf("the port is bound at %v", got)
	}
	if got, err := io.ReadAll(r.X1.DialTCP(t, at(rig.H24, port))); err != nil || string(got) != "bound" {
		t.Errorf("the published port: %q, %v", got, err)
	}
}
