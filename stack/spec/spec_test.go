package spec_test

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"

	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// What control says arrives in the datapath as it was said: every field travels.
func TestTravels(t *testing.T) {
	full := []any{
		&spec.Network{
			ID: "n1", Name: "web", MTU: 1500,
			Subnet4: netip.MustParsePrefix("10.0.2.0/24"), Subnet6: netip.MustParsePrefix("fd00::/64"),
			Gateway4: netip.MustParseAddr("10.0.2.2"), Gateway6: netip.MustParseAddr("fd00::2"),
			DNS4: netip.MustParseAddr("10.0.2.3"), DNS6: netip.MustParseAddr("fd00::3"),
			DNSSearch: []string{"example.org"}, GatewayMAC: l2.MAC{2, 0, 0, 0, 0, 2},
			NoNames: true, Apart: true, NoGateway: true,
			Policy: spec.Policy{
				NoEgress: true, HostLoopback: true, HostUnreachable: true, Metadata: true,
				Refuse: []spec.Refused{{Prefix: netip.MustParsePrefix("192.0.2.9/32"), Proto: "udp", Port: 4789}},
				Maps:   []spec.AddrMap{{From: netip.MustParseAddr("169.254.1.2"), To: netip.MustParseAddr("127.0.0.1")}},
				NoTCP:  true, NoUDP: true, NoICMP: true,
			},
			AnyNeighbour: true,
			Autoconf: spec.Autoconf{
				NoDHCP4: true, NoDHCP6: true, NoRA: true, NoNDP: true, Lease: netip.MustParseAddr("10.0.2.15"), Lease6: netip.MustParseAddr("fd00::100"),
				NoDHCPDNS: true, NoDHCPSearch: true, Hostname: "web", FQDN: "web.example.org",
			},
			Outbound4: netip.MustParseAddr("192.0.2.1"), Outbound6: netip.MustParseAddr("2001:db8::1"),
			OutboundDevice4: "eth0", OutboundDevice6: "eth1",
			Limits: spec.Limits{TCPFlows: 1, TCPHandshakes: 2, UDPFlows: 3, PingFlows: 4, DNSQueries: 5, UDPIdleMillis: 6},
		},
		&spec.Endpoint{
			ID: "c1", Interface: "eth0", MAC: l2.MAC{2, 0, 0, 0, 0, 1},
			Addrs:  []netip.Addr{netip.MustParseAddr("10.0.2.100"), netip.MustParseAddr("fd00::100")},
			Strict: true, Names: []string{"c1"},
			Resolver: spec.Resolver{
				Networks: []string{"n1", "n2"}, Links: map[string][]string{"db": {"c2"}},
				Upstreams: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}, Closed: true, NDots: true,
			},
			Accept: []spec.Accept{{From: "c2", Proto: "tcp", Port: 80}},
		},
		&spec.Stats{Drops: map[string]uint64{"frame-runt": 1}, TCPFlows: 2, UDPFlows: 3, PingFlows: 4, Endpoints: 5, Ports: 6},
	}
	for _, v := range full {
		for f, value := range reflect.ValueOf(v).Elem().Fields() {
			if value.IsZero() {
				t.Errorf("%T.%s is not tried here: give it a value", v, f.Name)
			}
		}
	}
	for _, v := range append(full, &spec.Network{}, &spec.Endpoint{}, &spec.Stats{}) {
		want := reflect.ValueOf(v).Elem()
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		got := reflect.New(want.Type())
		if err := json.Unmarshal(b, got.Interface()); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if !reflect.DeepEqual(got.Elem().Interface(), want.Interface()) {
			t.Errorf("%+v became %+v", want, got.Elem())
		}
	}
}
