package rootlesstests

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// noPorts switches all forwarding off, as podman does where nothing is published.
var noPorts = []string{"-t", "none", "-u", "none", "-T", "none", "-U", "none"}

// The questions about a container with a pasta.
type pastaQuestion func(t *testing.T, k *pastaKit, s *pastaServed, a answers)

func pastaConfigured(t *testing.T, _ *pastaKit, s *pastaServed, a answers) {
	a.askLinks(t, s.Node, true)
}

func pastaConfigured4(t *testing.T, _ *pastaKit, s *pastaServed, a answers) {
	waitLinkLocal(t, s.Node)
	a.askLinks(t, s.Node, false)
}

// pastaOutside asks servers beyond the host which address they see.
func pastaOutside(t *testing.T, k *pastaKit, s *pastaServed, a answers) {
	for _, x := range []netip.Addr{rig.X1v4, rig.X1v6} {
		where := serveWhoami(t, k.r.X1, at(x, 0))
		a[fmt.Sprintf("outside, tcp %v", x)] = askWhoami(t, s.Node, "tcp", where)
		a[fmt.Sprintf("outside, udp %v", x)] = askWhoami(t, s.Node, "udp", where)
	}
}

// pastaHostAt asks a server on the host's loopback by addresses that may stand for it.
func pastaHostAt(addrs ...netip.Addr) pastaQuestion {
	return func(t *testing.T, k *pastaKit, s *pastaServed, a answers) {
		for _, to := range addrs {
			where := netip.IPv6Loopback()
			if to.Is4() {
				where = netip.AddrFrom4([4]byte{127, 0, 0, 1})
			}
			port := serveWhoami(t, k.r.H, at(where, 0)).Port()
			a[fmt.Sprintf("host's loopback by %v", to)] = askWhoami(t, s.Node, "tcp", at(to, port))
		}
	}
}

// pastaHostOwn asks a server on the host's own address by one that stands for it.
func pastaHostOwn(to netip.Addr) pastaQuestion {
	return func(t *testing.T, k *pastaKit, s *pastaServed, a answers) {
		port := serveWhoami(t, k.r.H, at(rig.H4, 0)).Port()
		a[fmt.Sprintf("host's own address by %v", to)] = askWhoami(t, s.Node, "tcp", at(to, port))
	}
}

// TestPastaOptions gives the same command line to the original and to ours, one container each, and compares what is
// found inside.
func TestPastaOptions(t *testing.T) {
	k := newPastaKit(t)
	mapped := netip.MustParseAddr("10.9.9.7")
	for _, tt := range []struct {
		args  string
		ask   []pastaQuestion
		meant map[string]difference
	}{
		{"--config-net", []pastaQuestion{pastaConfigured, pastaOutside, pastaHostAt(rig.R4, rig.R6)}, nil},
		{"--config-net --no-map-gw --dns-forward 169.254.1.1 --map-guest-addr 10.9.9.7", []pastaQuestion{pastaConfigured, pastaHostOwn(mapped)}, nil},
		{"--config-net --map-host-loopback 10.9.9.7", []pastaQuestion{pastaConfigured, pastaHostAt(mapped)}, nil},
		{"--ns-ifname=tap0 --mtu=65520 --config-net --address=10.0.2.100 --netmask=24 --gateway=10.0.2.2 --dns-forward=10.0.2.3 --ipv4-only",
			[]pastaQuestion{pastaConfigured4, pastaHostAt(netip.MustParseAddr("10.0.2.2"))}, nil},
		{"--config-net -a fd09::5 -g fd09::1 -6", []pastaQuestion{pastaConfigured}, nil},
		{"--config-net -4 -m 1400", []pastaQuestion{pastaConfigured4}, nil},
		{"--config-net -4 --no-copy-routes --no-copy-addrs", []pastaQuestion{pastaConfigured4}, nil},
		{"--config-net -i eth0 -o 203.0.113.3 -o fd01::3", []pastaQuestion{pastaConfigured, pastaOutside}, nil},
	} {
		t.Run(tt.args, func(t *testing.T) {
			originals, own := askBoth(t, func(t *testing.T, m maker) answers {
				s := k.serve(t, m, slices.Concat(strings.Fields(tt.args), noPorts, []string{"--quiet"})...)
				a := answers{}
				for _, q := range tt.ask {
					q(t, k, s, a)
				}
				s.end()
				return a
			})
			wantSame(t, originals, own, tt.meant)
		})
	}
}

// TestPastaSpliceOnly: nothing leaves by the interface, while ports of both directions are served.
func TestPastaSpliceOnly(t *testing.T) {
	k := newPastaKit(t)
	const in, out = 18130, 18131
	lo := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	host, outside := serveWhoami(t, k.r.H, at(lo, 0)), serveWhoami(t, k.r.X1, at(rig.X1v4, 0))
	// The original has had the option only since a later version.
	s := k.serve(t, ours, "--splice-only", "--config-net", "--quiet", "-t", fmt.Sprintf("%d:80", in), "-u", "none", "-T", fmt.Sprintf("%d:%d", out, host.Port()), "-U", "none")
	serveWhoami(t, s.Node, at(netip.IPv4Unspecified(), 80))
	for _, q := range []struct{ what, got, want string }{
		{"published, by the host's loopback", askWhoami(t, k.r.H, "tcp", at(lo, in)), "seen as "},
		{"the host's loopback from inside", askWhoami(t, s.Node, "tcp", at(lo, out)), "seen as 127.0.0.1"},
	} {
		if !strings.HasPrefix(q.got, q.want) {
			t.Errorf("%s: %s, want %s", q.what, q.got, q.want)
		}
	}
	for _, network := range []string{"tcp", "udp"} {
		if got := askWhoami(t, s.Node, network, outside); strings.HasPrefix(got, "seen as") {
			t.Errorf("%s to outside: %s", network, got)
		}
	}
	s.end()
}

// TestPastaLocal: on a host without interfaces there is local mode; the command still reaches the host's loopback.
func TestPastaLocal(t *testing.T) {
	k := newPastaKit(t)
	sb := k.r.Run(t, "--network", "none")
	out, code, err := sb.Exec(rig.Within(t, rig.Patience), "", filepath.Join(k.dir, "pasta"), "--config-net", "-t", "none", "-u", "none", "-T", "none", "-U", "none",
		"--", "sh", "-c", "ip -o -4 address show tap0; ip -4 route; ip -6 route")
	if err != nil || code != 0 {
		t.Fatalf("code %d, %v: %s", code, err, out)
	}
	for _, want := range []string{"169.254.2.1/16", "default via 169.254.2.2 dev tap0", "default via fe80::1 dev tap0"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
