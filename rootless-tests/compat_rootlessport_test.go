package rootlesstests

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// bridged makes a podman whose containers are in bridge networks, with the published ports of usernet, or of the original.
// It changes the environment: tests with it are not parallel.
func bridged(t *testing.T, r *rig.Rig, own bool) func(t *testing.T, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	helpers := []string{"/usr/libexec/podman", "/usr/lib/podman", "/usr/bin"}
	if own {
		helpers = slices.Concat([]string{dir}, helpers)
		if err := os.Symlink(rig.Usernet, filepath.Join(dir, "rootlessport")); err != nil {
			t.Fatal(err)
		}
	}
	conf := filepath.Join(dir, "containers.conf")
	text := fmt.Sprintf("[containers]\ncgroups = \"disabled\"\n[engine]\nevents_logger = \"file\"\nhelper_binaries_dir = [\"%s\"]\n[network]\nnetwork_config_dir = %q\n",
		strings.Join(helpers, `", "`), filepath.Join(dir, "networks"))
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CONTAINERS_CONF", conf)
	return podmanWith(t, r, busyboxImage(t))
}

// serveSource has a server in a container that tells each client its address, by TCP and UDP.
func serveSource(t *testing.T, n *rig.Node, port uint16) {
	t.Helper()
	for _, f := range families {
		l := n.ListenTCP(t, at(f.any, port))
		accept(t, l, func(c *net.TCPConn) { _, _ = io.WriteString(c, c.RemoteAddr().String()) }) // the client sees what goes wrong
		listenUDP(t, n, at(f.any, port), func(d datagram) []byte { return []byte(d.from.String()) })
	}
}

// askSource asks such a server.
func askSource(t *testing.T, n *rig.Node, network string, to netip.AddrPort) (seen, local netip.AddrPort) {
	t.Helper()
	c, err := n.Dial(rig.Within(t, rig.Patience), network, to)
	if err != nil {
		t.Fatalf("dial %s %v: %v", network, to, err)
	}
	defer c.Close()
	b := make([]byte, 100)
	if err := c.SetDeadline(time.Now().Add(rig.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "who am I?"); err != nil {
		t.Fatal(err)
	}
	k, err := c.Read(b)
	if err != nil {
		t.Fatalf("%s %v: %v", network, to, err)
	}
	if seen, err = netip.ParseAddrPort(string(b[:k])); err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(seen.Addr().Unmap(), seen.Port()), addrOf(t, c.LocalAddr())
}

// Published ports of podman's bridge networks: with usernet's rootlessport the container sees who speaks to it, with
// podman's own itself. Both lead there, also from the host's loopback, after a reload, and end with the container.
func TestRootlessport(t *testing.T) {
	for _, own := range []bool{true, false} {
		t.Run(map[bool]string{true: "usernet", false: "original"}[own], func(t *testing.T) {
			r := rig.Start(t)
			podman := bridged(t, r, own)
			podman(t, "network", "create", "web")
			tcp, flag := publish(80, "tcp")
			udp, udpFlag := publish(80, "udp")
			podman(t, "run", "--detach", "--name", "c", "--network", "web", "--publish", flag, "--publish", udpFlag, "bb",
				"/bin/busybox", "sh", "-c", "trap 'exit 0' TERM; while :; do /bin/busybox sleep 1000 & wait; done")
			t.Cleanup(func() { podman(t, "rm", "--force", "--time", "0", "c") })
			pid, err := strconv.Atoi(podman(t, "inspect", "--format", "{{.State.Pid}}", "c"))
			if err != nil {
				t.Fatal(err)
			}
			inside := r.Inside(t, pid)
			defer inside.Close()
			serveSource(t, inside, 80)
			container := netip.MustParseAddr(podman(t, "inspect", "--format", "{{.NetworkSettings.Networks.web.IPAddress}}", "c"))
			check := func(when string) {
				t.Helper()
				for network, port := range map[string]uint16{"tcp": tcp, "udp": udp} {
					seen, local := askSource(t, r.X1, network, at(rig.H4, port))
					if own && seen != local || !own && seen.Addr() != container {
						t.Errorf("%s: %s client %v is seen as %v", when, network, local, seen)
					}
					if seen, _ = askSource(t, r.H, network, at(families[0].loopback, port)); seen.Addr() != container {
						t.Errorf("%s: %s from the host's loopback is seen as %v, want %v", when, network, seen, container)
					}
				}
			}
			check("at first")
			podman(t, "network", "reload", "c")
			check("after a reload")
			podman(t, "stop", "--time", "10", "c")
			rig.WaitFor(t, rig.Patience, "end of the published ports", func() bool {
				return len(listenersOn(t, tcp))+len(listenersOn(t, udp)) == 0
			})
		})
	}
}
