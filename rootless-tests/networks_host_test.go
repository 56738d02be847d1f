package rootlesstests

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// Networks and the host they run on: its firewall, its ports, its services.

// FT-23: the host's firewall is flushed. No rule of it kept the networks apart, and none brought traffic to them. Not
// parallel, since it is everybody's firewall.
func TestFT23(t *testing.T) {
	r := rig.Start(t)
	d := r.Daemon(t)
	d.Must(t, "usernet", "network", "create", "a")
	d.Must(t, "usernet", "network", "create", "b")
	port, spec := publish(7, "tcp")
	a, b := d.Run(t, "--name", "a", "--network", "a"), d.Run(t, "--name", "b", "--network", "b", "-p", spec)
	accept(t, b.ListenTCP(t, at(netip.IPv4Unspecified(), 7)), func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	d.Run(t, "--name", "a2", "--network", "a")
	outside, there := serveEcho(t, r.X1, rig.X1v4), at(addrIn(t, d, "b", "b"), 7)
	same := func() {
		t.Helper()
		unreachable(t, a.Node, there)
		if !ping(t, a.Node, "a2") {
			t.Error("a does not reach a2")
		}
		wantEchoed(t, a.DialTCP(t, outside), "out")
		wantEchoed(t, r.X1.DialTCP(t, at(rig.H4, port)), "in")
	}
	same()
	for _, table := range []string{"filter", "nat", "mangle", "raw"} {
		for _, iptables := range []string{"iptables", "ip6tables"} {
			if rules := r.H.Run(t, iptables, "-t", table, "-S"); strings.Contains(rules, "-A ") {
				t.Errorf("rules of %s, table %s:\n%s", iptables, table, rules)
			}
			r.H.Run(t, iptables, "-t", table, "-F")
			r.H.Run(t, iptables, "-t", table, "-X")
		}
	}
	same()
}

// FT-24: ports of the host's choice, for both families at once, while others take and give back such ports: none
// collides.
func TestFT24(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	d.Must(t, "usernet", "network", "create", "n")
	stop := make(chan struct{})
	var takers, runs sync.WaitGroup
	for range 2 {
		takers.Go(func() {
			var held []net.Listener
			for {
				select {
				case <-stop:
					for _, l := range held {
						l.Close()
					}
					return
				default:
				}
				// Both: the port that is free in one family may be taken in the other.
				for _, network := range []string{"tcp4", "tcp6"} {
					if l, err := net.Listen(network, ":0"); err == nil { // may be out of ports
						held = append(held, l)
					}
				}
				if len(held) >= 1000 {
					for _, l := range held {
						l.Close()
					}
					held = held[:0]
				}
			}
		})
	}
	const sandboxes, ports = 4, 50
	results := make([]string, sandboxes)
	for i := range sandboxes {
		argv := []string{"usernet", "run", "--name", fmt.Sprintf("s%d", i), "--network", "n"}
		for p := range ports {
			argv = append(argv, "-p", fmt.Sprintf(":%d", 1000+p))
		}
		runs.Go(func() {
			out, err := d.Command(t.Context(), append(argv, "--", "echo", "ran")...).CombinedOutput()
			results[i] = strings.TrimSpace(string(out))
			if err != nil {
				results[i] += " " + err.Error()
			}
		})
	}
	runs.Wait()
	close(stop)
	takers.Wait()
	for i, got := range results {
		if got != "ran" {
			t.Errorf("sandbox %d with %d ports: %s", i, ports, got)
		}
	}
}

// A service at an address of the host that is not loopback is reached from the default bridge and from a network, by
// address and by name: what host-gateway stands for is the daemon's to say.
func TestHostGateway(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t, "--host-gateway-ip", rig.H4.String())
	service := serveEcho(t, r.H, rig.H4)
	d.Must(t, "usernet", "network", "create", "n")
	for _, n := range []string{"bridge", "n"} {
		sb := d.Run(t, "--network", n, "--add-host", "host:host-gateway")
		wantEchoed(t, sb.DialTCP(t, service), "from "+n)
		if out := sb.Node.Run(t, "getent", "hosts", "host"); !strings.HasPrefix(out, rig.H4.String()+" ") {
			t.Errorf("network %s: host is %q", n, out)
		}
		if n == "bridge" { // has no names
			continue
		}
		if out := strings.TrimSpace(sb.Node.Run(t, "dig", "+short", "+time=3", "host.docker.internal")); out != rig.H4.String() {
			t.Errorf("network %s: host.docker.internal is %q", n, out)
		}
	}
}

// The host's loopback is out of reach of a network's containers by host-gateway, too, unless the network allows it.
func TestHostGatewayLoopback(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	service := serveEcho(t, r.H, netip.MustParseAddr("127.0.0.1"))
	d.Must(t, "usernet", "network", "create", "closed")
	d.Must(t, "usernet", "network", "create", "-o", "usernet.host_loopback=true", "open")
	for _, n := range []string{"closed", "open"} {
		sb := d.Run(t, "--network", n)
		a, err := netip.ParseAddr(strings.TrimSpace(sb.Node.Run(t, "dig", "+short", "+time=3", "host.docker.internal")))
		if err != nil {
			t.Fatalf("network %s: host.docker.internal: %v", n, err)
		}
		if n == "closed" {
			unreachable(t, sb.Node, at(a, service.Port()))
			continue
		}
		wantEchoed(t, sb.DialTCP(t, at(a, service.Port())), "by "+a.String())
	}
}
