package rootlesstests

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// kitCase is a command line of rootlesskit.
type kitCase struct {
	version version // whose Debian it is of
	flags   []string
	differ  map[string]difference
}

// rootlesskit with the network programs of both makers: addresses, the way out, a port published by its own client.
func TestRootlesskit(t *testing.T) {
	w := newWorld(t)
	slirp := []string{"--net=slirp4netns", "--disable-host-loopback", "--mtu=65520", "--slirp4netns-sandbox=auto", "--slirp4netns-seccomp=auto"}
	pasta := []string{"--net=pasta", "--disable-host-loopback", "--mtu=65520"}
	toldWhy := map[string]difference{"tcp to host's loopback": {"network is unreachable", "there is no route to that address; the original refuses every connection that the host cannot make"}}
	for name, k := range map[string]kitCase{
		"1 slirp4netns":            {version: podman4, flags: append(slirp, "--port-driver=slirp4netns")},
		"1 slirp4netns, builtin":   {version: podman4, flags: append(slirp, "--port-driver=builtin")},
		"2 slirp4netns":            {version: podman5, flags: append(slirp, "--port-driver=slirp4netns")},
		"2 slirp4netns, own netns": {version: podman5, flags: append(slirp, "--port-driver=slirp4netns", "--detach-netns")},
		"2 pasta":                  {version: podman5, flags: append(pasta, "--port-driver=none"), differ: toldWhy},
		"2 pasta, implicit":        {version: podman5, flags: append(pasta, "--port-driver=implicit"), differ: toldWhy},
		"2 pasta, own netns":       {version: podman5, flags: append(pasta, "--port-driver=none", "--detach-netns"), differ: toldWhy},
	} {
		t.Run(name, func(t *testing.T) {
			originals, own := askBoth(t, func(t *testing.T, m maker) answers { return w.askRootlesskit(t, &k, m) })
			wantSame(t, originals, own, k.differ)
		})
	}
}

// askRootlesskit runs rootlesskit, asks, and ends it.
func (w *world) askRootlesskit(t *testing.T, c *kitCase, m maker) answers {
	t.Helper()
	k := w.startKit(t, c, m)
	n := w.rig.Inside(t, k.inside(t))
	a := answers{}
	if slices.Contains(c.flags, "--net=pasta") {
		waitLinkLocal(t, n) // pasta may come to tap0, which rootlesskit made, later than the command
	}
	a.askLinks(t, n, false)
	for _, network := range []string{"tcp", "udp"} {
		a[network+" to internet"] = askWhoami(t, n, network, at(rig.X1v4, w.whoami["IPv4"]))
	}
	a["name"] = askName(t, n, rig.DNS4, unique())
	a["ping of gateway"] = askPing(t, n, rig.Gateway4)
	a["tcp to host's loopback"] = askWhoami(t, n, "tcp", at(rig.Gateway4, w.loopback["IPv4"]))
	switch {
	case slices.Contains(c.flags, "--port-driver=implicit"):
		k.follow(t, n, a)
	case !slices.Contains(c.flags, "--port-driver=none"):
		k.publish(t, n, a)
	}
	n.Close()
	k.stop(t)
	return a
}

// publish publishes a port, and asks whom the server behind it sees.
func (k *kit) publish(t *testing.T, n *rig.Node, a answers) {
	t.Helper()
	port := nextPort()
	serveWhoami(t, n, at(families[0].any, port))
	for _, network := range []string{"tcp", "udp"} {
		k.run(t, "rootlessctl", "--socket="+k.path("state/api.sock"), "add-ports", fmt.Sprintf("0.0.0.0:%d:%d/%s", port, port, network))
		a["published "+network] = askWhoami(t, k.podman.rig.X1, network, at(rig.H4, port))
	}
}

// follow listens inside, and asks whom the server sees once its ports are open on the host by themselves.
func (k *kit) follow(t *testing.T, n *rig.Node, a answers) {
	t.Helper()
	port := nextPort()
	serveWhoami(t, n, at(families[0].any, port))
	for _, network := range []string{"tcp", "udp"} {
		rig.WaitFor(t, podmanPatience, "the port of a server inside, "+network, func() bool {
			a["followed "+network] = askWhoami(t, k.podman.rig.X1, network, at(rig.H4, port))
			return strings.HasPrefix(a["followed "+network], "seen as ")
		})
	}
}

// kit is a running rootlesskit, with files of its own.
type kit struct {
	podman *podman // for its run
	dir    string
	log    *os.File
	cancel context.CancelFunc
	done   chan struct{}
}

func (k *kit) path(name string) string { return filepath.Join(k.dir, name) }

// startKit starts rootlesskit in its Debian. Its command says its number when everything is ready.
func (w *world) startKit(t *testing.T, c *kitCase, m maker) *kit {
	t.Helper()
	dir, err := os.MkdirTemp("", "kit")
	if err != nil {
		t.Fatal(err)
	}
	k := &kit{podman: &podman{rig: w.rig, version: c.version}, dir: dir, done: make(chan struct{})}
	if err := os.Mkdir(k.path("bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	flags := slices.Clone(c.flags)
	if m == ours {
		placeFrontEnds(t, k.path("bin"))
		flags = append(flags, "--slirp4netns-binary="+k.path("bin/slirp4netns"))
	}
	if k.log, err = os.Create(k.path("log")); err != nil {
		t.Fatal(err)
	}
	command := fmt.Sprintf("echo $$ > %s; exec sleep 100000", k.path("pid"))
	if slices.Contains(flags, "--detach-netns") {
		command = fmt.Sprintf("exec nsenter --net=%s sh -c '%s'", k.path("state/netns"), command)
	}
	argv := slices.Concat([]string{"env", "PATH=" + k.path("bin") + ":/usr/local/bin:/usr/bin:/usr/sbin:/sbin", "rootlesskit", "--state-dir=" + k.path("state")}, flags, []string{"sh", "-c", command})
	ctx, cancel := context.WithCancel(context.Background())
	k.cancel = cancel
	go func() {
		defer close(k.done)
		_, _ = k.podman.run(ctx, k.log, k.log, argv) // its end is what is waited for
	}()
	t.Cleanup(func() {
		k.stop(t)
		if b, err := os.ReadFile(k.path("log")); t.Failed() && err == nil {
			t.Logf("%s\n%s", strings.Join(argv, " "), b)
		}
		k.log.Close()
		os.RemoveAll(dir)
	})
	return k
}

// inside waits for the command.
func (k *kit) inside(t *testing.T) (pid int) {
	t.Helper()
	rig.WaitFor(t, podmanPatience, "rootlesskit's command", func() bool {
		select {
		case <-k.done:
			t.Fatal("rootlesskit has ended")
		default:
		}
		b, err := os.ReadFile(k.path("pid"))
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil
	})
	return pid
}

// run runs a command beside rootlesskit.
func (k *kit) run(t *testing.T, argv ...string) {
	t.Helper()
	code, err := k.podman.run(rig.Within(t, podmanPatience), k.log, k.log, argv)
	if err != nil || code != 0 {
		t.Errorf("%s: exit code %d, %v", strings.Join(argv, " "), code, err)
	}
}

// stop ends rootlesskit, and waits.
func (k *kit) stop(t *testing.T) {
	t.Helper()
	k.cancel()
	<-k.done
}
