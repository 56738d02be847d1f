// Package hostroutes tells which prefixes the host uses itself, so that no Network is given them: a
// container could not reach the host's neighbours or its resolver behind a prefix of its own.
package hostroutes

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/dnsproxy/resolvconf"
)

// attempts is how often a listing that the kernel broke off, because routes changed meanwhile, is begun anew.
const attempts = 5

// List returns what Docker reserves: the destinations of the host's on-link IPv4 routes, and the name servers of the
// resolv.conf at path. What cannot be read is left out and part of the error.
func List(path string) ([]netip.Prefix, error) {
	onLink, err := OnLink()
	servers, err2 := nameservers(path)
	return append(onLink, servers...), errors.Join(err, err2)
}

// OnLink returns the IPv4 prefixes that the host reaches without a router.
func OnLink() ([]netip.Prefix, error) {
	var routes []netlink.Route
	var err error
	for range attempts {
		filter := &netlink.Route{Scope: netlink.SCOPE_LINK, Table: unix.RT_TABLE_MAIN}
		routes, err = netlink.RouteListFiltered(netlink.FAMILY_V4, filter, netlink.RT_FILTER_SCOPE|netlink.RT_FILTER_TABLE)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var all []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		a, ok := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		if p := netip.PrefixFrom(a.Unmap(), bits).Masked(); ok && p.IsValid() && bits > 0 {
			all = append(all, p)
		}
	}
	return all, nil
}

func nameservers(path string) ([]netip.Prefix, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a host without resolvers
	}
	if err != nil {
		return nil, err
	}
	var all []netip.Prefix
	for _, a := range resolvconf.Parse(text, nil).Nameservers {
		a = a.Unmap().WithZone("")
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	return all, nil
}
