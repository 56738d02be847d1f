package rootlesstests

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// slirpWorld is what is asked outside of the namespaces.
type slirpWorld struct {
	*rig.Rig
	x1, loopback map[string]netip.AddrPort // servers by family
}

// newSlirpWorld makes servers on an internet host and on the host, and a name server, the host's. It changes
// resolv.conf, so a test with it is not parallel to others.
func newSlirpWorld(t *testing.T) *slirpWorld {
	t.Helper()
	w := &slirpWorld{rig.Start(t), map[string]netip.AddrPort{}, map[string]netip.AddrPort{}}
	serveDNS(t, w.X1, at(rig.X1v4, 53), nil)
	writeResolvConf(t, fmt.Sprintf("nameserver %v\n", rig.X1v4))
	for _, f := range families {
		w.x1[f.name] = serveWhoami(t, w.X1, at(f.x1, nextPort()))
		w.loopback[f.name] = serveWhoami(t, w.H, at(f.loopback, nextPort()))
	}
	return w
}

// slirpCase is a command line and what is asked of both makers.
type slirpCase struct {
	args    string // without -r 3 -e 4, and with PID for the process
	prepare func(*rig.Node)
	ask     []func(*testing.T, *slirpWorld, *served, answers)
	meant   map[string]difference
}

func (k *slirpCase) run(t *testing.T, w *slirpWorld) {
	found := map[maker]answers{}
	for _, m := range makers {
		a := answers{}
		s := serveNamespace(t, w.Rig, m, k.prepare, append([]string{"-r", "3", "-e", "4"}, strings.Fields(k.args)...)...)
		resolvConf := s.Run(t, "cat", "/etc/resolv.conf")
		for _, ask := range k.ask {
			ask(t, w, s, a)
		}
		a["resolv.conf untouched"] = fmt.Sprint(s.Run(t, "cat", "/etc/resolv.conf") == resolvConf)
		s.slirp.exit.Close()
		a["exit code"] = strconv.Itoa(s.slirp.exitCode(t))
		found[m] = a
	}
	wantSame(t, found[original], found[ours], k.meant)
}

func askConfigured(t *testing.T, _ *slirpWorld, s *served, a answers)  { a.askLinks(t, s.Node, false) }
func askConfigured6(t *testing.T, _ *slirpWorld, s *served, a answers) { a.askLinks(t, s.Node, true) }

func askSysctls(t *testing.T, _ *slirpWorld, s *served, a answers) {
	for _, path := range []string{"ipv4/ip_unprivileged_port_start", "ipv4/ping_group_range", "ipv4/ip_forward", "ipv6/conf/tap0/accept_ra",
		"ipv6/conf/tap0/disable_ipv6", "ipv6/conf/tap0/accept_dad"} {
		a[path] = s.Run(t, "cat", "/proc/sys/net/"+path)
	}
}

// askGateway asks for what the gateway and the name server of a network are.
func askGateway(prefix string) func(*testing.T, *slirpWorld, *served, answers) {
	return func(t *testing.T, w *slirpWorld, s *served, a answers) {
		gateway, dns := netip.MustParseAddr(prefix+"2"), netip.MustParseAddr(prefix+"3")
		f := families[0]
		if gateway.Is6() {
			f = families[1]
		}
		for _, network := range []string{"tcp", "udp"} {
			a[f.name+" host loopback, "+network] = askWhoami(t, s.Node, network, at(gateway, w.loopback[f.name].Port()))
		}
		a[f.name+" ping of gateway"] = askPing(t, s.Node, gateway)
		a[f.name+" name"] = askName(t, s.Node, dns, unique())
	}
}

func askClosedGateway(t *testing.T, w *slirpWorld, s *served, a answers) {
	a["host loopback, tcp"] = askWhoami(t, s.Node, "tcp", at(rig.Gateway4, w.loopback["IPv4"].Port()))
	a["ping of gateway"] = askPing(t, s.Node, rig.Gateway4)
}

func askOutside(name string) func(*testing.T, *slirpWorld, *served, answers) {
	return func(t *testing.T, w *slirpWorld, s *served, a answers) {
		for _, network := range []string{"tcp", "udp"} {
			a[name+" outside, "+network] = askWhoami(t, s.Node, network, w.x1[name])
		}
	}
}

func askMAC(t *testing.T, _ *slirpWorld, s *served, a answers) {
	for _, l := range links(t, s.Node) {
		if l.Name == "tap0" {
			a["MAC"] = l.MAC
		}
	}
	_ = askPing(t, s.Node, rig.Gateway4) // so that the neighbour is known
	a["gateway's MAC"] = s.Run(t, "sh", "-c", `ip neigh show 10.0.2.2 | grep -o "lladdr [^ ]*"`)
}

