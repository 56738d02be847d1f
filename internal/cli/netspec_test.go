package cli

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/l2"
)

// C-run1: both forms of --network.
func TestParseNetwork(t *testing.T) {
	addr := netip.MustParseAddr
	for in, want := range map[string]cnm.EndpointConfig{
		"host":         {Network: "host"},
		"container:db": {Network: "container:db"},
		"name=web":     {Network: "web"},
		"name=web,alias=a,alias=b,ip=172.18.0.9,ip6=fd00::9,mac-address=02:00:00:00:00:01,link-local-ip=169.254.3.4,gw-priority=-3,driver-opt=k=v": {
			Network: "web", Aliases: []string{"a", "b"}, IPv4: addr("172.18.0.9"), IPv6: addr("fd00::9"), MAC: l2.MAC{2, 0, 0, 0, 0, 1},
			LinkLocal: []netip.Addr{addr("169.254.3.4")}, GwPriority: -3, DriverOpts: map[string]string{"k": "v"},
		},
		`NAME=Web,"driver-opt=k=a,b"`: {Network: "Web", DriverOpts: map[string]string{"k": "a,b"}},
	} {
		got, err := parseNetwork(in)
		if err != nil || !cmp.Equal(got, want, cmpopts.EquateComparable(netip.Addr{})) {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
	for in, want := range map[string]string{
		"":                           "network name/id is not specified",
		"alias=a":                    "network name/id is not specified",
		"name=,alias=a":              "network name/id is not specified",
		"name=web,x":                 "invalid field x",
		"name=web,=x":                "invalid field =x",
		"name=web,colour=red":        "invalid field key colour",
		"name=web,gw-priority=high":  "invalid gw-priority",
		"name=web,driver-opt=k":      "invalid key value pair format in driver options",
		"name=web,ip=fd00::1":        "not an IPv4 address",
		"name=web,ip6=10.0.0.1":      "not an IPv6 address",
		"name=web,link-local-ip=x":   "not an IP address",
		"name=web,mac-address=zz":    "zz",
		`name=web,"alias=unfinished`: "read fields",
	} {
		if _, err := parseNetwork(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
}

// FuzzParseNetwork: whatever is read names a network, and its addresses are of their families.
func FuzzParseNetwork(f *testing.F) {
	for _, s := range []string{"web", "name=web,ip=10.0.0.1", `name=a,"alias=b"`, "name=a,driver-opt=k=v", "container:x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := parseNetwork(s)
		if err != nil {
			return
		}
		if e.Network == "" || e.IPv4.IsValid() && !e.IPv4.Is4() || e.IPv6.IsValid() && !e.IPv6.Is6() {
			t.Errorf("%q: %+v", s, e)
		}
	})
}

// settleFlags is what flags come to.
func settleFlags(t *testing.T, line string) (*runOptions, error) {
	t.Helper()
	a := &app{}
	o := &runOptions{}
	cmd := a.runCommandWith(o)
	if err := cmd.ParseFlags(strings.Fields(line)); err != nil {
		return nil, err
	}
	return o, o.check(a, cmd.Flags())
}

// C-run1, DC1, DH1, DN1, DB1: what --network and the flags beside it come to.
func TestModes(t *testing.T) {
	for _, row := range []struct {
		flags   string
		mode    mode
		donor   string
		primary string
	}{
		{"", modePrivate, "", "private"},
		{"--network none", modeNone, "", "none"},
		{"--net host", modeHost, "", "host"},
		{"--network container:db", modeContainer, "db", "container:db"},
		{"--network bridge", modeNamed, "", "bridge"},
		{"--network default", modeNamed, "", "default"},
		{"--network web --network name=db,alias=x", modeNamed, "", "web"},
		{"--link db:x", modeNamed, "", "default"}, // LK1
		{"--expose 80", modeNamed, "", "default"}, // C-run3
		{"-P", modeNamed, "", "default"},          // C-run3
		{"--network private -P", modePrivate, "", "private"},
	} {
		o, err := settleFlags(t, row.flags)
		if err != nil || o.mode != row.mode || o.donor != row.donor || o.networks[0].Network != row.primary {
			t.Errorf("%s: %+v, %v", row.flags, o, err)
		}
	}
	for flags, want := range map[string]string{
		"--network container:":                         "invalid network mode: invalid container format container:<name|id>",
		"--network container":                          "invalid network mode: invalid container format container:<name|id>",
		"--network bridge --network web":               "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
		"--network none --network host":                "cannot attach several non-user-defined network-modes",
		"--network bridge --network-alias x":           "network-scoped aliases are only supported for user-defined networks",
		"--network name=bridge,alias=x":                "network-scoped aliases are only supported for user-defined networks",
		"--network-alias x":                            "network-scoped aliases are only supported for user-defined networks",
		"--network bridge --ip 172.17.0.9":             "user-specified IP address is supported on user-defined networks only",
		"--network name=web,ip=10.0.0.1 --ip 10.0.0.2": "conflicting options: cannot specify both --ip and per-network IPv4 address",
		"--network name=web,ip6=fd00::1 --ip6 fd00::2": "conflicting options: cannot specify both --ip6 and per-network IPv6 address",
		"--network name=web,alias=a --network-alias b": "conflicting options: cannot specify both --network-alias and per-network alias",
		"--network name=web,mac-address=02:00:00:00:00:01 --mac-address 02:00:00:00:00:02": "conflicting options: cannot specify both --mac-address and per-network MAC address",
		"--network name=web,link-local-ip=169.254.1.1 --link-local-ip 169.254.1.2":         "conflicting options: cannot specify both --link-local-ip and per-network link-local IP addresses",
		"--network name=private,ip=10.0.2.9":                                               "only a named network has further fields; use --ip",
		"--network name=none,driver-opt=a=b":                                               "only a named network has further fields",
		"--network host --ip 10.0.2.50":                                                    "user-specified IP address is supported on user-defined networks only",
		"--network none --ip6 fd00::9":                                                     "user-specified IP address is supported on user-defined networks only",
		"--network container:db --ip 10.0.2.50":                                            "user-specified IP address is supported on user-defined networks only",
		"--link-local-ip 169.254.1.1":                                                      "user-specified IP address is supported on user-defined networks only",
		"--network private --link db":                                                      "with --network private there is nobody to link to",
		"--network none --link db":                                                         "with --network none there is nobody to link to",
		"--network host --mac-address 02:00:00:00:00:01":                                   "conflicting options: mac-address and the network mode",
		"--network none --mac-address 02:00:00:00:00:01":                                   "conflicting options: mac-address and the network mode",
		// §2.8
		"--network container:db --hostname x":                    "conflicting options: hostname and the network mode",
		"--network container:db --link a:b":                      "conflicting options: container type network can't be used with links. This would result in undefined behavior",
		"--network host --link a:b":                              "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
		"--network container:db --dns 9.9.9.9":                   "conflicting options: dns and the network mode",
		"--network container:db --add-host a:1.2.3.4":            "conflicting options: custom host-to-IP mapping and the network mode",
		"--network container:db --mac-address 02:00:00:00:00:01": "conflicting options: mac-address and the network mode",
		"--network container:db -p 80:80":                        "conflicting options: port publishing and the container type network mode",
		"--network container:db -P":                              "conflicting options: port publishing and the container type network mode",
		"--network container:db --expose 80":                     "conflicting options: port exposing and the container type network mode",
	} {
		if _, err := settleFlags(t, flags); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", flags, err, want)
		}
	}
}

// -P publishes what is exposed and not published already, in a network of one's own too.
func TestPublishAllPrivate(t *testing.T) {
	o, err := settleFlags(t, "--network private -P --expose 80-81 --expose 53/udp -p 127.0.0.1:8080:80")
	if err != nil {
		t.Fatal(err)
	}
	want := []portfwd.Spec{
		{Proto: portfwd.TCP, HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 8080, Port: 80},
		{Proto: portfwd.TCP, Port: 81}, {Proto: portfwd.UDP, Port: 53},
	}
	if !slices.Equal(o.publish, want) {
		t.Errorf("published: %v, want %v", o.publish, want)
	}
}

// Flags without a network of their own are the first network's.
func TestMergeLegs(t *testing.T) {
	o, err := settleFlags(t, "--network name=web,alias=a --network db --ip 10.0.0.9 --ip6 fd00::9 --mac-address 02:00:00:00:00:01 --link c:x --link-local-ip 169.254.1.1")
	if err != nil {
		t.Fatal(err)
	}
	want := []cnm.EndpointConfig{{
		Network: "web", Aliases: []string{"a"}, Links: []string{"c:x"}, IPv4: netip.MustParseAddr("10.0.0.9"), IPv6: netip.MustParseAddr("fd00::9"),
		MAC: l2.MAC{2, 0, 0, 0, 0, 1}, LinkLocal: []netip.Addr{netip.MustParseAddr("169.254.1.1")},
	}, {Network: "db"}}
	if !cmp.Equal(o.networks, want, cmpopts.EquateComparable(netip.Addr{})) {
		t.Errorf("legs %+v", o.networks)
	}
	s := (&app{}).newSession("run", &o.netOptions, []string{"true"})
	if c := o.sandboxConfig(&o.netOptions, s.entry); c.Links != nil || len(c.ID) != 64 || c.Name != c.ID[:12] {
		t.Errorf("LK7: %+v", c)
	}
	// LK1: links of the default network are the sandbox's.
	if o, err = settleFlags(t, "--link db:webdb --name web"); err != nil {
		t.Fatal(err)
	}
	s = (&app{}).newSession("run", &o.netOptions, []string{"true"})
	if c := o.sandboxConfig(&o.netOptions, s.entry); !cmp.Equal(c.Links, []string{"db:webdb"}) || c.Networks[0].Links != nil || c.Name != "web" {
		t.Errorf("LK1: %+v", c)
	}
}

// C-run3, LK4
func TestParseExpose(t *testing.T) {
	got, err := parseExpose("80-82/UDP")
	want := []portfwd.Spec{{Proto: portfwd.UDP, Port: 80}, {Proto: portfwd.UDP, Port: 81}, {Proto: portfwd.UDP, Port: 82}}
	if err != nil || !cmp.Equal(got, want, cmpopts.EquateComparable(netip.Addr{})) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "0", "x", "80-", "-80", "82-80", "80/", "80/icmp", "65536", "1-65536", "80:80"} {
		if got, err := parseExpose(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

// LK3: links copy what the user gave, with the values that names alone take.
func TestGivenEnv(t *testing.T) {
	o := &runOptions{env: []string{"doc=docker", "HOME", "ABSENT"}}
	if got := o.givenEnv([]string{"HOME=/root", "X=y"}); !cmp.Equal(got, []string{"doc=docker", "HOME=/root"}) {
		t.Errorf("%q", got)
	}
}
