package cli

import (
	"slices"
	"strings"
	"testing"
)

// Bad settings are refused before anything is there; one given twice too.
func TestDaemonRefuses(t *testing.T) {
	for args, want := range map[string]string{
		"--bip x": "invalid CIDR address: x", "--default-address-pool base=x": "base", "--default-network-opt bridge": "DRIVER=KEY=VALUE",
		"--dns x": "not an IP address", "--mtu x": "--mtu", "--compat 1": "unknown version", "--idle-timeout x": "--idle-timeout", "--nope": "unknown flag",
	} {
		if got := invoke(t, append([]string{"daemon"}, strings.Fields(args)...)...); got.code != 125 || !strings.Contains(got.stderr, want) {
			t.Errorf("%s: %+v", args, got)
		}
	}
	if got := invoke(t, "daemon", "x"); got.code != 1 || !strings.Contains(got.stderr, "accepts no arguments") {
		t.Errorf("%+v", got)
	}
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_STATE_HOME", "")
	if got := invoke(t, "daemon", "--host", "tcp://127.0.0.1:1"); got.code != 1 || !strings.Contains(got.stderr, "unix:///PATH") {
		t.Errorf("%+v", got)
	}
}

// The settings that flags come to.
func TestDaemonFlags(t *testing.T) {
	o := &daemonOptions{}
	cmd := (&app{}).daemonCommandWith(o)
	args := "--default-address-pool base=10.10.0.0/16,size=24 --default-network-opt bridge=com.docker.network.driver.mtu=1400 --dns 9.9.9.9 --icc=false --bip 10.9.0.1/24 -H unix:///run/x.sock --compat 20.10"
	if err := cmd.ParseFlags(strings.Fields(args)); err != nil {
		t.Fatal(err)
	}
	src := o.source(cmd.Flags())
	if got, want := strings.Join(src.Set, " "), "hosts default-address-pools default-network-opts dns bip icc"; slices.Compare(slices.Sorted(strings.FieldsSeq(got)), slices.Sorted(strings.FieldsSeq(want))) != 0 {
		t.Errorf("set %s", got)
	}
	f := src.Flags
	if f.DefaultAddressPools[0].Size != 24 || f.DefaultNetworkOpts["bridge"]["com.docker.network.driver.mtu"] != "1400" || f.ICC == nil || *f.ICC ||
		f.Masquerade != nil || f.BIP.String() != "10.9.0.1/24" || o.compat != "20.10" {
		t.Errorf("%+v", f)
	}
}