// askLease asks for what DHCP hands out.
func askLease(t *testing.T, w *slirpWorld, s *served, a answers) {
	s.Run(t, "ip", "-4", "addr", "flush", "dev", "tap0")
	s.Run(t, "ip", "link", "set", "tap0", "up")
	script := writeScript(t, `
case $1 in bound)
	env
	ip addr add "$ip/$mask" dev "$interface"
	ip route add default via "$router"
esac`)
	got := assignments(s.Run(t, "busybox", "udhcpc", "-i", "tap0", "-f", "-q", "-n", "-t", "5", "-T", "1", "-s", script))
	for _, k := range []string{"ip", "mask", "router", "dns"} {
		a["lease "+k] = got[k]
	}
	a["outside with the lease"] = askWhoami(t, s.Node, "tcp", w.x1["IPv4"])
}

// Every option that has to do with the network, given to the original and to ours.
func TestSlirp4netnsOptions(t *testing.T) {
	w := newSlirpWorld(t)
	existing := func(n *rig.Node) {
		n.Run(t, "ip", "tuntap", "add", "name", "tap0", "mode", "tap")
		// Its link-local address would come at some time after the carrier.
		n.Run(t, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/tap0/disable_ipv6")
		n.Run(t, "ip", "link", "set", "tap0", "up", "mtu", "9000")
		n.Run(t, "ip", "addr", "add", "10.0.2.77/24", "dev", "tap0")
		n.Run(t, "ip", "route", "add", "default", "via", "10.0.2.2")
	}
	router := map[string]difference{"routes -6": {"default via fe80::5055:aff:fe00:202 dev tap0, fd00::/64 dev tap0, fe80::/64 dev tap0",
		"the router's link-local address is made of its MAC; nobody has to know it, it is advertised"}}
	type asks = []func(*testing.T, *slirpWorld, *served, answers)
	for name, k := range map[string]*slirpCase{
		"configure": {args: "-c PID tap0", ask: asks{askConfigured, askSysctls, askGateway("10.0.2."), askOutside("IPv4")}},
		"ipv6": {args: "-c -6 PID tap0", ask: asks{askConfigured6, askGateway("10.0.2."), askGateway("fd00::"), askOutside("IPv4"), askOutside("IPv6")},
			meant: map[string]difference{"routes -6": router["routes -6"], "IPv6 name": {rig.X1v4.String(),
				"the original's IPv6 name server asks IPv6 servers only, and the host has none"}}},
		"podman": {
			args: "--disable-host-loopback --mtu=65520 --enable-sandbox --enable-seccomp --enable-ipv6 -c PID tap0",
			ask:  asks{askConfigured6, askClosedGateway, askOutside("IPv4"), askOutside("IPv6")}, meant: router,
		},
		"rootlesskit": {
			args: "--mtu 9000 --disable-host-loopback --enable-sandbox --enable-seccomp PID tap0", prepare: existing,
			ask: asks{askConfigured, askClosedGateway, askOutside("IPv4")},
		},
		"rootlesskit detached": {
			args: "--mtu 9000 --userns-path=/proc/PID/ns/user --netns-type=path /proc/PID/ns/net tap0", prepare: existing,
			ask: asks{askConfigured, askGateway("10.0.2."), askOutside("IPv4")},
		},
		"not configured":        {args: "PID tap0", ask: asks{askConfigured}},
		"cidr":                  {args: "-c --cidr=172.20.0.0/16 PID tap0", ask: asks{askConfigured, askGateway("172.20.0."), askOutside("IPv4")}},
		"lease":                 {args: "-c PID tap0", ask: asks{askLease}},
		"lease, not configured": {args: "PID tap0", ask: asks{askLease}},
		"disable-dns": {args: "-c --disable-dns PID tap0", ask: asks{func(t *testing.T, _ *slirpWorld, s *served, a answers) {
			_, code, err := s.Exec(rig.Within(t, rig.Patience), "", "dig", "+time=1", "+tries=1", "@10.0.2.3", unique())
			a["dig"] = fmt.Sprint(code, err)
		}}},
		"outbound address":   {args: "-c --outbound-addr=203.0.113.3 PID tap0", ask: asks{askOutside("IPv4")}},
		"outbound address 6": {args: "-c -6 --outbound-addr6=fd01::3 PID tap0", ask: asks{askConfigured6, askOutside("IPv6")}, meant: router},
		"outbound interface": {args: "-c --outbound-addr=eth0 PID tap0", ask: asks{askOutside("IPv4")}},
		"macaddress":         {args: "-c --macaddress=02:00:00:00:12:34 PID tap0", ask: asks{askMAC}},
		"surplus":            {args: "-c PID tap0 one two", ask: asks{askConfigured}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k.run(t, w)
		})
	}
}

