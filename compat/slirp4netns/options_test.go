package slirp4netns

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/usernet/usernet/stack/l2"
)

// hostAddrs are the interfaces of a host.
func hostAddrs(name string) ([]netip.Addr, error) {
	all := map[string][]netip.Addr{
		"eth0": {netip.MustParseAddr("fe80::1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")},
		"wg0":  {netip.MustParseAddr("fe80::2")},
	}
	if a, ok := all[name]; ok {
		return a, nil
	}
	return nil, errors.New("no such interface")
}

func parseLine(line string) (*options, error) {
	return parse(append([]string{"slirp4netns"}, strings.Fields(line)...), false, hostAddrs)
}

func TestParse(t *testing.T) {
	dir := t.TempDir()
	netns := filepath.Join(dir, "netns")
	if err := os.WriteFile(netns, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	plain := options{target: targetPID, pid: 1234, tap: "tap0", exitFD: -1, readyFD: -1, mtu: 1500, cidr: defaultCIDR}
	with := func(change func(*options)) options {
		o := plain
		change(&o)
		return o
	}
	for _, row := range []struct {
		line string
		want options
	}{
		{"1234 tap0", plain},
		{"1234 tap0 -c -6", with(func(o *options) { o.configure, o.ipv6 = true, true })},
		// As podman 4 calls it.
		{"--disable-host-loopback --mtu=65520 --enable-sandbox --enable-seccomp --enable-ipv6 -c -r 3 -e 4 --netns-type=path " + netns + " tap0",
			with(func(o *options) {
				o.target, o.pid, o.path = targetPath, 0, netns
				o.noHostLoopback, o.mtu, o.ipv6, o.configure, o.readyFD, o.exitFD = true, 65520, true, true, 3, 4
			})},
		// As rootlesskit does, with and without --detach-netns.
		{"--mtu 1500 -r 3 --disable-host-loopback --api-socket /run/s4nn.sock --enable-sandbox --enable-seccomp 1234 tap0",
			with(func(o *options) { o.readyFD, o.noHostLoopback, o.apiSocket = 3, true, "/run/s4nn.sock" })},
		{"--mtu 65520 -r 3 --userns-path=" + dir + " --netns-type=path " + netns + " tap0",
			with(func(o *options) {
				o.target, o.pid, o.path, o.userns, o.mtu, o.readyFD = targetPath, 0, netns, dir, 65520, 3
			})},
		{"--no-host-loopback --create-sandbox 1234 tap0", with(func(o *options) { o.noHostLoopback = true })},
		{"--cidr=192.168.0.0/16 --disable-dns 1234 tap0", with(func(o *options) {
			o.cidr, o.noDNS = netip.MustParsePrefix("192.168.0.0/16"), true
		})},
		{"--outbound-addr=192.0.2.7 --outbound-addr6=2001:db8::7 1234 tap0", with(func(o *options) {
			o.out4, o.out6 = netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
		})},
		{"--outbound-addr=eth0 --outbound-addr6=eth0 1234 tap0", with(func(o *options) {
			o.out4, o.out6 = netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")
		})},
		{"--outbound-addr6=wg0 1234 tap0", with(func(o *options) { o.out6 = netip.MustParseAddr("fe80::2") })},
		{"-c --macaddress=2:0:0:0:0:A 1234 tap0", with(func(o *options) { o.configure, o.mac = true, l2.MAC{2, 5: 10} })},
		{"-e 0 -r 7 -m 68 1234 tap0 more", with(func(o *options) { o.exitFD, o.readyFD, o.mtu, o.surplus = 0, 7, 68, true })},
		{"--mtu=65521 +1234 tap0", with(func(o *options) { o.mtu = 65521 })},
		{"--netns-type=tapfd 5", with(func(o *options) { o.target, o.pid, o.tapFD, o.tap = targetTAPFD, 0, 5, "" })},
		{"--target-type=bess /run/bess.sock", with(func(o *options) { o.target, o.pid, o.path, o.tap = targetBESS, 0, "/run/bess.sock", "" })},
		{"--target-type=netns --netns-type=pid 1234 tap0", plain},
		{"--foo=bar 1234 tap0 -h", options{}},
		{"-vh", options{exitFD: -1, readyFD: -1, mtu: 1500, cidr: defaultCIDR, version: true}},
		{"--cidr=nonsense -h --foo", options{exitFD: -1, readyFD: -1, mtu: 1500, cidr: defaultCIDR, help: true}},
	} {
		o, err := parseLine(row.line)
		if row.want == (options{}) {
			if err == nil {
				t.Errorf("%s: understood as %+v", row.line, *o)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", row.line, err)
		} else if *o != row.want {
			t.Errorf("%s:\n got %+v\nwant %+v", row.line, *o, row.want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	const macText = "macaddress has to be a valid MAC address (hex string, 6 bytes, each byte separated by a ':')."
	for _, row := range []struct {
		line, want string
		usage      bool
	}{
		{"", "", true},
		{"1234", "", true},
		{"--netns-type=tapfd", "", true},
		{"--target-type=bess", "", true},
		{"--target-type=bess a b", "too many arguments", true},
		{"--foo 1234 tap0", "slirp4netns: unrecognized option '--foo'", true},
		{"-x 1234 tap0", "slirp4netns: invalid option -- 'x'", true},
		{"1234 tap0 -r", "slirp4netns: option requires an argument -- 'r'", true},
		{"abc tap0", "PID must be a positive integer", true},
		{"0 tap0", "PID must be a positive integer", true},
		{"12x tap0", "PID must be a positive integer", true},
		{"-e x 1 tap0", "exit-fd must be a non-negative integer", true},
		{"-e -1 1 tap0", "exit-fd must be a non-negative integer", true},
		{"-r 0x3 1 tap0", "ready-fd must be a non-negative integer", true},
		{"-m 0 1 tap0", "MTU must be a positive integer (< 65522)", true},
		{"-m 65522 1 tap0", "MTU must be a positive integer (< 65522)", true},
		{"-m 99999999999 1 tap0", "MTU must be a positive integer (< 65522)", true},
		{"-m 67 1 tap0", "MTU must be at least 68 (1280 with --enable-ipv6)", true},
		{"-6 -m 1279 1 tap0", "MTU must be at least 1280 (1280 with --enable-ipv6)", true},
		{"--netns-type=path /no/such/file tap0", "existing path expected when --netns-type=path: No such file or directory", true},
		{"--netns-type=nonsense /no/such/file tap0", "existing path expected when --netns-type=path: No such file or directory", true},
		{"--userns-path=/no/such/file 1 tap0", "userns path doesn't exist: /no/such/file", true},
		{"--target-type=x 1 tap0", `--target-type must be either "netns" or "bess"`, true},
		{"--target-type=bess -c x", "--configure conflicts with --target-type=bess", true},
		{"--target-type=bess --netns-type=pid x", "--netns-type conflicts with --target-type=bess", true},
		{"--target-type=bess --userns-path=/ x", "--userns-path conflicts with --target-type=bess", true},
		{"--netns-type=tapfd -c 5", "--configure conflicts with --netns-type=tapfd", true},
		{"--netns-type=tapfd x", "TAP FD must be a non-negative integer", true},
		{"--macaddress=02:00:00:00:00:01 1 tap0", "--macaddr cannot be specified when --configure or -c is not specified", true},
		{"-c --macaddress=zz 1 tap0", `"zz" is an invalid MAC address.` + "\n" + macText, false},
		{"-c --macaddress=2:0:0:0:0:0:1 1 tap0", `"2:0:0:0:0:0:1" is an invalid MAC address.  Is it too long?` + "\n" + macText, false},
		{"-c --macaddress=01:00:00:00:00:01 1 tap0", `"01:00:00:00:00:01" is an invalid MAC address.  It is no station's.` + "\n" + macText, false},
		{"--outbound-addr=::1 1 tap0", "outbound-addr has to be valid ipv4 address or interface name.", false},
		{"--outbound-addr=wg0 1 tap0", "outbound-addr has to be valid ipv4 address or interface name.", false},
		{"--outbound-addr6=192.0.2.2 1 tap0", "outbound-addr has to be valid ipv4 address or iterface name.", false},
		{"--cidr=10.0.2.100/24 1 tap0", "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24", false},
	} {
		o, err := parseLine(row.line)
		if err == nil {
			t.Errorf("%s: understood as %+v", row.line, *o)
			continue
		}
		_, usage := errors.AsType[*usageError](err)
		if err.Error() != row.want || usage != row.usage {
			t.Errorf("%s:\n got %q, usage %v\nwant %q, usage %v", row.line, err, usage, row.want, row.usage)
		}
	}
}

func TestParseCIDR(t *testing.T) {
	for s, want := range map[string]string{
		"10.0.2.0/24": "", "10.0.2.128/25": "", "172.16.0.0/12": "", "128.0.0.0/2": "",
		"10.0.2.0": "invalid CIDR", "abc": "invalid CIDR", "": "invalid CIDR", "10.0.2/24": "invalid CIDR", "/24": "invalid CIDR",
		"10.0.2.0/": "invalid CIDR", "10.0.2.0/x": "invalid CIDR", "10.0.2.0/024": "invalid CIDR", "10.0.2.0/-1": "invalid CIDR",
		" 10.0.2.0/24": "invalid CIDR", "10.0.2.0/24\n": "invalid CIDR", "fd00::/64": "invalid CIDR",
		"10.0.2.0/26": "prefix length needs to be 1-25", "10.0.2.0/0": "prefix length needs to be 1-25", "10.0.2.0/99": "prefix length needs to be 1-25",
		"010.0.2.0/24": "invalid network address: 010.0.2.0", "256.0.0.0/24": "invalid network address: 256.0.0.0",
		"10.0.2.1/24": "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24",
		"127.0.0.0/8": "invalid network address: 127.0.0.0", "0.0.0.0/1": "invalid network address: 0.0.0.0",
		"224.0.0.0/4": "invalid network address: 224.0.0.0",
	} {
		p, err := parseCIDR(s)
		switch {
		case want == "" && (err != nil || p.String() != s):
			t.Errorf("%q is %v, %v", s, p, err)
		case want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)):
			t.Errorf("%q: error %v, want %q", s, err, want)
		}
	}
}

// What is taken has a place for every address of the plan.
func FuzzCIDR(f *testing.F) {
	f.Add("10.0.2.0/24")
	f.Add("255.255.255.128/25")
	f.Add("1.2.3.4/33")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseCIDR(s)
		if err != nil {
			return
		}
		a := addressesOf(p)
		for _, addr := range []netip.Addr{a.gateway, a.dns, a.lease, a.leaseEnd, a.guest} {
			if !p.Contains(addr) || addr.IsLoopback() || addr.IsMulticast() || addr.IsUnspecified() {
				t.Errorf("%s has %v, which it may not have", s, addr)
			}
		}
	})
}

func FuzzMAC(f *testing.F) {
	f.Add("02:00:00:00:00:01")
	f.Add("2-0-0-0-0-g")
	f.Fuzz(func(t *testing.T, s string) {
		if m, err := parseMAC(s); err == nil && (m.IsZero() || m.IsMulticast()) {
			t.Errorf("%q is %v, which no station has", s, m)
		}
	})
}
