package tap_test

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/proctest"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/tap"
	"github.com/usernet/usernet/tap/netns"
)

// configurePatience is for the kernel, on a machine that has other things to do.
const configurePatience = 20 * time.Second

// What netns.Namespace.Configure promises, on a real interface.
func TestKernelConfigure(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	makeTAP(t)
	var log bytes.Buffer
	mac := l2.MAC{2, 0, 0, 0, 0, 2}
	ns := netns.Namespace{Own: true, Log: slog.New(slog.NewTextHandler(&log, nil))}
	err := ns.Configure([]plumb.Link{{
		Name: "eth0", MTU: 1400, MAC: mac,
		Addr4: netip.MustParsePrefix("10.0.2.100/24"), Addr6: netip.MustParsePrefix("fd00::100/64"),
		LinkLocal: []netip.Prefix{netip.MustParsePrefix("169.254.7.7/16"), netip.MustParsePrefix("fe80::7/64")},
		Sysctls:   map[string]string{"net.ipv4.conf.eth0.log_martians": "1", "net/ipv6/conf/eth0/hop_limit": "33"},
	}}, plumb.Routes{
		Default4: plumb.Hop{Dev: "eth0", Addr: netip.MustParseAddr("198.51.100.7")}, // on the link, outside the subnet
		Default6: plumb.Hop{Dev: "eth0", Addr: netip.MustParseAddr("fe80::1")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if log.Len() > 0 {
		t.Errorf("logged: %s", log.String())
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if a := link.Attrs(); a.MTU != 1400 || a.HardwareAddr.String() != mac.String() || a.Flags&net.FlagUp == 0 {
		t.Errorf("link %+v", a)
	}
	if lo, err := net.Listen("tcp", "127.0.0.1:80"); err != nil {
		t.Errorf("lo is not up or port 80 is privileged: %v", err)
	} else {
		lo.Close()
	}
	// An address still in duplicate address detection could not be bound.
	if l, err := net.Listen("tcp", "[fd00::100]:443"); err != nil {
		t.Error(err)
	} else {
		l.Close()
	}
	for _, network := range []string{"ip4", "ip6"} {
		domain, proto := syscall.AF_INET, syscall.IPPROTO_ICMP
		if network == "ip6" {
			domain, proto = syscall.AF_INET6, syscall.IPPROTO_ICMPV6
		}
		fd, err := syscall.Socket(domain, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, proto)
		if err != nil {
			t.Errorf("%s ping socket: %v", network, err)
			continue
		}
		syscall.Close(fd)
	}
	// That there is no detection, accept_dad says below. Without it the kernel's worker still needs a moment for the
	// link-local address.
	for deadline := time.Now().Add(configurePatience); tentative(t, link); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("an address is tentative after %v", configurePatience)
		}
	}
	for dst, gw := range map[string]string{"192.0.2.1": "198.51.100.7", "2001:db8::1": "fe80::1"} {
		r, err := netlink.RouteGet(net.ParseIP(dst))
		if err != nil || len(r) != 1 || r[0].Gw.String() != gw {
			t.Errorf("route to %s: %v, %v, want by %s", dst, r, err, gw)
		}
	}
	for file, want := range map[string]string{"ipv6/conf/eth0/accept_ra": "0", "ipv6/conf/eth0/accept_dad": "0", "ipv4/conf/eth0/log_martians": "1", "ipv6/conf/eth0/hop_limit": "33"} {
		wantSysctl(t, file, want)
	}
	for _, a := range []string{"169.254.7.7", "fe80::7"} {
		if c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(a), Zone: "eth0"}); err != nil {
			t.Errorf("address %s: %v", a, err)
		} else {
			c.Close()
		}
	}
}

// wantSysctl reads a setting of the namespace.
func wantSysctl(t *testing.T, file, want string) {
	t.Helper()
	if b, err := os.ReadFile("/proc/sys/net/" + file); err != nil || strings.TrimSpace(string(b)) != want {
		t.Errorf("%s = %q, %v, want %s", file, b, err, want)
	}
}

// Without an IPv6 address there is no IPv6, not even a link-local one that would speak on the wire.
func TestKernelConfigureIPv4Only(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	makeTAP(t)
	if err := (netns.Namespace{}).Configure([]plumb.Link{{Name: "eth0", Addr4: netip.MustParsePrefix("10.0.2.100/24")}}, plumb.Routes{}); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if addrs, err := netlink.AddrList(link, netlink.FAMILY_V6); err != nil || len(addrs) != 0 {
		t.Errorf("IPv6 addresses %v, %v", addrs, err)
	}
}

func tentative(t *testing.T, link netlink.Link) bool {
	t.Helper()
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if a.Flags&syscall.IFA_F_TENTATIVE != 0 {
			return true
		}
	}
	return false
}

// A namespace whose settings are left alone is not paced either, and that is all that changes.
func TestKernelConfigureNoSysctls(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	makeTAP(t)
	const low = "ipv4/ip_unprivileged_port_start"
	before, err := os.ReadFile("/proc/sys/net/" + low)
	if err != nil {
		t.Fatal(err)
	}
	ns := netns.Namespace{NoSysctls: true}
	if err := ns.Configure([]plumb.Link{{Name: "eth0", Addr4: netip.MustParsePrefix("10.0.2.100/24")}}, plumb.Routes{}); err != nil {
		t.Fatal(err)
	}
	wantSysctl(t, low, strings.TrimSpace(string(before)))
	now, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	if err != nil || strings.HasPrefix(string(now), "bbr") {
		t.Errorf("congestion control %q, %v", now, err)
	}
}

// makeTAP makes eth0 in the test's namespace, for as long as the test runs.
func makeTAP(t *testing.T) {
	t.Helper()
	f, _, err := tap.Create("eth0", 1500, l2.MAC{2, 0, 0, 0, 0, 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
}
