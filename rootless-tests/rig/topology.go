package rig

import (
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The addresses of the network. H2 is a second address of H.
var (
	H4  = netip.MustParseAddr("203.0.113.1")
	H6  = netip.MustParseAddr("fd01::1")
	H24 = netip.MustParseAddr("203.0.113.3")
	H26 = netip.MustParseAddr("fd01::3")

	R4  = netip.MustParseAddr("203.0.113.254") // R towards H
	R6  = netip.MustParseAddr("fd01::fe")
	RX4 = netip.MustParseAddr("198.51.100.1") // R towards X1 and X2
	RX6 = netip.MustParseAddr("fd02::1")

	X1v4 = netip.MustParseAddr("198.51.100.10")
	X1v6 = netip.MustParseAddr("fd02::10")
	X2v4 = netip.MustParseAddr("198.51.100.20")
	X2v6 = netip.MustParseAddr("fd02::20")
	// Nowhere4 and Nowhere6 are routed to X1 and answered by nobody: a black hole.
	Nowhere4 = netip.MustParseAddr("198.51.100.99")
	Nowhere6 = netip.MustParseAddr("fd02::99")
)

// Names of the interfaces: everybody's own is eth0; R has one for each neighbour.
const (
	DevEth0 = "eth0"
	DevToH  = "h"
	DevToX1 = "x1"
	DevToX2 = "x2"
)

// A station is a node at the end of a veth pair whose other end is in R.
type station struct {
	name, dev  string // dev is R's end
	addrs      []netip.Prefix
	via4, via6 netip.Addr
	routes     []netip.Prefix // what R sends to it
}

var stations = []station{
	{"H", DevToH, prefixes("203.0.113.1/24", "203.0.113.3/24", "fd01::1/64", "fd01::3/64"), R4, R6, nil},
	{"X1", DevToX1, prefixes("198.51.100.10/32", "fd02::10/128"), RX4, RX6,
		prefixes("198.51.100.10/32", "fd02::10/128", "198.51.100.99/32", "fd02::99/128")},
	{"X2", DevToX2, prefixes("198.51.100.20/32", "fd02::20/128"), RX4, RX6, prefixes("198.51.100.20/32", "fd02::20/128")},
}

// routerAddrs are R's addresses on each of its devices.
var routerAddrs = map[string][]netip.Prefix{
	DevToH:  prefixes("203.0.113.254/24", "fd01::fe/64"),
	DevToX1: prefixes("198.51.100.1/32", "fd02::1/128"),
	DevToX2: prefixes("198.51.100.1/32", "fd02::1/128"),
}

func prefixes(all ...string) (ps []netip.Prefix) {
	for _, s := range all {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// sysctls are set in each namespace, before its links are up.
var sysctls = map[string]map[string]string{
	"*": {
		"net/ipv6/conf/all/accept_dad":     "0",
		"net/ipv6/conf/default/accept_dad": "0",
		"net/ipv6/conf/default/accept_ra":  "0",
	},
	"R":  {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1", "net/ipv4/icmp_ratelimit": "0", "net/ipv6/icmp/ratelimit": "0"},
	"X1": {"net/ipv4/ip_unprivileged_port_start": "0", "net/ipv4/icmp_ratelimit": "0", "net/ipv6/icmp/ratelimit": "0"},
	"X2": {"net/ipv4/ip_unprivileged_port_start": "0", "net/ipv4/icmp_ratelimit": "0", "net/ipv6/icmp/ratelimit": "0"},
	// An ordinary host lets its users ping.
	"H": {"net/ipv4/ping_group_range": "0 2147483647"},
}

// writeSysctls sets those of a namespace that the calling thread is in.
func writeSysctls(name string) error {
	for _, who := range []string{"*", name} {
		for k, v := range sysctls[who] {
			if err := os.WriteFile(filepath.Join("/proc/sys", k), []byte(v), 0); err != nil {
				return fmt.Errorf("set %s in %s: %w", strings.ReplaceAll(k, "/", "."), name, err)
			}
		}
	}
	return nil
}

// space is a network namespace under construction.
type space struct {
	fd     int // of the namespace
	handle *netlink.Handle
}

// enterNew moves the calling goroutine, which it locks to its thread for good, into a new network namespace.
func enterNew(name string) (*space, error) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("make network namespace %s: %w", name, err)
	}
	if err := writeSysctls(name); err != nil {
		return nil, err
	}
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", name, err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink in %s: %w", name, err)
	}
	return &space{fd, h}, nil
}

// connect makes the links, addresses and routes between the namespaces.
func connect(spaces map[string]*space) error {
	for name, s := range spaces {
		if err := s.up("lo"); err != nil {
			return fmt.Errorf("set up lo in %s: %w", name, err)
		}
	}
	r := spaces["R"]
	for _, st := range stations {
		if err := st.plug(r, spaces[st.name]); err != nil {
			return fmt.Errorf("connect %s to R: %w", st.name, err)
		}
	}
	return nil
}

func (st *station) plug(r, s *space) error {
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: st.dev, MTU: 1500},
		PeerName:  DevEth0, PeerNamespace: netlink.NsFd(s.fd),
	}
	if err := r.handle.LinkAdd(veth); err != nil {
		return fmt.Errorf("make veth %s: %w", st.dev, err)
	}
	for _, end := range []struct {
		s     *space
		dev   string
		addrs []netip.Prefix
	}{{r, st.dev, routerAddrs[st.dev]}, {s, DevEth0, st.addrs}} {
		if err := end.s.up(end.dev, end.addrs...); err != nil {
			return err
		}
	}
	for _, to := range st.routes {
		if err := r.route(st.dev, to, netip.Addr{}); err != nil {
			return err
		}
	}
	for _, via := range []netip.Addr{st.via4, st.via6} {
		// The gateway may lie outside every subnet of the station.
		if err := s.route(DevEth0, netip.PrefixFrom(via, via.BitLen()), netip.Addr{}); err != nil {
			return err
		}
		if err := s.route(DevEth0, netip.Prefix{}, via); err != nil {
			return err
		}
	}
	return nil
}

// up gives a device its addresses and sets it up.
func (s *space) up(dev string, addrs ...netip.Prefix) error {
	l, err := s.handle.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("find %s: %w", dev, err)
	}
	for _, p := range addrs {
		a, err := netlink.ParseAddr(p.String())
		if err != nil {
			return err
		}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if p.Addr() == H26 {
			// Deprecated: the host itself speaks from H6.
			a.PreferedLft, a.ValidLft = 0, math.MaxUint32
		}
		if err := s.handle.AddrAdd(l, a); err != nil {
			return fmt.Errorf("add %v to %s: %w", p, dev, err)
		}
	}
	if err := s.handle.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", dev, err)
	}
	return nil
}

// route sends to (everything when it is the zero Prefix) over dev, by via unless that is the zero Addr.
func (s *space) route(dev string, to netip.Prefix, via netip.Addr) error {
	l, err := s.handle.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("find %s: %w", dev, err)
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index}
	if to.IsValid() {
		n, err := netlink.ParseIPNet(to.String())
		if err != nil {
			return err
		}
		r.Dst, r.Scope = n, netlink.SCOPE_LINK
	}
	if via.IsValid() {
		r.Gw = via.AsSlice()
	}
	if err := s.handle.RouteReplace(r); err != nil {
		return fmt.Errorf("add route to %v via %v over %s: %w", to, via, dev, err)
	}
	return nil
}
