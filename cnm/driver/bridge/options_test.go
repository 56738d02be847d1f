package bridge

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/usernet/usernet/cnm/driver"
	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/stack/spec"
)

// network returns a Network with both families; the tests change what they are about.
func testNetwork(id string) driver.Network {
	return driver.Network{
		ID: id, Name: "web", IPv4: true,
		Subnets: []driver.Subnet{
			{Prefix: netip.MustParsePrefix("172.18.0.0/16"), Gateway: netip.MustParseAddr("172.18.0.1")},
			{Prefix: netip.MustParsePrefix("fd00::/64"), Gateway: netip.MustParseAddr("fd00::1")},
		},
	}
}

const testID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func create(t *testing.T, n driver.Network) (driver.Segment, error) {
	t.Helper()
	return New().CreateNetwork(t.Context(), n)
}

// DU8, C-cr11: options with bad values have Docker's text and code 400.
func TestBadOptions(t *testing.T) {
	for _, row := range []struct{ key, value, want string }{
		{OptICC, "x", `failed to parse com.docker.network.bridge.enable_icc: x (strconv.ParseBool: parsing "x": invalid syntax)`},
		{OptMasquerade, "", `failed to parse com.docker.network.bridge.enable_ip_masquerade:  (strconv.ParseBool: parsing "": invalid syntax)`},
		{OptInhibitIPv4, "2", `failed to parse com.docker.network.bridge.inhibit_ipv4: 2 (strconv.ParseBool: parsing "2": invalid syntax)`},
		{OptDefault, "x", `failed to parse com.docker.network.bridge.default_bridge: x (strconv.ParseBool: parsing "x": invalid syntax)`},
		{OptHostLoopback, "x", `failed to parse usernet.host_loopback: x (strconv.ParseBool: parsing "x": invalid syntax)`},
		{driver.OptIPv4, "x", `failed to parse com.docker.network.enable_ipv4: x (strconv.ParseBool: parsing "x": invalid syntax)`},
		{driver.OptIPv6, "x", `failed to parse com.docker.network.enable_ipv6: x (strconv.ParseBool: parsing "x": invalid syntax)`},
		{OptBind, "x", `failed to parse com.docker.network.bridge.host_binding_ipv4: x (nil ip)`},
		{OptBind, "::1", `failed to parse com.docker.network.bridge.host_binding_ipv4: ::1 (not an IPv4 address)`},
		{driver.OptHostIPv4, "fe80::1%eth0", `failed to parse com.docker.network.host_ipv4: fe80::1%eth0 (nil ip)`},
		{driver.OptHostIPv6, "10.0.0.1", `failed to parse com.docker.network.host_ipv6: 10.0.0.1 (not an IPv6 address)`},
		{OptMode4, "x", `failed to parse com.docker.network.bridge.gateway_mode_ipv4: x (unknown gateway mode x)`},
		{OptMode6, "", `failed to parse com.docker.network.bridge.gateway_mode_ipv6:  (unknown gateway mode )`},
		{OptMode4, "isolated", `gateway mode 'isolated' can only be used for an internal network`},
		{driver.OptMTU, "x", `failed to parse com.docker.network.driver.mtu: x (strconv.Atoi: parsing "x": invalid syntax)`},
		{driver.OptMTU, "-1", `invalid MTU number: -1`},
		{driver.OptMTU, "67", `invalid MTU number: 67`},
		{driver.OptMTU, "65522", `invalid MTU number: 65522`},
		{driver.OptIfacePrefix, "a/b", `failed to parse com.docker.network.container_iface_prefix: a/b (interface name has characters that are not allowed in one)`},
		{driver.OptIfacePrefix, "abcdefghijklmn", `failed to parse com.docker.network.container_iface_prefix: abcdefghijklmn (interface name is longer than 15 bytes)`},
		{OptName, "an interface", `failed to parse com.docker.network.bridge.name: an interface (interface name has characters that are not allowed in one)`},
		{optAdvertise, "4", `failed to parse com.docker.network.advertise_addr_nmsgs: 4 (want 0 to 3)`},
		{optAdvertiseMs, "99", `failed to parse com.docker.network.advertise_addr_ms: 99 (want 100 to 2000)`},
	} {
		n := testNetwork(testID)
		n.Options = map[string]string{row.key: row.value}
		_, err := create(t, n)
		if err == nil || err.Error() != row.want || fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s=%s: %v (kind %d)\nwant %s", row.key, row.value, err, fault.KindOf(err), row.want)
		}
	}
}

