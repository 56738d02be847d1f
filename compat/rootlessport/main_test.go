package rootlessport

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/usernet/usernet/internal/proctest"
	tapnetns "github.com/usernet/usernet/tap/netns"
)

const containerID = "0123abc"

func published() config {
	return config{
		Mappings: []mapping{
			{HostPort: 8080, ContainerPort: 80, Range: 3, Protocol: "tcp,udp"},
			{HostIP: host4, HostPort: 9090, ContainerPort: 90, Range: 1, Protocol: "tcp"},
		},
		ChildIP: container4, ContainerID: containerID, RootlessCNI: true,
	}
}

// TestSource: the container sees the clients' own addresses and ports, in both families, of both protocols, through
// ranges; and those it could not tell from its own as the original shows all.
func TestSource(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	w := newWorld(t)
	for _, p := range []uint16{80, 81, 82, 90} {
		w.serve(p)
	}
	p := w.start(published())
	at := func(addr string, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
	}
	for _, row := range []struct{ from, to, seen string }{
		{client4, host4, client4}, {client6, host6, client6}, {host4, host4, host4}, {client4, "127.0.0.1", client4},
		{"", "127.0.0.1", container4}, {"", "::1", container6}, {bridge4, host4, container4}, {bridge6, host6, container6},
	} {
		for _, network := range []string{"tcp", "udp"} {
			for _, port := range []uint16{8080, 8082} {
				seen, local := ask(t, network, row.from, at(row.to, port), "hello")
				if seen.Addr().String() != row.seen || seen.Addr().String() == row.from && seen.String() != local {
					t.Errorf("%s from %s to %s port %d: seen as %s, want %s", network, local, row.to, port, seen, row.seen)
				}
			}
		}
	}
	if seen, local := ask(t, "tcp", client4, at(host4, 9090), "hello"); seen.String() != local {
		t.Errorf("%s is seen as %s", local, seen)
	}
	if c, err := net.Dial("tcp", at(client4, 9090).String()); err == nil {
		c.Close()
		t.Error("a port of one address answers at another")
	}
	for _, n := range []int{0, 1, 9000, 65507} {
		ask(t, "udp", client4, at(host4, 8081), strings.Repeat("x", n))
	}
	ask(t, "tcp", client4, at(host4, 8080), strings.Repeat("x", 4<<20))
	// Who comes by the bridge is not touched, before or after.
	for range 2 {
		if seen, _ := ask(t, "tcp", "", at(container4, 80), "hello"); seen.Addr().String() != bridge4 {
			t.Errorf("a neighbour is seen as %s", seen)
		}
	}
	p.end(t, w)
}

// end closes the exit descriptor and checks that nothing is left.
func (p *program) end(t *testing.T, w *world) {
	t.Helper()
	if rules, _ := w.rules(); rules == 0 {
		t.Error("there are no rules")
	}
	must(t, p.exit.Close())
	if err := p.cmd.Wait(); err != nil || p.out.String() != "" {
		t.Errorf("ended with %v: %s", err, p.out.String())
	}
	if rules, routes := w.rules(); rules+routes != 0 {
		t.Errorf("%d rules and %d routes are left", rules, routes)
	}
	if _, err := os.Lstat(filepath.Join(w.dir, "rp", containerID)); !os.IsNotExist(err) {
		t.Errorf("the reload socket is left: %v", err)
	}
}

// TestReload: the ports lead to the container's new address, and clients keep theirs; what is no address changes nothing.
func TestReload(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	w := newWorld(t)
	w.serve(80)
	p := w.start(published())
	to := netip.AddrPortFrom(netip.MustParseAddr(host4), 8080)
	same := func(when string) {
		t.Helper()
		for _, network := range []string{"tcp", "udp"} {
			if seen, local := ask(t, network, client4, to, "hello"); seen.String() != local {
				t.Errorf("%s: %s client %s is seen as %s", when, network, local, seen)
			}
		}
	}
	same("at first")
	for _, bad := range []string{`"nowhere"`, `7`, `"`, `{}`} {
		if answer := w.reload(containerID, bad); !strings.Contains(answer, "invalid ChildIP") && !strings.Contains(answer, "rootless port failed to decode ports") {
			t.Errorf("%s: %q", bad, answer)
		}
	}
	same("after bad requests")
	must(t, tapnetns.Do(w.container, func() error {
		l, err := netlink.LinkByName("eth0")
		must(t, err)
		old, err := netlink.ParseAddr(container4 + "/24")
		must(t, err)
		must(t, netlink.AddrDel(l, old))
		must(t, configure("eth0", "10.89.0.3/24"))
		return netlink.RouteReplace(&netlink.Route{Gw: net.ParseIP(bridge4)})
	}))
	if answer := w.reload(containerID, `"10.89.0.3"`); answer != "OK" {
		t.Errorf("reload: %q", answer)
	}
	same("with another address")
	p.end(t, w)
}

// TestRefused: what cannot be done is said as the original says it, with its exit code, and nothing is left.
func TestRefused(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	w := newWorld(t)
	l, err := net.Listen("tcp4", net.JoinHostPort(host4, port(8081)))
	must(t, err)
	defer l.Close()
	sctp := published()
	sctp.Mappings[0].Protocol = "sctp"
	elsewhere := published()
	elsewhere.Mappings[1].HostIP = "192.0.2.1"
	for want, c := range map[string]config{
		fmt.Sprintf("listen tcp 0.0.0.0:%d: bind: address already in use", 8081): published(),
		`unknown proto: "sctp"`: sctp,
		"listen tcp 192.0.2.1:9090: bind: cannot assign requested address": elsewhereOnly(elsewhere),
	} {
		p, ready := w.launch(c)
		err := p.cmd.Wait()
		if p.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(p.out.String(), want) {
			t.Errorf("ended with %v: %s\nwant %s", err, p.out.String(), want)
		}
		b := make([]byte, 1)
		if n, _ := ready.Read(b); n != 0 {
			t.Error("was ready nevertheless")
		}
		if rules, routes := w.rules(); rules+routes != 0 {
			t.Errorf("%d rules and %d routes are left", rules, routes)
		}
	}
}

func elsewhereOnly(c config) config {
	c.Mappings = c.Mappings[1:]
	return c
}

func TestArguments(t *testing.T) {
	out, err := os.CreateTemp(t.TempDir(), "out")
	must(t, err)
	defer out.Close()
	if code := Main([]string{"rootlessport", "x"}, nil, [3]*os.File{out, out, out}); code != 1 {
		t.Errorf("exit code %d", code)
	}
	b, err := os.ReadFile(out.Name())
	must(t, err)
	if want := "too many arguments, rootlessport expects a json config via STDIN\n"; string(b) != want {
		t.Errorf("said %q", b)
	}
}
