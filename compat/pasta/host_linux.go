package pasta

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is what a namespace is made like: an interface of the host for each family, with its addresses and routes. The
// zero Side means that there is none to be like.
type Host struct{ V4, V6 Side }

// Side is one family of a Host.
type Side struct {
	// Device is the interface.
	Device string
	// Addrs are its addresses of global scope, the first being the one that is used towards the outside.
	Addrs []netip.Prefix
	// Gateway is the next hop of its default route; it may be the zero Addr.
	Gateway netip.Addr
	// Routes are the others by this interface, without those that its addresses bring along.
	Routes []Route
}

// Route is a route by the interface. Via is the zero Addr when the destination is on the link.
type Route struct {
	Dst      netip.Prefix
	Via, Src netip.Addr
	Metric   int
}

// readHost looks at the host's interfaces. template4 and template6 name those to be like; empty means the ones with
// the default routes.
func readHost(template4, template6 string, v4, v6 bool) (Host, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return Host{}, fmt.Errorf("Failed to open netlink socket: %w", err)
	}
	defer h.Close()
	var host Host
	for _, f := range []struct {
		want     bool
		family   int
		template string
		side     *Side
	}{{v4, unix.AF_INET, template4, &host.V4}, {v6, unix.AF_INET6, template6, &host.V6}} {
		if !f.want {
			continue
		}
		if *f.side, err = readSide(h, f.family, f.template); err != nil {
			return Host{}, err
		}
	}
	return host, nil
}

func readSide(h *netlink.Handle, family int, template string) (Side, error) {
	routes, err := h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return Side{}, fmt.Errorf("Failed to read routes: %w", err)
	}
	// The kernel lists routes to one destination in the order of their metric.
	routes = slices.DeleteFunc(routes, func(r netlink.Route) bool { return r.Type != unix.RTN_UNICAST || r.Table != unix.RT_TABLE_MAIN })
	link, err := findTemplate(h, routes, template)
	if err != nil || link == nil {
		return Side{}, err
	}
	s := Side{Device: link.Attrs().Name}
	addrs, err := h.AddrList(link, family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return Side{}, fmt.Errorf("Failed to read addresses of %s: %w", s.Device, err)
	}
	for _, a := range addrs {
		if p, ok := globalPrefix(a); ok {
			s.Addrs = append(s.Addrs, p)
		}
	}
	if len(s.Addrs) == 0 {
		return Side{}, nil
	}
	s.addRoutes(routes, link.Attrs().Index)
	return s, nil
}

// findTemplate is the interface of that name, or else the one with the first default route, or else the only one with
// any route that leads beyond the host's own links. nil means that there is none.
func findTemplate(h *netlink.Handle, routes []netlink.Route, name string) (netlink.Link, error) {
	if name != "" {
		link, err := h.LinkByName(name)
		if err != nil {
			return nil, fmt.Errorf("Invalid interface name %s: %w", name, unix.ENODEV)
		}
		return link, nil
	}
	others := map[int]bool{}
	for _, r := range routes {
		for _, hop := range hops(r) {
			if isDefault(r) {
				return linkByIndex(h, hop.LinkIndex)
			}
			if r.Dst != nil && !r.Dst.IP.IsLinkLocalUnicast() && !r.Dst.IP.IsMulticast() && !r.Dst.IP.IsLoopback() {
				others[hop.LinkIndex] = true
			}
		}
	}
	if len(others) != 1 {
		return nil, nil
	}
	for index := range others {
		return linkByIndex(h, index)
	}
	return nil, nil
}

// linkByIndex returns nil for an interface that has gone meanwhile, and for loopback, which leads nowhere.
func linkByIndex(h *netlink.Handle, index int) (netlink.Link, error) {
	link, err := h.LinkByIndex(index)
	if errors.As(err, &netlink.LinkNotFoundError{}) || err == nil && link.Attrs().Flags&net.FlagLoopback != 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("Failed to find interface: %w", err)
	}
	return link, nil
}

// addRoutes takes over the routes by the interface.
func (s *Side) addRoutes(routes []netlink.Route, index int) {
	for _, r := range routes {
		for _, hop := range hops(r) {
			if hop.LinkIndex != index {
				continue
			}
			via := addrOf(hop.Gw)
			if isDefault(r) {
				if !s.Gateway.IsValid() {
					s.Gateway = via
				}
				continue
			}
			dst, ok := prefixOf(r.Dst)
			if !ok || dst.Addr().IsLinkLocalUnicast() || !via.IsValid() && s.brings(dst) {
				continue
			}
			s.Routes = append(s.Routes, Route{dst, via, addrOf(r.Src), r.Priority})
		}
	}
}

// brings reports whether an address of the interface brings the route along.
func (s *Side) brings(dst netip.Prefix) bool {
	return slices.ContainsFunc(s.Addrs, func(a netip.Prefix) bool { return a.Masked() == dst })
}

// hops are the ways of a route, one but for those with several.
func hops(r netlink.Route) []netlink.NexthopInfo {
	if len(r.MultiPath) == 0 {
		return []netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw}}
	}
	hs := make([]netlink.NexthopInfo, 0, len(r.MultiPath))
	for _, h := range r.MultiPath {
		hs = append(hs, *h)
	}
	return hs
}

func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0 && r.Dst.IP.IsUnspecified()
}

// globalPrefix is an address that others know the host by.
func globalPrefix(a netlink.Addr) (netip.Prefix, bool) {
	p, ok := prefixOf(a.IPNet)
	return p, ok && a.Scope == int(netlink.SCOPE_UNIVERSE) && !p.Addr().IsLinkLocalUnicast() &&
		a.Flags&(unix.IFA_F_DEPRECATED|unix.IFA_F_TENTATIVE) == 0
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a := addrOf(n.IP)
	ones, _ := n.Mask.Size()
	p := netip.PrefixFrom(a, ones)
	return p, p.IsValid()
}
