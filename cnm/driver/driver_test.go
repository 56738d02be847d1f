package driver_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/usernet/usernet/cnm/driver"
	"github.com/usernet/usernet/cnm/driver/bridge"
	"github.com/usernet/usernet/cnm/driver/host"
	"github.com/usernet/usernet/cnm/driver/null"
	"github.com/usernet/usernet/cnm/fault"
)

func refused(t *testing.T, err error, kind fault.Kind, text string) {
	t.Helper()
	if err == nil || err.Error() != text || fault.KindOf(err) != kind {
		t.Errorf("error %v (kind %d), want %q (kind %d)", err, fault.KindOf(err), text, kind)
	}
}

// M1, M10, LC1, C-cr3: drivers register and are found by name.
func TestRegistry(t *testing.T) {
	var r driver.Registry
	for _, d := range []driver.Driver{bridge.New(), null.New(), host.New()} {
		if err := r.Register(d); err != nil {
			t.Fatal(err)
		}
		if got, err := r.Get(d.Type()); err != nil || got != d {
			t.Errorf("%s: %v %v", d.Type(), got, err)
		}
		if c := d.Capability(); c.Data != driver.Local || c.Connectivity != driver.Local { // DB5
			t.Errorf("%s: %v", d.Type(), c)
		}
	}
	refused(t, r.Register(bridge.New()), fault.Forbidden, `driver already registered for type "bridge"`)
	refused(t, r.Register(driver.NewPlain("")), fault.Invalid, "register driver: its type is empty")
	_, err := r.Get("foo")
	refused(t, err, fault.NotFound, "could not find plugin foo in v1 plugin registry: plugin not found")
}

// DN1, DN2, DN3, DH1, DH2: one network each, whose endpoints have no interface.
func TestPlain(t *testing.T) {
	for _, d := range []driver.Driver{null.New(), host.New()} {
		t.Run(d.Type(), func(t *testing.T) {
			ctx := t.Context()
			if v4, v6, err := d.Gateways(driver.Network{}); v4 || v6 || err != nil {
				t.Error(v4, v6, err)
			}
			_, err := d.CreateEndpoint(ctx, "", driver.Endpoint{ID: "e"})
			refused(t, err, fault.NotFound, "network not found: ")
			s, err := d.CreateNetwork(ctx, driver.Network{ID: "n", IPv4: true})
			if err != nil || s.Network != nil || s.Publish4 != driver.PublishNone {
				t.Fatalf("%+v %v", s, err)
			}
			_, err = d.CreateNetwork(ctx, driver.Network{ID: "n2"})
			refused(t, err, fault.Forbidden, `only one instance of "`+d.Type()+`" network is allowed`)
			refused(t, d.DeleteNetwork(ctx, "n"), fault.Forbidden, `network of type "`+d.Type()+`" cannot be deleted`)

			e, err := d.CreateEndpoint(ctx, "n", driver.Endpoint{ID: "e"})
			if err != nil || !e.MAC.IsZero() || e.Addr4.IsValid() {
				t.Errorf("%+v %v", e, err)
			}
			_, err = d.CreateEndpoint(ctx, "n", driver.Endpoint{ID: "e"})
			refused(t, err, fault.Forbidden, "endpoint e exists")
			_, err = d.Join(ctx, "n", "e", "")
			refused(t, err, fault.Invalid, "join endpoint e: no sandbox")
			leg, err := d.Join(ctx, "n", "e", "s")
			if err != nil || !leg.Plain {
				t.Errorf("%+v %v", leg, err)
			}
			_, err = d.Join(ctx, "n", "e", "s2")
			refused(t, err, fault.Forbidden, "endpoint e is in sandbox s")
			refused(t, d.DeleteEndpoint(ctx, "n", "e"), fault.Forbidden, "endpoint with name e id e has active containers")
			if err := d.Leave(ctx, "n", "e"); err != nil {
				t.Error(err)
			}
			if err := d.DeleteEndpoint(ctx, "n", "e"); err != nil {
				t.Error(err)
			}
			refused(t, d.Leave(ctx, "n", "e"), fault.NotFound, "endpoint not found: e")
		})
	}
}

func TestSysctls(t *testing.T) {
	for _, bad := range []string{"", "x", "net.ipv4.conf.IFNAME.x", "net.ipv4.conf.eth0.x=1", "net.unix.conf.IFNAME.x=1", "kernel.ipv4.conf.IFNAME.x=1",
		"net.ipv4.conf.IFNAME.x=1,", "net.ipv4.conf.IFNAME.a/b=1", "net.ipv4..IFNAME.x=1", "net.ipv4.conf.IFNAME.a.b=1"} {
		if got, err := driver.ParseSysctls(bad); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: %v %v", bad, got, err)
		}
	}
	got, err := driver.ParseSysctls("net.ipv4.neigh.ifname.gc_stale_time=5,net.mpls.conf.IFNAME.input=")
	if err != nil || fmt.Sprint(got) != "map[net.ipv4.neigh.IFNAME.gc_stale_time:5 net.mpls.conf.IFNAME.input:]" {
		t.Errorf("%v %v", got, err)
	}
	// The name of an interface may have dots, which sysctl writes as slashes.
	l := driver.Leg{Sysctls: got}.Link("e", "eth0.100")
	if _, ok := l.Sysctls["net.ipv4.neigh.eth0/100.gc_stale_time"]; !ok {
		t.Errorf("%v", l.Sysctls)
	}
}

func FuzzParseSysctls(f *testing.F) {
	f.Add("net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.ifname.accept_ra=2")
	f.Add("net.ipv4.coIFNAMEnf.IFNAME.logns=") // the name belongs in one place
	f.Fuzz(func(t *testing.T, s string) {
		all, err := driver.ParseSysctls(s)
		if err != nil {
			return
		}
		for key := range (driver.Leg{Sysctls: all}).Link("e", "eth0").Sysctls {
			if parts := strings.Split(key, "."); len(parts) != 5 || parts[0] != "net" || parts[3] != "eth0" || strings.Contains(key, "/") {
				t.Errorf("%q: %q", s, key)
			}
		}
	})
}

func TestIfnames(t *testing.T) {
	for name, ok := range map[string]bool{"eth0": true, "eth0.100": true, "abcdefghijklmno": true, "abcdefghijklmnop": false, "": false, ".": false,
		"..": false, "a b": false, "a/b": false, "a:b": false, "a%d": false, "a\x00": false, "é": false, "lo": false, "all": false, "default": false} {
		if err := driver.CheckIfname(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// What an Endpoint is in the datapath: M3, bound to its addresses.
func TestLegEndpoint(t *testing.T) {
	l := driver.Leg{Addr4: netip.MustParsePrefix("10.0.0.2/24"), Addr6: netip.MustParsePrefix("fd00::2/64")}
	e := l.Endpoint("e", "eth0")
	if e.ID != "e" || e.Interface != "eth0" || !e.Strict || fmt.Sprint(e.Addrs) != "[10.0.0.2 fd00::2]" {
		t.Errorf("%+v", e)
	}
}