// Command lines that come to nothing: the same exit code, the same first line on standard error, and the usage where the
// original has it.
func TestSlirp4netnsRefusals(t *testing.T) {
	t.Parallel()
	rig.Start(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const (
		better   = "ours says what failed in the words of usernet's other commands"
		stricter = "the original goes on and works badly or not at all"
	)
	for _, row := range []struct{ args, why string }{
		{"", ""}, {"1", ""}, {"-h", ""}, {"abc tap0", ""}, {"0 tap0", ""}, {"12x tap0", ""}, {"--foo 1 tap0", ""}, {"-x 1 tap0", ""}, {"1 tap0 -r", ""},
		{"--enable 1 tap0", ""}, {"--configure=yes 1 tap0", ""},
		{"-e x 1 tap0", ""}, {"-e -1 1 tap0", ""}, {"-r 0x3 1 tap0", ""}, {"-m 0 1 tap0", ""}, {"-m 65522 1 tap0", ""}, {"-m 1x 1 tap0", ""},
		{"--cidr= 1 tap0", ""}, {"--cidr=10.0.2.0 1 tap0", ""}, {"--cidr=10.0.2.1/24 1 tap0", ""}, {"--cidr=10.0.2.0/26 1 tap0", ""},
		{"--cidr=10.0.2.0/0 1 tap0", ""}, {"--cidr=10.0.2.0/024 1 tap0", ""}, {"--cidr=010.0.2.0/24 1 tap0", ""}, {"--cidr=fd00::/64 1 tap0", ""},
		{"--cidr=10.0.2.1/26 1 tap0", ""}, {"--cidr=300.0.2.0/24 1 tap0", ""},
		{"--macaddress=02:00:00:00:00:01 1 tap0", ""}, {"-c --macaddress=zz 1 tap0", ""}, {"-c --macaddress=2:0:0:0:0:0:1 1 tap0", ""},
		{"--netns-type=path /no/such/file tap0", ""}, {"--netns-type=x /no/such/file tap0", ""}, {"--userns-path=/no/such/file 1 tap0", ""},
		{"--target-type=x 1 tap0", ""}, {"--target-type=bess -c x", ""}, {"--target-type=bess --netns-type=pid x", ""},
		{"--target-type=bess --userns-path=/ x", ""}, {"--target-type=bess", ""}, {"--target-type=bess a b", ""},
		{"--outbound-addr=x 1 tap0", ""}, {"--outbound-addr=::1 1 tap0", ""}, {"--outbound-addr6=x 1 tap0", ""}, {"--outbound-addr6=192.0.2.1 1 tap0", ""},
		{"999999999 tap0", better}, {"1 tap0", better}, {"--netns-type=path " + file + " tap0", better},
		{"--target-type=bess /no/such/directory/socket", better},
		{"-m 67 999999999 tap0", stricter}, {"-r 99 999999999 tap0", stricter}, {"--cidr=127.0.0.0/8 999999999 tap0", stricter},
		{"-c --macaddress=01:00:00:00:00:01 999999999 tap0", stricter},
	} {
		t.Run(row.args, func(t *testing.T) {
			said := map[maker]string{}
			for _, m := range makers {
				program := slirp4netnsOf(t, m)
				s := startSlirp(t, program, nil, strings.Fields(row.args)...)
				code := s.exitCode(t)
				line, _, _ := strings.Cut(strings.ReplaceAll(s.stderr.String(), program, "slirp4netns"), "\n")
				said[m] = fmt.Sprintf("exit code %d, usage: %v", code, strings.Contains(s.stdout.String(), "User-mode networking"))
				if row.why == "" {
					said[m] += ", " + line
				} else if line == "" {
					t.Errorf("%s says nothing", m)
				}
				if row.why == stricter {
					said[m] = fmt.Sprintf("exit code %d", code)
				}
			}
			if said[original] != said[ours] {
				t.Errorf("ours: %s\noriginal: %s", said[ours], said[original])
			}
		})
	}
}

// Ports by the API: the same answers, and the port works or not as they say.
func TestSlirp4netnsAPI(t *testing.T) {
	w := newSlirpWorld(t)
	found := map[maker]answers{}
	port4, port6, udp := nextPort(), nextPort(), nextPort()
	for _, m := range makers {
		a := answers{}
		api := filepath.Join(t.TempDir(), "api.sock")
		s := serveNamespace(t, w.Rig, m, nil, "-c", "-6", "-r", "3", "-e", "4", "-a", api, "PID", "tap0")
		inside := serveWhoami(t, s.Node, at(rig.SandboxAddr4, 80))
		add := func(proto string, host, guest string, port uint16) string {
			return fmt.Sprintf(`{"execute":"add_hostfwd","arguments":{"proto":%q,"host_addr":%q,"host_port":%d,"guest_addr":%q,"guest_port":%d}}`,
				proto, host, port, guest, inside.Port())
		}
		for _, q := range []string{
			`{"execute":"list_hostfwd"}`, add("tcp", "0.0.0.0", "10.0.2.100", port4), add("tcp", "", "", port4), add("udp", "", "", udp),
			add("tcp", "::1", "", port6), add("sctp", "", "", port4), add("tcp", "x", "", port4), add("tcp", "", "x", port4), add("tcp", "", "", 0),
			`{"execute":"list_hostfwd"}`, `{"execute":"remove_hostfwd","arguments":{"id":7}}`, `{`, ``, `[]`, `{}`, `{"execute":1}`, `{"execute":"x"}`,
			strings.Repeat(" ", 4095), strings.Repeat(" ", 4096),
		} {
			key := strconv.Itoa(len(a)) + " " + q[:min(len(q), 150)]
			a[key] = askAPI(t, api, q)
		}
		a["tcp from loopback"] = askWhoami(t, w.H, "tcp", at(families[0].loopback, port4))
		a["tcp from the internet"] = askWhoami(t, w.X1, "tcp", at(rig.H4, port4))
		a["tcp to IPv6 loopback"] = askWhoami(t, w.H, "tcp", at(families[1].loopback, port6))
		a["udp from the internet"] = askWhoami(t, w.X1, "udp", at(rig.H4, udp))
		a["remove"] = askAPI(t, api, `{"execute":"remove_hostfwd","arguments":{"id":1}}`)
		a["tcp after remove"] = askWhoami(t, w.X1, "tcp", at(rig.H4, port4))
		a["udp after remove of tcp"] = askWhoami(t, w.X1, "udp", at(rig.H4, udp))
		s.slirp.exit.Close()
		a["exit code"] = strconv.Itoa(s.slirp.exitCode(t))
		_, err := os.Stat(api)
		a["socket is removed"] = fmt.Sprint(errors.Is(err, os.ErrNotExist))
		found[m] = a
	}
	const first = "{\"id\":1,\"proto\":\"tcp\",\"host_addr\":\"0.0.0.0\",\"host_port\":%d,\"guest_addr\":\"10.0.2.100\",\"guest_port\":80}"
	list := fmt.Sprintf("["+first+`,{"id":2,"proto":"udp","host_addr":"0.0.0.0","host_port":%d,"guest_addr":"10.0.2.100","guest_port":80},`+
		`{"id":3,"proto":"tcp","host_addr":"::1","host_port":%d,"guest_addr":"10.0.2.100","guest_port":80}]`, port4, udp, port6)
	meant := map[string]difference{"tcp to IPv6 loopback": {"seen as 10.0.2.2", "IPv6 works"}}
	for q, a := range found[original] {
		var d difference
		switch {
		case strings.Contains(q, "list_hostfwd") && a == `{"entries":[]}`:
			d = difference{`{"entries":[],"return":{"entries":[]}}`, "the original's manual has the entries in \"return\"; both are there"}
		case strings.Contains(q, "list_hostfwd"):
			d = difference{`{"entries":` + list + `,"return":{"entries":` + list + `}}`, "the same, and IPv6 works"}
		case strings.Contains(q, `"host_addr":"::1"`):
			d = difference{`{"return":{"id":3}}`, "IPv6 works"}
		case strings.Contains(a, "slirp_add_hostfwd failed"):
			d = difference{strings.Replace(a, `{"desc"`, `{"cause":"publish 0.0.0.0:`+strconv.Itoa(int(port4))+
				`/tcp: address already in use; publish another host port or stop what holds this one","desc"`, 1), "what failed is said, too"}
		default:
			continue
		}
		meant[q] = d
	}
	wantSame(t, found[original], found[ours], meant)
}
