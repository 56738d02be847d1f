package cli

import (
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/usernet/usernet/dnsproxy"
	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/internal/shim"
	"github.com/usernet/usernet/internal/shim/shimtest"
	"github.com/usernet/usernet/internal/version"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// TestMain lets the test binary be what the binary is for the processes of a sandbox, with a datapath that
// moves no packets.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case shim.InitRole:
			os.Exit(shim.Init(os.Args[2:]))
		case shim.JoinRole:
			os.Exit(shim.InitJoined(os.Args[2:]))
		case shim.ExecRole:
			os.Exit(shim.ExecInside(os.Args[2:]))
		case shim.TapRole:
			os.Exit(shim.Tap())
		case datapath.Role:
			os.Exit(datapath.Main(os.Args[2:], func(*slog.Logger) datapath.Host { return idleHost{} }))
		case "run", "exec": // what --detach starts, and what replaces its process
			os.Exit(Main(os.Args[1:], os.Environ(), Stdio{os.Stdin, os.Stdout, os.Stderr}))
		}
	}
	os.Exit(shimtest.Main(m))
}

// idleHost has Networks that do nothing.
type idleHost struct{}

func (idleHost) New(spec.Network, datapath.Options) (datapath.Backend, error) {
	return idleBackend{}, nil
}
func (idleHost) Reserve(...netip.Prefix) error { return nil }
func (idleHost) Release(...netip.Prefix) error { return nil }

// idleBackend accepts everything and does nothing.
type idleBackend struct{}

func (idleBackend) Attach(_ spec.Endpoint, f *os.File, _ tap.Info) error         { return f.Close() }
func (idleBackend) Update(spec.Endpoint) error                                   { return nil }
func (idleBackend) Detach(string) error                                          { return nil }
func (idleBackend) Publish(_ string, _ portfwd.Spec, f *os.File, _ string) error { return f.Close() }
func (idleBackend) Socket(_ string, f *os.File) error                            { return f.Close() }
func (idleBackend) Unpublish(string) error                                       { return nil }
func (idleBackend) SetDNS(dnsproxy.Config)                                       {}
func (idleBackend) HostChanged()                                                 {}
func (idleBackend) Stats() spec.Stats {
	return spec.Stats{UDPFlows: 7, Drops: map[string]uint64{"runt": 3}}
}
func (idleBackend) Close() error { return nil }

// outcome is what an invocation gave.
type outcome struct {
	code        int
	out, stderr string
}

