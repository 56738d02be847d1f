package rootlesstests

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// networked is a podman and a network that is made by a program of ours.
type networked struct {
	version version
	network string
}

var allNetworked = []networked{{podman4, "slirp4netns"}, {podman5, "slirp4netns"}, {podman5, "pasta"}}

// eachNetworked runs a test with each, with our programs and with the original ones.
func eachNetworked(t *testing.T, test func(t *testing.T, w *world, p *podman, network string)) {
	w := newWorld(t, podman4, podman5)
	for _, n := range allNetworked {
		t.Run(fmt.Sprint(n.version, " ", n.network), func(t *testing.T) {
			for _, m := range makers {
				t.Run(string(m), func(t *testing.T) {
					t.Parallel() // with the other maker's: they have a podman each
					p := w.podmans[n.version][m]
					test(t, w, p, n.network)
					p.clear(t)
				})
			}
		})
	}
}

// wantServed checks that a port of the host leads to a container, where a server is made for it. What podman has started
// has its ports, so it is asked once.
func (w *world) wantServed(t *testing.T, c *podContainer, port, inside uint16) {
	t.Helper()
	where := at(families[0].any, inside)
	serveWhoami(t, c.Node, where)
	for _, network := range []string{"tcp", "udp"} {
		if got := askWhoami(t, w.rig.X1, network, at(rig.H4, port)); !strings.HasPrefix(got, "seen as ") {
			t.Errorf("%s port %d: %s", network, port, got)
		}
	}
}

// both are flags that publish a port of both transports.
func both(port, inside uint16) []string {
	return []string{"--publish", fmt.Sprintf("%d:%d/tcp", port, inside), "--publish", fmt.Sprintf("%d:%d/udp", port, inside)}
}

// A container that is stopped leaves no process and no port; started again it has both; so it is after restart and
// after kill.
func TestPodmanRestart(t *testing.T) {
	eachNetworked(t, func(t *testing.T, w *world, p *podman, network string) {
		port := nextPort()
		c := p.start(t, "c", append(both(port, 80), "--network", network)...)
		gone := func(what string, do ...string) {
			t.Helper()
			running := c.helpers(t)
			for _, pid := range c.helpers(t) {
				running = append(running, below(pid)...)
			}
			c.Close()
			// The original ends when the kernel tells it that its namespace is gone, and podman does not wait for that: the
			// next one may find the port in use, and podman says so. Ours waits.
			if p.maker == original {
				rig.WaitFor(t, podmanPatience, what, func() bool { _, _, code := p.try(t, do...); return code == 0 })
			} else {
				p.must(t, do...)
			}
			rig.WaitFor(t, rig.Patience, "end of the network programs after "+what, func() bool { return !slices.ContainsFunc(running, alive) })
		}
		w.wantServed(t, c, port, 80)
		gone("stop", "stop", "--time", "5", "c")
		rig.WaitFor(t, rig.Patience, "end of the published port", func() bool { return len(listenersOn(t, port)) == 0 })
		p.must(t, "start", "c")
		c = p.enter(t, "c").reconnected(t)
		w.wantServed(t, c, port, 80)
		gone("restart", "restart", "--time", "5", "c")
		c = p.enter(t, "c").reconnected(t)
		w.wantServed(t, c, port, 80)
		gone("kill", "kill", "c")
	})
}

// Two containers at once have the same address, and a port each.
func TestPodmanTwo(t *testing.T) {
	eachNetworked(t, func(t *testing.T, w *world, p *podman, network string) {
		ports := []uint16{nextPort(), nextPort()}
		for i, port := range ports {
			c := p.start(t, fmt.Sprint("c", i), append(both(port, 80), "--network", network)...)
			w.wantServed(t, c, port, 80)
		}
		p.must(t, "kill", "c0")
		if got := askWhoami(t, w.rig.X1, "tcp", at(rig.H4, ports[1])); !strings.HasPrefix(got, "seen as ") {
			t.Errorf("the second container after the end of the first: %s", got)
		}
	})
}

// The containers of a pod share its network and its ports.
func TestPodmanPod(t *testing.T) {
	eachNetworked(t, func(t *testing.T, w *world, p *podman, network string) {
		port := nextPort()
		p.must(t, slices.Concat([]string{"pod", "create", "--name", "pod", "--network", network,
			"--infra-image", "bb", "--infra-command", "/bin/busybox sleep 100000"}, both(port, 80))...)
		first, second := p.start(t, "first", "--pod", "pod"), p.start(t, "second", "--pod", "pod")
		w.wantServed(t, first, port, 80)
		if got := askWhoami(t, second.Node, "tcp", at(families[0].loopback, 80)); got != "seen as 127.0.0.1" {
			t.Errorf("one container of the pod asks the other: %s", got)
		}
		first.Close()
		second.Close()
		p.must(t, "pod", "stop", "--time", "0", "pod")
		rig.WaitFor(t, rig.Patience, "end of the published port", func() bool { return len(listenersOn(t, port)) == 0 })
		p.must(t, "pod", "start", "pod")
		w.wantServed(t, p.enter(t, "second"), port, 80)
	})
}
