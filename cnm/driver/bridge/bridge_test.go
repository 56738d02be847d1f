package bridge

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/usernet/usernet/cnm/driver"
	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/stack/l2"
)

func made(t *testing.T, n driver.Network) *Driver {
	t.Helper()
	d := New()
	if _, err := d.CreateNetwork(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	return d
}

func refused(t *testing.T, err error, kind fault.Kind, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) || fault.KindOf(err) != kind {
		t.Errorf("error %v (kind %d), want %q (kind %d)", err, fault.KindOf(err), text, kind)
	}
}

var addr4 = netip.MustParsePrefix("172.18.0.2/16")

// LC2–LC5, M5, LC6: the life of an Endpoint, and every step out of its order.
func TestLifecycle(t *testing.T) {
	ctx := t.Context()
	d := New()
	_, err := d.CreateEndpoint(ctx, testID, driver.Endpoint{ID: "e"})
	refused(t, err, fault.NotFound, "network not found: "+testID)
	refused(t, d.DeleteNetwork(ctx, testID), fault.NotFound, "network not found")

	if _, err := d.CreateNetwork(ctx, testNetwork(testID)); err != nil { // LC2
		t.Fatal(err)
	}
	_, err = d.CreateNetwork(ctx, testNetwork(testID))
	refused(t, err, fault.Forbidden, "network "+testID+" exists")
	_, err = d.Join(ctx, testID, "e", "s")
	refused(t, err, fault.NotFound, "endpoint not found: e")

	e, err := d.CreateEndpoint(ctx, testID, driver.Endpoint{ID: "e", Addr4: addr4}) // LC3
	if err != nil || e.Addr4 != addr4 {
		t.Fatal(e, err)
	}
	_, err = d.CreateEndpoint(ctx, testID, driver.Endpoint{ID: "e"})
	refused(t, err, fault.Forbidden, "endpoint e exists")
	refused(t, d.DeleteNetwork(ctx, testID), fault.Forbidden, "has active endpoints") // LC6
	_, err = d.Join(ctx, testID, "e", "")
	refused(t, err, fault.Invalid, "no sandbox")

	leg, err := d.Join(ctx, testID, "e", "s") // LC4
	if err != nil || leg.Plain || leg.Prefix != "eth" || leg.Name != "" || leg.MTU != 1500 || leg.MAC != e.MAC || leg.Addr4 != addr4 {
		t.Fatalf("%+v %v", leg, err)
	}
	_, err = d.Join(ctx, testID, "e", "s2") // M5: one sandbox
	refused(t, err, fault.Forbidden, "endpoint e is in sandbox s")
	refused(t, d.DeleteEndpoint(ctx, testID, "e"), fault.Forbidden, "endpoint with name e id e has active containers")

	for range 2 { // LC5
		if err := d.Leave(ctx, testID, "e"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Join(ctx, testID, "e", "s2"); err != nil {
		t.Error(err)
	}
	for _, err := range []error{d.Leave(ctx, testID, "e"), d.DeleteEndpoint(ctx, testID, "e"), d.DeleteNetwork(ctx, testID)} {
		if err != nil {
			t.Error(err)
		}
	}
	refused(t, d.DeleteNetwork(ctx, testID), fault.NotFound, "network not found")
}

// Two networks are two bridges: DU2.
func TestConflicts(t *testing.T) {
	d := made(t, testNetwork(testID))
	other := func(change func(*driver.Network)) error {
		n := testNetwork("f" + testID[1:])
		n.Subnets = []driver.Subnet{{Prefix: netip.MustParsePrefix("172.19.0.0/16"), Gateway: netip.MustParseAddr("172.19.0.1")}}
		change(&n)
		_, err := d.CreateNetwork(t.Context(), n)
		return err
	}
	refused(t, other(func(n *driver.Network) { n.Options = map[string]string{OptName: "br-0123456789ab"} }), fault.Forbidden,
		"cannot create network f"+testID[1:]+" (br-0123456789ab): conflicts with network "+testID+" (br-0123456789ab): networks have same bridge name")
	refused(t, other(func(n *driver.Network) { n.Subnets[0].Prefix = netip.MustParsePrefix("172.18.4.0/24") }), fault.Forbidden,
		"networks have overlapping IPv4")
	if err := other(func(*driver.Network) {}); err != nil {
		t.Error(err)
	}
}

// MAC addresses of both profiles; M8: no two of a network are the same.
func TestMACs(t *testing.T) {
	n := testNetwork(testID)
	n.DerivedMAC = true
	d := made(t, n)
	e, err := d.CreateEndpoint(t.Context(), testID, driver.Endpoint{ID: "derived", Addr4: addr4})
	if err != nil || e.MAC.String() != "02:42:ac:12:00:02" {
		t.Errorf("20.10: %v %v", e.MAC, err)
	}
	d = made(t, testNetwork(testID))
	seen := map[l2.MAC]bool{}
	for i := range 1000 {
		e, err := d.CreateEndpoint(t.Context(), testID, driver.Endpoint{ID: fmt.Sprint(i), Addr4: addr4})
		if err != nil || seen[e.MAC] || e.MAC[0]&3 != 2 {
			t.Fatalf("random: %v %v", e.MAC, err)
		}
		seen[e.MAC] = true
	}
	own := l2.MAC{0x92, 1, 2, 3, 4, 5}
	if e, err := d.CreateEndpoint(t.Context(), testID, driver.Endpoint{ID: "own", MAC: own}); err != nil || e.MAC != own {
		t.Errorf("the user's: %v %v", e.MAC, err)
	}
	for mac, want := range map[l2.MAC]string{
		own:                          "in use on network web",
		{0x02, 0x42, 0xac, 18, 0, 1}: "is the gateway's",
	} {
		_, err := d.CreateEndpoint(t.Context(), testID, driver.Endpoint{ID: "x", MAC: mac})
		refused(t, err, fault.Forbidden, want)
	}
	_, err = d.CreateEndpoint(t.Context(), testID, driver.Endpoint{ID: "x", MAC: l2.MAC{0x93}})
	refused(t, err, fault.Invalid, "invalid MAC address")
}

// Options of endpoints: the interface's name and its sysctls.
func TestEndpointOptions(t *testing.T) {
	n := testNetwork(testID)
	n.Options = map[string]string{driver.OptIfacePrefix: "net", driver.OptMTU: "1400"}
	d := made(t, n)
	leg := func(options map[string]string) (driver.Leg, error) {
		if _, err := d.CreateEndpoint(t.Context(), testID, driver.Endpoint{ID: "e", Addr4: addr4, Options: options}); err != nil {
			return driver.Leg{}, err
		}
		leg, err := d.Join(t.Context(), testID, "e", "s")
		for _, err := range []error{d.Leave(t.Context(), testID, "e"), d.DeleteEndpoint(t.Context(), testID, "e")} {
			if err != nil {
				t.Error(err)
			}
		}
		return leg, err
	}
	got, err := leg(map[string]string{driver.OptIfname: "front0", driver.OptSysctls: "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.ifname.accept_ra=2"})
	if err != nil || got.Name != "front0" || got.Prefix != "net" {
		t.Fatalf("%+v %v", got, err)
	}
	link := got.Link("e", "front0")
	want := map[string]string{"net.ipv4.conf.front0.log_martians": "1", "net.ipv6.conf.front0.accept_ra": "2"}
	if fmt.Sprint(link.Sysctls) != fmt.Sprint(want) || link.EndpointID != "e" || link.MTU != 1400 || link.Addr4 != addr4 {
		t.Errorf("%+v", link)
	}
	_, err = leg(map[string]string{driver.OptIfname: "a b"})
	refused(t, err, fault.Invalid, "failed to parse com.docker.network.endpoint.ifname: a b")
	_, err = leg(map[string]string{driver.OptSysctls: "net.ipv4.conf.eth0.log_martians=1"})
	refused(t, err, fault.Invalid, "unrecognised network interface sysctl 'net.ipv4.conf.eth0.log_martians=1'; represent "+
		"'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'")
}

func TestParallel(t *testing.T) {
	d := made(t, testNetwork(testID))
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			ctx := context.Background()
			for j := range 100 {
				id := fmt.Sprint(i, "-", j)
				if _, err := d.CreateEndpoint(ctx, testID, driver.Endpoint{ID: id}); err != nil {
					t.Error(err)
				}
				if _, err := d.Join(ctx, testID, id, "s"); err != nil {
					t.Error(err)
				}
				for _, err := range []error{d.Leave(ctx, testID, id), d.DeleteEndpoint(ctx, testID, id)} {
					if err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if err := d.DeleteNetwork(t.Context(), testID); err != nil {
		t.Error(err)
	}
}