// invoke runs the command line as the binary does.
func invoke(t *testing.T, args ...string) outcome {
	t.Helper()
	dir := t.TempDir()
	open := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	in, out, stderr := open("in"), open("out"), open("err")
	code := Main(args, []string{"PATH=/usr/bin:/bin", "XDG_RUNTIME_DIR=" + os.Getenv("XDG_RUNTIME_DIR")}, Stdio{in, out, stderr})
	read := func(f *os.File) string {
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	return outcome{code, read(out), read(stderr)}
}

// TestBadCommandLines: each is refused with 125, a reason and a hint, before anything is made.
func TestBadCommandLines(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args string
		want string
	}{
		{"run", "a command to run is missing"},
		{"run --", "a command to run is missing"},
		{"run --bogus true", "unknown flag: --bogus"},
		{"run -p", "flag needs an argument"},
		{"run -p x true", `publish "x"`},
		{"run -p 99999:80 true", "99999"},
		{"run -p 80:80/sctp true", "sctp"},
		{"run --network web --network web true", `network "web" is specified multiple times`},
		{"run --network web --network host true", "conflicting options: cannot attach both user-defined and non-user-defined network-modes"},
		{"run --network web --subnet 10.9.0.0/24 true", "usernet network create --subnet"},
		{"run --network web --mtu 1400 true", "com.docker.network.driver.mtu"},
		{"run --network web --host-loopback true", "only a private network has it"},
		{"run --network none --pcap x true", "only a private network has it"},
		{"run --expose x true", "invalid range format for --expose: x"},
		{"run --expose 80/sctp true", "invalid port format for --expose: 80/sctp"},
		{"run --compat 1.13 true", `unknown version "1.13"`},
		{"run --map all true", `unknown map "all"; use root, keep or auto`},
		{"run --mtu x true", `--mtu: "x" is not a number`},
		{"run --mtu 99999999999999999999 true", `--mtu: "99999999999999999999" is too large`},
		{"run --ipv6=x true", `--ipv6: "x" is neither true nor false`},
		{"run --domainname a/b true", "invalid hostname format"},
		{"help nope", `"nope" is not a usernet command`},
		{"help network nope", "unknown command: usernet network nope"},
		{"run --mtu 10 true", "want 1280"},
		{"run --subnet 10.0.2.1/24 true", "invalid subnet 10.0.2.1/24: it should be 10.0.2.0/24"},
		{"run --subnet x true", "not a subnet"},
		{"run --ip fd00::1 true", "not an IPv4 address"},
		{"run --ip6 10.0.0.1 true", "not an IPv6 address"},
		{"run --ip6 fe80::1%lo true", "not an IPv6 address"},
		{"run --ip 10.9.9.9 true", "not in the subnet"},
		{"run --mac-address 01:00:00:00:00:01 true", "group address"},
		{"run --name -x true", "invalid name (-x)"},
		{"run --hostname a..b true", "invalid hostname format"},
		{"run --dns dns.example true", "not an ip address"},
		{"run --dns-search ; true", "not one word"},
		{"run --add-host x true", "bad format for add-host"},
		{"run --add-host x:y true", "invalid IP address in add-host"},
		{"run --env =x true", "invalid environment variable"},
		{"run --workdir /no/such true", "--workdir"},
		{"run --workdir " + file + " true", "not a directory"},
		{"run --outbound-addr 203.0.113.77 true", "no interface of this host has it"},
		{"run --outbound-addr6 2001:db8::77 true", "no interface of this host has it"},
		{"run --log-level loud true", `unknown level "loud"`},
		{"run --log-format xml true", `unknown format "xml"`},
		{"run --network none -p 80:80 true", "nothing to forward to"},
		{"attach", "want one PID or --netns PATH"},
		{"attach 1 2", "want one PID or --netns PATH"},
		{"attach --netns /x 1", "want one PID or --netns PATH"},
		{"attach web", "not the number of a process"},
		{"attach -- -5", "not the number of a process"},
		{"attach --interface a/b 1", "invalid interface name"},
		{"attach --ready-fd 999 1", "--ready-fd 999"},
		{"frobnicate", `"frobnicate" is not a usernet command`},
		{"completion", "one of bash, zsh and fish"},
		{"completion tcsh", "tcsh"},
		{"version now", "want no arguments, have 1"},
		{"doctor --format xml", "use json"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			got := invoke(t, strings.Fields(tt.args)...)
			if got.code != shim.ExitFailure || got.out != "" {
				t.Errorf("code %d, output %q", got.code, got.out)
			}
			if !strings.HasPrefix(got.stderr, "usernet: ") || !strings.Contains(got.stderr, tt.want) || !strings.Contains(got.stderr, "\nSee 'usernet") {
				t.Errorf("stderr %q, want %q and a hint", got.stderr, tt.want)
			}
		})
	}
}

func TestFlagsEndAtCommand(t *testing.T) {
	for _, args := range [][]string{
		{"--name", "web", "ls", "--name", "x", "-p"},
		{"--name", "web", "--", "ls", "--name", "x", "-p"},
	} {
		a := &app{}
		cmd := a.runCommand()
		if err := cmd.ParseFlags(args); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(cmd.Flags().Args(), " "); got != "ls --name x -p" {
			t.Errorf("%q: command %q", args, got)
		}
	}
}