// DU8: what each option makes of the datapath's Network.
func TestOptions(t *testing.T) {
	gw4, gw6 := netip.MustParseAddr("172.18.0.1"), netip.MustParseAddr("fd00::1")
	both := func(n *driver.Network) { n.IPv6 = true }
	internal := func(n *driver.Network) { n.IPv6, n.Internal = true, true }
	for _, row := range []struct {
		name    string
		options string // KEY=VALUE, by spaces
		change  func(*driver.Network)
		check   func(s driver.Segment) bool
	}{
		{name: "defaults, DB4 DU1", check: func(s driver.Segment) bool {
			n := s.Network
			return n.ID == testID && n.Name == "web" && n.MTU == 1500 && n.Subnet4.String() == "172.18.0.0/16" && !n.Subnet6.IsValid() &&
				n.Gateway4 == gw4 && n.DNS4 == gw4 && !n.Gateway6.IsValid() && n.GatewayMAC.String() == "02:42:ac:12:00:01" &&
				!n.NoNames && !n.Apart && !n.NoGateway && !n.Policy.NoEgress && !n.Policy.HostLoopback && len(n.Policy.Refuse) == 0 &&
				s.Default4 == gw4 && !s.Default6.IsValid() && s.Publish4 == driver.PublishHost && s.Publish6 == driver.PublishNone &&
				!s.Bind.IsValid() && s.Warning == ""
		}},
		{name: "both families", change: both, check: func(s driver.Segment) bool {
			return s.Network.Gateway6 == gw6 && s.Network.DNS6 == gw6 && s.Default6 == gw6 && s.Publish6 == driver.PublishHost
		}},
		{name: "v6 only", change: func(n *driver.Network) { n.IPv4, n.IPv6 = false, true }, check: func(s driver.Segment) bool {
			return !s.Network.Subnet4.IsValid() && s.Network.GatewayMAC.String() == "02:42:00:00:00:01" && !s.Default4.IsValid() && s.Default6 == gw6
		}},
		{name: "icc", options: OptICC + "=false", check: func(s driver.Segment) bool { return s.Network.Apart }},
		{name: "masquerade", options: OptMasquerade + "=false", check: func(s driver.Segment) bool {
			return s.Network.Policy.NoEgress && s.Publish4 == driver.PublishHost && strings.Contains(s.Warning, "network web reach nothing outside")
		}},
		{name: "the default bridge, DB2 DB6", options: OptDefault + "=true", check: func(s driver.Segment) bool { return s.Network.NoNames }},
		{name: "MTU", options: driver.OptMTU + "=9000", check: func(s driver.Segment) bool { return s.Network.MTU == 9000 }},
		{name: "the largest MTU", options: driver.OptMTU + "=65521", check: func(s driver.Segment) bool { return s.Network.MTU == 65521 }},
		{name: "binding", options: OptBind + "=127.0.0.1", check: func(s driver.Segment) bool { return s.Bind.String() == "127.0.0.1" }},
		{name: "binding to all", options: OptBind + "=0.0.0.0", check: func(s driver.Segment) bool { return !s.Bind.IsValid() }},
		{name: "outbound", options: driver.OptHostIPv4 + "=192.0.2.1 " + driver.OptHostIPv6 + "=2001:db8::1", check: func(s driver.Segment) bool {
			return s.Network.Outbound4.String() == "192.0.2.1" && s.Network.Outbound6.String() == "2001:db8::1"
		}},
		{name: "host loopback", options: OptHostLoopback + "=1", check: func(s driver.Segment) bool { return s.Network.Policy.HostLoopback }},
		{name: "internal, C-cr5", change: internal, check: func(s driver.Segment) bool {
			return s.Network.Policy.NoEgress && s.Network.Gateway4 == gw4 && !s.Network.NoGateway && !s.Default4.IsValid() && !s.Default6.IsValid() &&
				s.Publish4 == driver.PublishNone && s.Publish6 == driver.PublishNone && s.Warning == ""
		}},
		{name: "isolated", change: internal, options: OptMode4 + "=isolated " + OptMode6 + "=isolated", check: func(s driver.Segment) bool {
			return s.Network.NoGateway && s.Network.Policy.NoEgress && !s.Network.Gateway4.IsValid() && !s.Network.Gateway6.IsValid()
		}},
		{name: "isolated in one family", change: internal, options: OptMode4 + "=isolated", check: func(s driver.Segment) bool {
			return !s.Network.NoGateway && s.Network.Policy.NoEgress && !s.Network.Gateway4.IsValid() && s.Network.Gateway6 == gw6
		}},
		{name: "routed", options: OptMode4 + "=routed", check: func(s driver.Segment) bool {
			return s.Network.Policy.NoEgress && s.Publish4 == driver.PublishOwn && s.Default4 == gw4 && s.Warning != ""
		}},
		{name: "routed v6, nat v4", change: both, options: OptMode6 + "=routed", check: func(s driver.Segment) bool {
			p := s.Network.Policy
			return !p.NoEgress && len(p.Refuse) == 1 && p.Refuse[0] == spec.Refused{Prefix: netip.MustParsePrefix("::/0")} &&
				s.Publish4 == driver.PublishHost && s.Publish6 == driver.PublishOwn
		}},
		{name: "unprotected", options: OptMode4 + "=nat-unprotected", check: func(s driver.Segment) bool {
			return s.Publish4 == driver.PublishOpen && !s.Network.Policy.NoEgress
		}},
		{name: "inhibit", options: OptInhibitIPv4 + "=true", check: func(s driver.Segment) bool {
			return !s.Network.Gateway4.IsValid() && s.Network.Subnet4.IsValid() && s.Default4 == gw4
		}},
		{name: "aux gateways", change: func(n *driver.Network) {
			n.IPv6 = true
			n.Subnets[0].Aux = map[string]netip.Addr{"DefaultGatewayIPv4": netip.MustParseAddr("172.18.9.9"), "other": netip.MustParseAddr("172.18.9.8")}
			n.Subnets[1].Aux = map[string]netip.Addr{"DefaultGatewayIPv6": netip.MustParseAddr("fd00::99")}
		}, check: func(s driver.Segment) bool {
			return s.Default4.String() == "172.18.9.9" && s.Default6.String() == "fd00::99" && s.Network.Gateway4 == gw4
		}},
		{name: "trusted interfaces", options: OptTrusted + "=eth0:eth1", check: func(s driver.Segment) bool { return strings.Contains(s.Warning, "no effect") }},
		{name: "others' options", options: "com.docker.compose.project=x foo=bar " + optAdvertise + "=0", check: func(s driver.Segment) bool { return s.Warning == "" }},
	} {
		t.Run(row.name, func(t *testing.T) {
			n := testNetwork(testID)
			n.Options = map[string]string{}
			for kv := range strings.FieldsSeq(row.options) {
				k, v, _ := strings.Cut(kv, "=")
				n.Options[k] = v
			}
			if row.change != nil {
				row.change(&n)
			}
			s, err := create(t, n)
			if err != nil {
				t.Fatal(err)
			}
			if !row.check(s) {
				t.Errorf("%+v\nof %+v", s, *s.Network)
			}
		})
	}
}

