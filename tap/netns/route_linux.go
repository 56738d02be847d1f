package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/cnm/plumb"
)

// Default routes and the way to the resolver.
//
// # Theory of operation
//
// A default route that was ours is replaced by one netlink message, so there is none or another at no moment.
// Where there was none of ours one is added, and a route that somebody else made is an error.
//
// The resolver's address, 127.0.0.11, is one that a Linux host never sends to the outside. Three things
// make it leave by a Link all the same, and none of them takes a socket in the namespace:
//
//   - route_localnet on the device, without which the kernel neither sends nor takes such packets there;
//   - a unicast route to it in the table "local", which is looked at before all others and where otherwise
//     all of 127.0.0.0/8 leads to lo. Its source is the Link's own address: with 127.0.0.1 nobody could answer;
//   - a permanent neighbour, since the kernel asks nobody for the MAC address of a loopback address.
//
// route_localnet lets whoever is on that Network send to the namespace's own 127.0.0.0/8. The switch drops every
// packet with a loopback address but the resolver's, and the setting is on for one device only.

// Resolver is where the resolver of a sandbox is.
var Resolver = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// SetRoutes makes want of was, what was set before. An error means that all is as it was, as far as the
// kernel lets it be put back.
func (n Namespace) SetRoutes(was, want plumb.Routes) error {
	h, err := open()
	if err != nil {
		return fmt.Errorf("set routes: %w", err)
	}
	defer h.Close()
	if err := setRoutes(h, was, want); err != nil {
		_ = setRoutes(h, want, was)
		return err
	}
	return nil
}

func setRoutes(h *netlink.Handle, was, want plumb.Routes) error {
	for _, r := range []struct {
		was, want plumb.Hop
		v4        bool
	}{{was.Default4, want.Default4, true}, {was.Default6, want.Default6, false}} {
		if err := setDefault(h, r.was, r.want, r.v4); err != nil {
			return fmt.Errorf("set default route: %w", err)
		}
	}
	if was.Resolver == want.Resolver {
		return nil
	}
	if !want.Resolver.IsZero() {
		if err := addResolver(h, was.Resolver, want.Resolver); err != nil {
			return fmt.Errorf("set route to resolver %v: %w", Resolver, err)
		}
	}
	if was.Resolver.Dev == "" || was.Resolver.Dev == want.Resolver.Dev {
		return nil
	}
	if err := removeResolver(h, was.Resolver); err != nil {
		return fmt.Errorf("remove route to resolver %v: %w", Resolver, err)
	}
	return nil
}

// setDefault makes the default route of one family.
func setDefault(h *netlink.Handle, was, want plumb.Hop, v4 bool) error {
	switch {
	case was == want:
		return nil
	case want.IsZero():
		r, err := defaultRoute(h, was, v4)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil // it went with its interface
		}
		if err == nil {
			err = h.RouteDel(r)
		}
		if err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("remove the one by %v: %w", was.Addr, err)
		}
		return nil
	case want.Addr.Is4() != v4 || !want.Addr.IsValid():
		return fmt.Errorf("gateway %v is of the other family", want.Addr)
	}
	r, err := defaultRoute(h, want, v4)
	if err != nil {
		return fmt.Errorf("by %v: %w", want.Addr, err)
	}
	set := h.RouteAdd
	if !was.IsZero() {
		set = h.RouteReplace
	}
	err = set(r)
	if errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.EINVAL) {
		// A gateway outside the subnets of the interface: it is on the link all the same.
		r.Flags = int(netlink.FLAG_ONLINK)
		err = set(r)
	}
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("by %v on %s: there is another one already", want.Addr, want.Dev)
	}
	if err != nil {
		return fmt.Errorf("by %v on %s: %w", want.Addr, want.Dev, err)
	}
	return nil
}

func defaultRoute(h *netlink.Handle, hop plumb.Hop, v4 bool) (*netlink.Route, error) {
	link, err := h.LinkByName(hop.Dev)
	if err != nil {
		return nil, fmt.Errorf("find interface %s: %w", hop.Dev, err)
	}
	all := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	if v4 {
		all = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: ipNet(all), Gw: hop.Addr.AsSlice(), Scope: netlink.SCOPE_UNIVERSE,
	}, nil
}

// addResolver leads the resolver's address to want.
func addResolver(h *netlink.Handle, was, want plumb.Hop) error {
	link, err := h.LinkByName(want.Dev)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", want.Dev, err)
	}
	if want.MAC.IsZero() {
		return fmt.Errorf("by %s: it needs a MAC address", want.Dev)
	}
	own, err := h.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list the addresses of %s: %w", want.Dev, err)
	}
	if len(own) == 0 {
		return fmt.Errorf("by %s: it has no IPv4 address to ask from", want.Dev)
	}
	if err := setDevconf(link, devconfRouteLocalnet, 1); err != nil {
		return fmt.Errorf("switch net.ipv4.conf.%s.route_localnet on: %w", want.Dev, err)
	}
	if err := h.NeighSet(resolverNeighbour(link, want)); err != nil {
		return fmt.Errorf("set its MAC address to %v: %w", want.MAC, err)
	}
	set := h.RouteAdd
	if !was.IsZero() {
		set = h.RouteReplace
	}
	if err := set(resolverRoute(link, own[0].IP)); err != nil {
		return fmt.Errorf("by %s: %w", want.Dev, err)
	}
	return nil
}

// removeResolver undoes addResolver for a device that is no longer the one; it may be gone. The order
// matters: with route_localnet off the kernel takes no answer any more, and changing routes makes it
// forget what it has cached of them.
func removeResolver(h *netlink.Handle, was plumb.Hop) error {
	link, err := h.LinkByName(was.Dev)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find interface %s: %w", was.Dev, err)
	}
	if err := setDevconf(link, devconfRouteLocalnet, 0); err != nil {
		return fmt.Errorf("switch net.ipv4.conf.%s.route_localnet off: %w", was.Dev, err)
	}
	// Neither is there when another device has the route, or when the container took it away.
	if err := h.RouteDel(resolverRoute(link, nil)); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("from %s: %w", was.Dev, err)
	}
	if err := h.NeighDel(resolverNeighbour(link, was)); err != nil && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("from %s: %w", was.Dev, err)
	}
	return nil
}

func resolverRoute(link netlink.Link, source net.IP) *netlink.Route {
	return &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: ipNet(netip.PrefixFrom(Resolver, Resolver.BitLen())), Src: source,
		Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_UNICAST, Scope: netlink.SCOPE_LINK,
	}
}

func resolverNeighbour(link netlink.Link, hop plumb.Hop) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT,
		IP: Resolver.AsSlice(), HardwareAddr: hop.MAC[:],
	}
}

// Settings of linux/ip.h (IPV4_DEVCONF_*), by netlink: they can be made where /proc/sys is read-only, too.
const (
	devconfForwarding    = 1
	devconfRouteLocalnet = 26
	inetConf             = 1 // IFLA_INET_CONF of linux/if_link.h
)

// setDevconf makes an IPv4 setting of a device.
func setDevconf(link netlink.Link, setting int, value uint32) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(link.Attrs().Index)
	req.AddData(msg)
	af := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	af.AddRtAttr(unix.AF_INET, nil).AddRtAttr(inetConf, nil).AddRtAttr(setting, nl.Uint32Attr(value))
	req.AddData(af)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