func TestEnvironment(t *testing.T) {
	o := &runOptions{mapping: shim.MapRoot, env: []string{"A=2", "NEW=x=y", "KEEP", "ABSENT", "EMPTY="}}
	got := strings.Join(o.environment([]string{"A=1", "KEEP=k", "HOSTNAME=host", "A=1b", "bad"}, "box", []string{"DB_PORT=tcp://172.17.0.2:5432"}), " ")
	if want := "A=2 KEEP=k HOSTNAME=box DB_PORT=tcp://172.17.0.2:5432 NEW=x=y EMPTY="; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestEtcFiles(t *testing.T) {
	o := &runOptions{netOptions: *options(nil), network: shim.NetworkPrivate}
	o.name, o.search, o.options = "web", []string{"."}, []string{"ndots:2"}
	o.dns = []netip.AddrPort{netip.MustParseAddrPort("9.9.9.9:53")}
	o.hosts = []extraHost{{name: "db", addr: netip.MustParseAddr("10.1.1.1")}, {name: "up", gateway: true}}
	o.hostLoopback = true
	p, err := makePlan(&o.netOptions, "id", "eth0")
	if err != nil {
		t.Fatal(err)
	}
	files, err := o.files(p, "box.example")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range files {
		got[f.Path] = f.Content
	}
	if want := "nameserver 10.0.2.3\nnameserver fd00::3\noptions ndots:2\n"; !strings.HasSuffix(got["/etc/resolv.conf"], want) || strings.Contains(got["/etc/resolv.conf"], "search") {
		t.Errorf("resolv.conf:\n%s", got["/etc/resolv.conf"])
	}
	want := "10.1.1.1\tdb\n10.0.2.2\tup\n10.0.2.100\tbox.example box web\nfd00::100\tbox.example box web\n"
	if !strings.HasSuffix(got["/etc/hosts"], want) || !strings.HasPrefix(got["/etc/hosts"], "127.0.0.1\tlocalhost\n") {
		t.Errorf("hosts:\n%s", got["/etc/hosts"])
	}
	if got["/etc/hostname"] != "box.example\n" {
		t.Errorf("hostname %q", got["/etc/hostname"])
	}
	o.domainname = "example.org"
	if hosts, err := o.hostsFile(p, "box"); err != nil || !strings.Contains(hosts, "\n10.0.2.100\tbox.example.org box web\n") {
		t.Errorf("hosts with a domain: %v\n%s", err, hosts)
	}
	// In the host's network only what flags ask for is different.
	o.network, o.hosts, o.search, o.options = shim.NetworkHost, nil, nil, nil
	if files, err = o.files(p, "host"); err != nil || len(files) != 1 || files[0].Path != "/etc/resolv.conf" ||
		!strings.Contains(files[0].Content, "nameserver 9.9.9.9\n") {
		t.Errorf("host: %+v, %v", files, err)
	}
	// Without a network there is no server to name but those given.
	o.network, o.dns = shim.NetworkNone, nil
	if files, err = o.files(p, "box"); err != nil || strings.Contains(files[0].Content, "127.0.0.") {
		t.Errorf("none: %+v, %v", files, err)
	}
}

// TestHostGatewayReaches: without host loopback, host-gateway is one of this host's addresses, and not a loopback one.
func TestHostGateway(t *testing.T) {
	p, err := makePlan(options(nil), "id", "eth0")
	if err != nil {
		t.Fatal(err)
	}
	own, err := hostAddrs()
	if err != nil {
		t.Fatal(err)
	}
	outside := false
	for _, a := range own {
		outside = outside || !a.IsLoopback() && !a.IsLinkLocalUnicast()
	}
	a, err := p.gatewayAddr()
	if outside != (err == nil) || err == nil && (a.IsLoopback() || !a.IsValid()) {
		t.Errorf("%v, %v", a, err)
	}
}

func TestVersion(t *testing.T) {
	if got := invoke(t, "version"); got.code != 0 || !strings.HasPrefix(got.out, "usernet "+version.Number) {
		t.Errorf("%+v", got)
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{}, {"help"}, {"--help"}} {
		if got := invoke(t, args...); got.code != 0 || !strings.Contains(got.out, "usernet run -- bash") || strings.Contains(got.out, "__init") {
			t.Errorf("%v: %+v", args, got)
		}
	}
	for _, c := range []string{"run", "attach", "port", "ps", "doctor", "version", "completion"} {
		if got := invoke(t, "help", c); got.code != 0 || !strings.Contains(got.out, "Usage:") || strings.Contains(got.out, "default -1") {
			t.Errorf("help %s: %+v", c, got)
		}
	}
}

func TestCompletion(t *testing.T) {
	for shell, want := range map[string]string{"bash": "__start_usernet", "zsh": "#compdef usernet", "fish": "complete -c usernet"} {
		if got := invoke(t, "completion", shell); got.code != 0 || !strings.Contains(got.out, want) {
			t.Errorf("%s: code %d, %s", shell, got.code, got.stderr)
		}
	}
	tests := map[string]string{
		"run --network ": "private\ncontainer:\nbridge\nhost\nnone\n", "run --map ": "root\nkeep\nauto\n", "run --log-l": "--log-level",
		"completion ": "bash\nzsh\nfish\n", "pub": "", "d": "doctor",
	}
	for line, want := range tests {
		args := append([]string{"__complete"}, strings.Split(line, " ")...)
		if got := invoke(t, args...); got.code != 0 || !strings.Contains(got.out, want) {
			t.Errorf("%q: %q, want %q", line, got.out, want)
		}
	}
}

func TestManualPages(t *testing.T) {
	dir := t.TempDir()
	if got := invoke(t, "gen-man", dir); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	for page, want := range map[string]string{
		"usernet.1": "usernet\\-run", "usernet-run.1": `\fB\-p\fR, \fB\-\-publish\fR`, "usernet-attach.1": `\-\-netns`, "usernet-port-add.1": ".SH SYNOPSIS",
	} {
		b, err := os.ReadFile(filepath.Join(dir, page))
		if err != nil {
			t.Error(err)
			continue
		}
		if s := string(b); !strings.HasPrefix(s, ".TH ") || !strings.Contains(s, want) {
			t.Errorf("%s has no %q:\n%s", page, want, s)
		}
	}
}

func TestShowFindings(t *testing.T) {
	got := showFindings([]finding{
		{"one", statusOK, "is fine", ""}, {"longer", statusFail, "is not", "mend it"},
	}, false)
	want := "OK    one     is fine\nFAIL  longer  is not\n              → mend it\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if s := showFindings([]finding{{"one", statusWarn, "", ""}}, true); !strings.Contains(s, "\x1b[33m") {
		t.Errorf("no colour: %q", s)
	}
}

// TestRunWithout a network runs a command from flags to exit code, as an ordinary user.
func TestRunWithout(t *testing.T) {
	got := invoke(t, "run", "--network", "none", "--name", "web", "-e", "X=1", "-w", "/usr", "--", "sh", "-c",
		"echo $X $HOSTNAME; pwd; grep web /etc/hosts; cat /etc/hostname; exit 9")
	if want := "1 web\n/usr\n127.0.1.1\tweb\nweb\n"; got.code != 9 || got.out != want {
		t.Errorf("%+v, want %q", got, want)
	}
}

func TestHostNetworkWarns(t *testing.T) {
	got := invoke(t, "run", "--network", "host", "-p", "80:80", "true")
	if want := "WARNING: Published ports are discarded when using host network mode\n"; got.code != 0 || got.stderr != want {
		t.Errorf("%+v, want %q", got, want)
	}
}

func TestDoctor(t *testing.T) {
	got := invoke(t, "doctor", "--format", "json")
	var found []finding
	if err := json.Unmarshal([]byte(got.out), &found); err != nil {
		t.Fatalf("%v: %+v", err, got)
	}
	failed := false
	for _, f := range found {
		failed = failed || f.Status == statusFail
		if f.Check == "" || f.Status == "" || f.Status == statusFail && f.Fix == "" {
			t.Errorf("%+v", f)
		}
	}
	if failed != (got.code == exitError) {
		t.Errorf("code %d, %s", got.code, got.out)
	}
	if failed {
		t.Errorf("this host cannot run the tests:\n%s", got.out)
	}
}