// What makes no Network, in Docker's words.
func TestBadNetworks(t *testing.T) {
	second := driver.Subnet{Prefix: netip.MustParsePrefix("172.19.0.0/16")}
	for _, row := range []struct {
		change func(*driver.Network)
		kind   fault.Kind
		want   string
	}{
		{func(n *driver.Network) { n.IPv4 = false }, fault.Invalid, "IPv4 or IPv6 must be enabled"},
		{func(n *driver.Network) { n.Subnets = nil }, fault.Invalid, "ipv4 pool is empty"},
		{func(n *driver.Network) { n.Subnets[0].Prefix = netip.MustParsePrefix("0.0.0.0/0") }, fault.Invalid, "ipv4 pool is empty"},
		{func(n *driver.Network) { n.Subnets, n.IPv6 = n.Subnets[:1], true }, fault.Invalid, "ipv6 pool is empty"},
		{func(n *driver.Network) { n.Subnets = append(n.Subnets, second) }, fault.Forbidden, "bridge driver doesn't support multiple subnets"},
		{func(n *driver.Network) { n.IPv6 = true; n.Options = map[string]string{driver.OptMTU: "1279"} }, fault.Invalid, "invalid MTU number: 1279"},
		{func(n *driver.Network) {
			n.Subnets[0].Aux = map[string]netip.Addr{"DefaultGatewayIPv4": netip.MustParseAddr("10.0.0.1")}
		}, fault.Invalid, "default gateway ip must be part of the network"},
		{func(n *driver.Network) { n.IPv6 = true; n.Subnets[1].Prefix = netip.MustParsePrefix("ff00::/64") }, fault.Invalid,
			"multicast subnet 'ff00::/64' is not allowed"},
		{func(n *driver.Network) { n.IPv6 = true; n.Subnets[1].Prefix = netip.MustParsePrefix("fe80::/80") }, fault.Invalid,
			"'fe80::/80' clashes with the Link-Local prefix 'fe80::/64'"},
		{func(n *driver.Network) {
			n.IPv6 = true
			n.Subnets[1].Prefix = netip.MustParsePrefix("::ffff:10.0.0.0/112")
		}, fault.Invalid,
			"'::ffff:10.0.0.0/112' is not a valid IPv6 subnet"},
	} {
		n := testNetwork(testID)
		row.change(&n)
		d := New()
		if _, err := d.CreateNetwork(t.Context(), n); err == nil || err.Error() != row.want || fault.KindOf(err) != row.kind {
			t.Errorf("%v (kind %d), want %s", err, fault.KindOf(err), row.want)
		}
		if len(d.networks) > 0 {
			t.Errorf("%s: a network is left", row.want)
		}
	}
}

