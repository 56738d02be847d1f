package hostroutes

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/usernet/usernet/internal/proctest"
)

// Networks keep away from what the host reaches without a router and from its resolvers. In a network namespace of the
// test's own, so the host's routes are known.
func TestList(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	add := func(dst string, scope netlink.Scope, via string) {
		_, n, err := net.ParseCIDR(dst)
		if err != nil {
			t.Fatal(err)
		}
		err = netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: n, Scope: scope, Gw: net.ParseIP(via)})
		if err != nil {
			t.Fatalf("%s: %v", dst, err)
		}
	}
	add("192.168.7.0/24", netlink.SCOPE_LINK, "")
	add("10.9.0.0/16", netlink.SCOPE_LINK, "")
	add("10.50.0.0/16", netlink.SCOPE_UNIVERSE, "192.168.7.1") // behind a router
	add("0.0.0.0/0", netlink.SCOPE_UNIVERSE, "192.168.7.1")

	path := filepath.Join(t.TempDir(), "resolv.conf")
	if got, err := List(path); err != nil || show(got) != "10.9.0.0/16 192.168.7.0/24" {
		t.Errorf("without resolv.conf: %s %v", show(got), err)
	}
	text := "# nameserver 1.1.1.1\nnameserver 172.17.0.53\nnameserver fe80::1%1\nnameserver nonsense\nnameserver 2001:db8::53\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := List(path); err != nil || show(got) != "10.9.0.0/16 172.17.0.53/32 192.168.7.0/24 2001:db8::53/128 fe80::1/128" {
		t.Errorf("with resolv.conf: %s %v", show(got), err)
	}
	// A file that cannot be read costs the resolvers and not the routes.
	if got, err := List(filepath.Dir(path)); err == nil || show(got) != "10.9.0.0/16 192.168.7.0/24" {
		t.Errorf("unreadable: %s %v", show(got), err)
	}
}

func show(all []netip.Prefix) string {
	var s []string
	for _, p := range all {
		s = append(s, p.String())
	}
	slices.Sort(s)
	return strings.Join(s, " ")
}
