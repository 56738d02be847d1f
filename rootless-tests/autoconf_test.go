package rootlesstests

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// Guests that configure themselves, with real clients: a sandbox throws away what `usernet run` configured and
// asks for it again.

// guest is a sandbox with an unusual network, in which nothing matches by accident.
func guest(t *testing.T, r *rig.Rig, name string) *rig.Sandbox {
	t.Helper()
	return r.Run(t, "--name", name, "--subnet", "10.9.0.0/16", "--ip", "10.9.3.77", "--subnet", "fd77::/64", "--ip6", "fd77::4d",
		"--mtu", "1400", "--dns-search", "corp.example")
}

// writeScript writes a program that a sandbox can run.
func writeScript(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(file, []byte("#!/bin/sh -e\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// assignments reads what `env` wrote.
func assignments(out string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(out) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			m[k] = v
		}
	}
	return m
}

// wantAll compares what a client was told.
func wantAll(t *testing.T, got, want map[string]string) {
	t.Helper()
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s is %q, want %q; all: %v", k, got[k], v, got)
		}
	}
}

// wantReach checks that a sandbox reaches the internet.
func wantReach(t *testing.T, r *rig.Rig, sb *rig.Sandbox, to netip.Addr) {
	t.Helper()
	c := sb.DialTCP(t, serveEcho(t, r.X1, to))
	wantSmallEcho(t, c)
}

// DHCPv4 with udhcpc: the lease is the address that the endpoint has anyway, and with what it says alone the
// network works, whatever address the client would like.
func TestDHCPv4(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := guest(t, r, "dhcp4")
	sb.Run(t, "ip", "-4", "addr", "flush", "dev", "eth0")
	script := writeScript(t, `
case $1 in bound)
	env
	ip addr add "$ip/$mask" dev "$interface"
	ip route add default via "$router"
esac`)
	got := assignments(sb.Run(t, "busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "5", "-T", "1", "-s", script,
		"-r", "10.9.3.78", "-O", "mtu", "-O", "search", "-O", "hostname"))
	wantAll(t, got, map[string]string{
		"ip": "10.9.3.77", "mask": "16", "router": "10.9.0.2", "dns": "10.9.0.3", "serverid": "10.9.0.2", "lease": "86400",
		"mtu": "1400", "search": "corp.example", "hostname": "dhcp4",
	})
	wantReach(t, r, sb, rig.X1v4)
}

// A router advertisement as the kernel takes it: the default route and the prefix, but no address that
// the switch would not let it use.
func TestRouterAdvertisement(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := guest(t, r, "ra")
	out := sb.Run(t, "rdisc6", "-1", "eth0")
	for _, want := range []string{"fd77::/64", "fd77::3", "corp.example"} {
		if !strings.Contains(out, want) {
			t.Errorf("advertisement has no %s:\n%s", want, out)
		}
	}
	for _, kv := range []string{"accept_ra=1", "autoconf=1", "accept_ra_defrtr=1", "accept_ra_pinfo=1"} {
		sb.Run(t, "sysctl", "-qw", "net.ipv6.conf.eth0."+kv)
	}
	// The kernel solicits when an interface comes up, and forgets its IPv6 addresses and routes when it goes down.
	sb.Run(t, "ip", "link", "set", "eth0", "down")
	sb.Run(t, "ip", "link", "set", "eth0", "up")
	rig.WaitFor(t, rig.Patience, "default route", func() bool {
		return strings.Contains(sb.Run(t, "ip", "-6", "route", "show", "default", "proto", "ra"), "via fe80:")
	})
	if out := sb.Run(t, "ip", "-6", "route", "show", "fd77::/64"); !strings.Contains(out, "dev eth0") {
		t.Errorf("the prefix is not on the link:\n%s", sb.Run(t, "ip", "-6", "route"))
	}
	if out := sb.Run(t, "ip", "-6", "addr", "show", "dev", "eth0", "scope", "global"); out != "" {
		t.Errorf("the kernel made an address:\n%s", out)
	}
	sb.Run(t, "ip", "addr", "add", "fd77::4d/128", "dev", "eth0", "nodad")
	wantReach(t, r, sb, rig.X1v6)
}

// DHCPv6 with dhclient, which asks for what an advertisement may lack.
func TestDHCPv6(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := guest(t, r, "dhcp6")
	dir := t.TempDir()
	script := writeScript(t, `env >>`+dir+"/env\n")
	out := sb.Run(t, "timeout", "20", "dhclient", "-6", "-S", "-1", "-d", "-q", "-sf", script, "-cf", "/dev/null",
		"-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid"), "eth0")
	b, err := os.ReadFile(filepath.Join(dir, "env"))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wantAll(t, assignments(string(b)), map[string]string{
		"new_dhcp6_name_servers": "fd77::3", "new_dhcp6_domain_search": "corp.example.",
	})
}
