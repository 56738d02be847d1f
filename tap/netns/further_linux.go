package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/usernet/usernet/cnm/plumb"
)

// further adds the routes that the link has beyond those of its addresses. One that is there already, because an
// address brought it along, is no error.
func further(h *netlink.Handle, link netlink.Link, l plumb.Link) error {
	for _, r := range l.Routes {
		route, err := furtherRoute(link, r)
		if err != nil {
			return err
		}
		err = h.RouteAdd(route)
		if r.Via.IsValid() && (errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.EINVAL)) {
			// As for default routes: a next hop outside the subnets is on the link all the same.
			route.Flags = int(netlink.FLAG_ONLINK)
			err = h.RouteAdd(route)
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("add route to %v: %w", r.Dst, err)
		}
	}
	return nil
}

func furtherRoute(link netlink.Link, r plumb.Route) (*netlink.Route, error) {
	for _, a := range []netip.Addr{r.Via, r.Src} {
		if a.IsValid() && a.Is4() != r.Dst.Addr().Is4() {
			return nil, fmt.Errorf("route to %v: address %v is of the other family", r.Dst, a)
		}
	}
	if !r.Dst.IsValid() {
		return nil, fmt.Errorf("route to %v: not a prefix", r.Dst)
	}
	scope := netlink.SCOPE_UNIVERSE
	if !r.Via.IsValid() {
		scope = netlink.SCOPE_LINK
	}
	return &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: ipNet(r.Dst.Masked()), Gw: r.Via.AsSlice(), Src: r.Src.AsSlice(),
		Priority: r.Metric, Scope: scope,
	}, nil
}
