package rootlesstests

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// world is what stands outside of the containers of these tests.
type world struct {
	rig      *rig.Rig
	whoami   map[string]uint16 // ports on X1, by family
	loopback map[string]uint16 // on H's loopback
	own      map[string]uint16 // on H's first address
	podmans  map[version]map[maker]*podman
}

// newWorld makes servers on an internet host and on the host, and a name server, the host's. Tests with it change
// resolv.conf and are not parallel.
func newWorld(t *testing.T, versions ...version) *world {
	t.Helper()
	r := rig.Start(t)
	w := &world{r, map[string]uint16{}, map[string]uint16{}, map[string]uint16{}, map[version]map[maker]*podman{}}
	for _, f := range families {
		w.whoami[f.name] = serveWhoami(t, r.X1, at(f.x1, nextPort())).Port()
		w.loopback[f.name] = serveWhoami(t, r.H, at(f.loopback, nextPort())).Port()
		w.own[f.name] = serveWhoami(t, r.H, at(f.host, nextPort())).Port()
	}
	serveDNS(t, r.X1, at(rig.X1v4, 53), nil)
	writeResolvConf(t, fmt.Sprintf("nameserver %v\n", rig.X1v4))
	for _, v := range versions {
		w.podmans[v] = map[maker]*podman{}
		for _, m := range makers {
			w.podmans[v][m] = newPodman(t, r, v, m)
		}
	}
	return w
}

// asker asks questions about a container.
type asker func(t *testing.T, w *world, c *podContainer, a answers)

// podmanCase is a command line of podman and the questions to ask about what comes of it.
type podmanCase struct {
	version version
	network string // of --network; empty: the default
	flags   []string
	ask     []asker
	differ  map[string]difference
}

func (k *podmanCase) name() string {
	return strings.Join(append([]string{k.version.String(), k.network}, k.flags...), " ")
}

// run gives the command line to both makers' programs and compares.
func (k *podmanCase) run(t *testing.T, w *world) {
	flags := k.flags
	if k.network != "" {
		flags = append([]string{"--network", k.network}, flags...)
	}
	originals, own := askBoth(t, func(t *testing.T, m maker) answers {
		p := w.podmans[k.version][m]
		c := p.start(t, "c", flags...)
		c.wantMaker(t)
		a := answers{}
		for _, ask := range k.ask {
			ask(t, w, c, a)
		}
		c.Close()
		p.must(t, "rm", "--force", "--time", "0", "c")
		return a
	})
	wantSame(t, originals, own, k.differ)
}

func configured(t *testing.T, _ *world, c *podContainer, a answers) { a.askLinks(t, c.Node, true) }
func configured4(t *testing.T, _ *world, c *podContainer, a answers) {
	a.askLinks(t, c.Node, false)
}

// named asks the name servers.
func named(t *testing.T, _ *world, c *podContainer, a answers) {
	servers := c.nameservers(t)
	a["name servers"] = fmt.Sprint(servers)
	for _, s := range servers {
		a["name of "+s.String()] = askName(t, c.Node, s, unique())
	}
}

// outside asks an internet host.
func outside(t *testing.T, w *world, c *podContainer, a answers) {
	for _, f := range families {
		for _, network := range []string{"tcp", "udp"} {
			a[network+" to internet "+f.name] = askWhoami(t, c.Node, network, at(f.x1, w.whoami[f.name]))
		}
		a["tcp to closed port "+f.name] = askWhoami(t, c.Node, "tcp", at(f.x1, 1))
	}
	a["ping of internet IPv4"] = askPing(t, c.Node, rig.X1v4)
}

// pingOutside6 stands alone: libslirp sends no echo requests of IPv6 to the outside.
func pingOutside6(t *testing.T, _ *world, c *podContainer, a answers) {
	a["ping of internet IPv6"] = askPing(t, c.Node, rig.X1v6)
}

// without asks what an option takes away. Nothing is said, which is waited for a moment only.
func without(what string) asker {
	return func(t *testing.T, w *world, c *podContainer, a answers) {
		for _, network := range []string{"tcp", "udp"} {
			to := at(rig.X1v4, w.whoami["IPv4"])
			if network != what {
				a[network] = askWhoami(t, c.Node, network, to)
				continue
			}
			ctx, cancel := context.WithTimeout(t.Context(), moment)
			defer cancel()
			conn, err := c.Dial(ctx, network, to)
			if err == nil {
				_, err = readWhoami(conn, moment)
				conn.Close()
			}
			if err != nil {
				a[network] = whyNot(err)
			} else {
				a[network] = "answers"
			}
		}
		a["ping"] = askPing(t, c.Node, rig.X1v4)
	}
}

// moment is how long silence is listened to. A machine so slow that an answer takes longer makes no test fail.
const moment = 2 * time.Second

// hostAt asks the servers on the host's loopback at addresses.
func hostAt(addrs ...netip.Addr) asker {
	return func(t *testing.T, w *world, c *podContainer, a answers) {
		for _, f := range families {
			for _, to := range addrs {
				if to.Is4() != f.any.Is4() {
					continue
				}
				for where, port := range map[string]uint16{"loopback": w.loopback[f.name], "own address": w.own[f.name]} {
					a[fmt.Sprintf("tcp to host's %s at %v", where, to)] = askWhoami(t, c.Node, "tcp", at(to, port))
				}
				a["ping of "+to.String()] = askPing(t, c.Node, to)
			}
		}
	}
}

var slirp6 = netip.MustParseAddr("fd00::2")

// macs are the hardware addresses inside.
func macs(t *testing.T, _ *world, c *podContainer, a answers) {
	for _, l := range links(t, c.Node) {
		a["MAC of "+l.Name] = l.MAC
	}
}

// A container with the network that podman gives it by default, and with slirp4netns where that is not it.
func TestPodmanRun(t *testing.T) {
	w := newWorld(t, podman4, podman5)
	all := []asker{configured, named, outside}
	for _, k := range []podmanCase{
		{version: podman4, ask: append(all, hostAt(rig.Gateway4, slirp6, rig.H4, rig.H6)), differ: slirpDiffers("fe80::5055:aff:fe00:202")},
		{version: podman5, network: "slirp4netns", ask: append(all, hostAt(rig.Gateway4, slirp6, rig.H4, rig.H6)), differ: slirpDiffers("fe80::5055:aff:fe00:202")},
		{version: podman5, ask: append(all, pingOutside6, hostAt(rig.R4, rig.H4, netip.MustParseAddr("169.254.1.2")))},
	} {
		t.Run(k.name(), func(t *testing.T) { k.run(t, w) })
	}
}

// slirpDiffers are differences that every container with slirp4netns shows; router is ours.
func slirpDiffers(router string) map[string]difference {
	return map[string]difference{
		"routes -6": {"default via " + router + " dev tap0, fd00::/64 dev tap0, fe80::/64 dev tap0",
			"the router's link-local address is made from its MAC; it is advertised, and nobody has to know it"},
	}
}