// Which networks want a gateway address.
func TestGateways(t *testing.T) {
	for _, row := range []struct {
		options  map[string]string
		internal bool
		v4, v6   bool
	}{
		{nil, false, true, true},
		{nil, true, true, true},
		{map[string]string{OptMode4: "isolated"}, true, false, true},
		{map[string]string{OptMode6: "isolated"}, true, true, false},
		{map[string]string{OptInhibitIPv4: "true"}, false, true, true},
		{map[string]string{OptInhibitIPv4: "true"}, true, false, true},
	} {
		v4, v6, err := New().Gateways(driver.Network{ID: testID, IPv4: true, Options: row.options, Internal: row.internal})
		if err != nil || v4 != row.v4 || v6 != row.v6 {
			t.Errorf("%v: %v %v %v", row, v4, v6, err)
		}
	}
	if _, _, err := New().Gateways(driver.Network{ID: testID, Options: map[string]string{OptMode4: "isolated"}}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("isolated and not internal: %v", err)
	}
}

// No option and no value of one makes the driver panic or the datapath's Network wrong.
func FuzzOptions(f *testing.F) {
	for key := range setters {
		f.Add(key, "true")
		f.Add(key, "1500")
	}
	f.Add(OptMode4, "routed")
	f.Fuzz(func(t *testing.T, key, value string) {
		n := testNetwork(testID)
		n.IPv6, n.Options = true, map[string]string{key: value}
		s, err := create(t, n)
		if err != nil {
			return
		}
		if m := s.Network.MTU; m < 1280 || m > 65521 || s.Network.GatewayMAC.IsZero() {
			t.Errorf("%s=%s: %+v", key, value, s.Network)
		}
	})
}
