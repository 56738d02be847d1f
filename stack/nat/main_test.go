package nat

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/proctest"
)

// The tests run on a kernel of their own: TestMain executes the test binary again as root of a new user
// and network namespace, where the host is this:
//
//	lo      127.0.0.1 ::1, 203.0.113.1 203.0.113.2 and 2001:db8:113::1 (servers X1 and X2)
//	h0      192.0.2.1/24, 2001:db8:2::1/64 ─── r0 192.0.2.2, 2001:db8:2::2 in the namespace of router R
//	R       routes 198.51.100.0/24 and 2001:db8:100::/64 into a link with an MTU of 1280
//
// No packet leaves the machine, sysctls can be set, and no privilege is needed for any of it.
const inNamespace = "USERNET_NAT_TEST_NAMESPACE"

func TestMain(m *testing.M) {
	if os.Getenv(inNamespace) == "" {
		os.Exit(runInNamespace())
	}
	if err := makeHost(); err != nil {
		fmt.Fprintln(os.Stderr, "make the host of the tests:", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func runInNamespace() int {
	cmd := proctest.Again(proctest.Network, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	runtime.LockOSThread()
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "run the tests in a user and network namespace:", err)
	return 1
}

func makeHost() error {
	if _, err := netlink.LinkByName("h0"); err == nil {
		return nil // a fuzz worker, in the namespace of the process that started it
	}
	// Addresses are used as soon as they are there.
	for _, name := range []string{"all", "default"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/accept_dad", []byte("0"), 0); err != nil {
			return err
		}
	}
	if err := configure("lo", "203.0.113.1/32", "203.0.113.2/32", "2001:db8:113::1/128"); err != nil {
		return err
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "h0"}, PeerName: "r0"}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth: %w", err)
	}
	if err := makeRouter(); err != nil {
		return fmt.Errorf("make the router: %w", err)
	}
	if err := configure("h0", "192.0.2.1/24", "2001:db8:2::1/64"); err != nil {
		return err
	}
	return errors.Join(route("198.51.100.0/24", "192.0.2.2"), route("2001:db8:100::/64", "2001:db8:2::2"))
}

// makeRouter moves r0 into a new namespace and routes there.
func makeRouter() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	host, err := netns.Get()
	if err != nil {
		return err
	}
	defer host.Close()
	router, err := netns.New() // and enter it; it lives for as long as the descriptor is open
	if err != nil {
		return err
	}
	defer netns.Set(host)
	if err := errors.Join(
		os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
		os.WriteFile("/proc/sys/net/ipv6/conf/all/accept_dad", []byte("0"), 0),
		os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0),
		os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0),
		os.WriteFile("/proc/sys/net/ipv4/icmp_ratelimit", []byte("0"), 0),
		os.WriteFile("/proc/sys/net/ipv6/icmp/ratelimit", []byte("0"), 0),
	); err != nil {
		return err
	}
	if err := netns.Set(host); err != nil {
		return err
	}
	r0, err := netlink.LinkByName("r0")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetNsFd(r0, int(router)); err != nil {
		return err
	}
	if err := netns.Set(router); err != nil {
		return err
	}
	narrow := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "narrow", MTU: 1280}, PeerName: "nobody", PeerMTU: 1280}
	if err := netlink.LinkAdd(narrow); err != nil {
		return fmt.Errorf("add veth: %w", err)
	}
	return errors.Join(
		configure("lo"),
		configure("nobody"),
		configure("r0", "192.0.2.2/24", "2001:db8:2::2/64"),
		configure("narrow", "198.51.100.254/24", "2001:db8:100::fe/64"))
}

func configure(name string, addrs ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add %s to %s: %w", a, name, err)
		}
	}
	return nil
}

func route(dst, via string) error {
	_, prefix, err := net.ParseCIDR(dst)
	if err != nil {
		return err
	}
	if err := netlink.RouteAdd(&netlink.Route{Dst: prefix, Gw: net.ParseIP(via)}); err != nil {
		return fmt.Errorf("route %s via %s: %w", dst, via, err)
	}
	return nil
}
