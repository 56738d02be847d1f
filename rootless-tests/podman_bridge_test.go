package rootlesstests

import (
	"testing"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// A container on a bridge network of podman's: its way out is slirp4netns or pasta, its published ports are
// rootlessport's, which is told when its address changes.
func TestPodmanBridge(t *testing.T) {
	w := newWorld(t, podman4, podman5)
	for _, v := range []version{podman4, podman5} {
		t.Run(v.String(), func(t *testing.T) {
			originals, own := askBoth(t, func(t *testing.T, m maker) answers { return w.askBridge(t, w.podmans[v][m]) })
			client := "seen as " + rig.X1v4.String()
			const kept = "the client's own address, which the original replaces by the container's"
			wantSame(t, originals, own, map[string]difference{
				"published tcp": {client, kept}, "published udp": {client, kept},
				"published tcp after connect": {client, kept}, "published udp after connect": {client, kept},
			})
		})
	}
}

// askBridge answers who reaches whom, before and after the container joins a second network.
func (w *world) askBridge(t *testing.T, p *podman) answers {
	t.Helper()
	for _, name := range []string{"one", "two"} {
		p.must(t, "network", "create", name)
	}
	port := nextPort()
	c := p.start(t, "web", append(both(port, 80), "--network", "one", "--cap-add", "NET_RAW")...)
	peer := p.start(t, "peer", "--network", "one")
	serveWhoami(t, c.Node, at(families[0].any, 80))
	a := answers{}
	askAll := func(when string) {
		for _, network := range []string{"tcp", "udp"} {
			a["published "+network+when] = askWhoami(t, w.rig.X1, network, at(rig.H4, port))
			a[network+" to internet"+when] = askWhoami(t, c.Node, network, at(rig.X1v4, w.whoami["IPv4"]))
		}
	}
	askAll("")
	p.must(t, "exec", "web", "/bin/busybox", "ping", "-c", "1", "peer")
	p.must(t, "network", "connect", "two", "web")
	p.must(t, "network", "disconnect", "one", "web")
	askAll(" after connect")
	c.Close()
	peer.Close()
	p.clear(t)
	return a
}
