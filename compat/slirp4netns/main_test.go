package slirp4netns

import (
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// invoke runs a command line that does not get as far as to make a network.
func invoke(t *testing.T, args ...string) (code int, out, err string) {
	t.Helper()
	file := func() *os.File {
		f, ferr := os.CreateTemp(t.TempDir(), "")
		if ferr != nil {
			t.Fatal(ferr)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	read := func(f *os.File) string {
		f.Seek(0, io.SeekStart)
		b, ferr := io.ReadAll(f)
		if ferr != nil {
			t.Fatal(ferr)
		}
		return string(b)
	}
	stdio := [3]*os.File{file(), file(), file()}
	code = Main(append([]string{"/usr/bin/slirp4netns"}, args...), nil, stdio)
	return code, read(stdio[1]), read(stdio[2])
}

func TestHelp(t *testing.T) {
	code, out, errs := invoke(t, "--help")
	if code != 0 || errs != "" || !strings.HasPrefix(out, "Usage: /usr/bin/slirp4netns [OPTION]... PID|PATH") {
		t.Errorf("code %d, %q, %q", code, out, errs)
	}
	// The words that podman, rootlesskit and scripts look for.
	for _, word := range []string{"--disable-host-loopback", "--mtu", "--enable-sandbox", "--enable-seccomp", "--cidr", "--outbound-addr",
		"--enable-ipv6", "--netns-type", "--disable-dns", "--macaddress", "--api-socket", "--userns-path", "--target-type"} {
		if !strings.Contains(out, word+"=") && !strings.Contains(out, word+" ") {
			t.Errorf("%s is not in the help", word)
		}
	}
	for _, l := range grammar.Long {
		if hidden := l.Name == "no-host-loopback" || l.Name == "create-sandbox"; strings.Contains(out, "--"+l.Name) == hidden {
			t.Errorf("--%s is in the help: %v", l.Name, !hidden)
		}
	}
}

func TestVersion(t *testing.T) {
	code, out, errs := invoke(t, "-v")
	if code != 0 || errs != "" {
		t.Errorf("code %d, %q", code, errs)
	}
	for i, prefix := range []string{"slirp4netns version 1.3.", "commit: ", "libslirp: ", "SLIRP_CONFIG_VERSION_MAX: 4", "libseccomp: "} {
		if line := strings.Split(out, "\n")[i]; !strings.HasPrefix(line, prefix) {
			t.Errorf("line %d is %q, want %q", i, line, prefix)
		}
	}
}

func TestErrorsAreOnStandardError(t *testing.T) {
	code, out, errs := invoke(t, "--cidr=10.0.2.0/26", "1", "tap0")
	if code != 1 || out != "" || errs != "prefix length needs to be 1-25\n" {
		t.Errorf("code %d, %q, %q", code, out, errs)
	}
	code, out, errs = invoke(t, "--foo")
	if code != 1 || !strings.HasPrefix(out, "Usage: ") || errs != "/usr/bin/slirp4netns: unrecognized option '--foo'\n" {
		t.Errorf("code %d, %q, %q", code, out, errs)
	}
	code, out, errs = invoke(t)
	if code != 1 || !strings.HasPrefix(out, "Usage: ") || errs != "" {
		t.Errorf("code %d, %q, %q", code, out, errs)
	}
}

func TestBanner(t *testing.T) {
	o := &options{mtu: 1500, cidr: netip.MustParsePrefix("10.1.0.0/16"), apiSocket: "/run/api"}
	want := `Starting slirp
* MTU:             1500
* Network:         10.1.0.0
* Netmask:         255.255.0.0
* Gateway:         10.1.0.2
* DNS:             10.1.0.3
* DHCP begin:      10.1.0.15
* DHCP end:        10.1.0.30
* Recommended IP:  10.1.0.100
* API Socket:      /run/api
WARNING: 127.0.0.1:* on the host is accessible as 10.1.0.2 (set --disable-host-loopback to prohibit connecting to 127.0.0.1:*)
`
	if got := banner(o, addressesOf(o.cidr)); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestPlan(t *testing.T) {
	o, err := parseLine("-c -6 --disable-host-loopback --disable-dns --mtu=9000 1234 tap0")
	if err != nil {
		t.Fatal(err)
	}
	c := plan(o)
	n := c.Network
	for name, ok := range map[string]bool{
		"gateways":      n.Gateway4.String() == "10.0.2.2" && n.Gateway6.String() == "fd00::2",
		"subnets":       n.Subnet4 == defaultCIDR && n.Subnet6.String() == "fd00::/64",
		"no DNS":        !n.DNS4.IsValid() && !n.DNS6.IsValid(),
		"lease":         n.Autoconf.Lease.String() == "10.0.2.15",
		"host loopback": !n.Policy.HostLoopback && n.Policy.HostUnreachable,
		"metadata":      n.Policy.Metadata,
		"gateway MAC":   n.GatewayMAC.String() == "52:55:0a:00:02:02",
		"MTU":           n.MTU == 9000 && c.Link.MTU == 9000,
		"link":          c.Configure && c.Link.Adopt && c.Link.Name == "tap0" && c.Link.Addr4.String() == "10.0.2.100/24",
		"route":         c.Routes.Default4.Addr == n.Gateway4 && c.Routes.Default4.Dev == "tap0",
		"target":        c.Target.PID == 1234,
	} {
		if !ok {
			t.Errorf("%s: %+v", name, c)
		}
	}
	if o, err = parseLine("1234 tap0"); err != nil {
		t.Fatal(err)
	}
	if c := plan(o); !c.Network.Policy.HostLoopback || c.Network.Subnet6.IsValid() || c.Network.DNS4.String() != "10.0.2.3" || c.Configure {
		t.Errorf("by default: %+v", c)
	}
}
