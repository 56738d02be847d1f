package rootlessport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/portfwd"
	tapnetns "github.com/usernet/usernet/tap/netns"
)

// Theory of operation: routes
//
// A rule for each protocol and range of published container ports sends the lookup of a route for what leaves
// from there to routeTable first. The table has a local route for each address of a client that is there now,
// with the container's address as its preferred source: a UDP server that answers from an unbound socket would
// otherwise answer from the client's.
//
// A route is added before the first connection of a client, and stays for routeGrace after the last: the
// container's kernel may still have to say something, which would go out to the client itself. What is overdue goes
// when the next client comes. The table is bounded; a client too many is shown as the original shows all.
const (
	// routeTable and rulePriority are of the container's namespace, in which nobody else makes rules. The priority
	// is before that of the main table, 32766.
	routeTable   = 7421
	rulePriority = 7421

	maxRoutes  = 4096
	routeGrace = 2 * time.Minute
)

// inside is the container's network namespace.
type inside struct {
	ns    *os.File
	nl    *netlink.Handle
	work  chan func() // to the thread inside
	ended chan struct{}

	mu     sync.Mutex
	keeps  bool                  // guarded by mu; the rules are set
	source [2]netip.Addr         // guarded by mu; the container's addresses, v4 and v6
	routes map[netip.Addr]*route // guarded by mu
}

// route is a client that has been there.
type route struct {
	users int
	left  time.Time // when users became 0
}

// enter opens a namespace.
func enter(path string) (*inside, error) {
	ns, err := tapnetns.Open(path)
	if err != nil {
		return nil, err
	}
	return enterFile(ns, path)
}

// enterFile is enter for an open namespace, which it takes over. The netlink socket, too, is made on the thread inside:
// a thread that goes in and wants to come back cannot, since the host's namespace belongs to a user namespace in which
// this process may do nothing; it would stay there unnoticed, and bind the published ports in the container.
func enterFile(ns *os.File, path string) (*inside, error) {
	in := &inside{ns: ns, work: make(chan func()), ended: make(chan struct{}), routes: make(map[netip.Addr]*route)}
	entered := make(chan error, 1)
	go func() {
		defer close(in.ended)
		err := tapnetns.Do(ns, func() (err error) {
			if in.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
				return fmt.Errorf("open netlink socket: %w", err)
			}
			entered <- nil
			for fn := range in.work {
				fn()
			}
			return nil
		})
		if err != nil {
			entered <- err
		}
	}()
	if err := <-entered; err != nil {
		return nil, errors.Join(fmt.Errorf("enter network namespace %s: %w", path, err), ns.Close())
	}
	return in, nil
}

// do runs fn on the thread inside. It must not block.
func (in *inside) do(fn func()) {
	done := make(chan struct{})
	in.work <- func() { defer close(done); fn() }
	<-done
}

// close takes rules and routes away and ends the thread. do must not be called any more.
func (in *inside) close() error {
	in.forget()
	close(in.work)
	<-in.ended
	in.nl.Close()
	return in.ns.Close()
}

// addresses returns the container's address of each family, of the interface that has child, and all its subnets.
func (in *inside) addresses(child netip.Addr) (t portfwd.Target, subnets []netip.Prefix, err error) {
	all, err := in.nl.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return t, nil, fmt.Errorf("list the container's addresses: %w", err)
	}
	if child.Is4() {
		t.Addr4 = child
	} else {
		t.Addr6 = child
	}
	index := -1
	for _, a := range all {
		p := prefixOf(a.IPNet)
		if !p.IsValid() {
			continue
		}
		subnets, t.Own = append(subnets, p.Masked()), append(t.Own, p.Addr())
		if p.Addr() == child {
			index = a.LinkIndex
		}
	}
	for _, a := range all {
		addr := prefixOf(a.IPNet).Addr()
		if a.LinkIndex != index || !addr.IsGlobalUnicast() {
			continue
		}
		switch {
		case addr.Is4() && !t.Addr4.IsValid():
			t.Addr4 = addr
		case addr.Is6() && !t.Addr6.IsValid():
			t.Addr6 = addr
		}
	}
	return t, subnets, nil
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	if a = a.Unmap(); !ok || bits > a.BitLen() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, bits)
}

// keepSources sets the rules for ports of the container with the addresses of t.
func (in *inside) keepSources(t portfwd.Target, ports []portRange) error {
	in.forget()
	in.mu.Lock()
	defer in.mu.Unlock()
	in.source = [2]netip.Addr{t.Addr4, t.Addr6}
	for i, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if !in.source[i].IsValid() || in.source[i].IsLoopback() {
			continue
		}
		for _, p := range ports {
			r := netlink.NewRule()
			r.Family, r.Table, r.Priority = family, routeTable, rulePriority
			r.IPProto, r.Sport = p.proto, netlink.NewRulePortRange(p.first, p.last)
			if err := in.nl.RuleAdd(r); err != nil && !errors.Is(err, syscall.EEXIST) {
				return fmt.Errorf("add routing rule for port %d of the container: %w", p.first, err)
			}
		}
	}
	in.keeps = true
	return nil
}

// forget takes away all rules and routes, also those of a predecessor that was killed.
func (in *inside) forget() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.keeps = false
	clear(in.routes)
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		// What cannot be listed or is gone already needs no removal.
		rules, _ := in.nl.RuleList(family)
		for _, r := range rules {
			if r.Table == routeTable && r.Priority == rulePriority {
				r.Family = family
				_ = in.nl.RuleDel(&r)
			}
		}
		routes, _ := in.nl.RouteListFiltered(family, &netlink.Route{Table: routeTable, Type: unix.RTN_LOCAL}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
		for i := range routes {
			_ = in.nl.RouteDel(&routes[i])
		}
	}
}

// claim makes the way back to a client's address that of a socket inside, until release. It reports false when
// that cannot be.
func (in *inside) claim(client netip.Addr) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.keeps {
		return false
	}
	if r := in.routes[client]; r != nil {
		r.users++
		return true
	}
	in.pruneLocked(time.Now())
	if len(in.routes) >= maxRoutes {
		return false
	}
	if in.nl.RouteReplace(in.routeTo(client)) != nil {
		return false
	}
	in.routes[client] = &route{users: 1}
	return true
}

// release ends a claim.
func (in *inside) release(client netip.Addr) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if r := in.routes[client]; r != nil {
		if r.users--; r.users <= 0 {
			r.left = time.Now()
		}
	}
}

// pruneLocked takes away the routes of clients that have been gone for long.
func (in *inside) pruneLocked(now time.Time) {
	for client, r := range in.routes {
		if r.users <= 0 && now.Sub(r.left) > routeGrace {
			delete(in.routes, client)
			_ = in.nl.RouteDel(in.routeTo(client)) // the container may have flushed it
		}
	}
}

func (in *inside) routeTo(client netip.Addr) *netlink.Route {
	const loopback = 1 // the index of lo in every namespace
	src := in.source[0]
	if client.Is6() {
		src = in.source[1]
	}
	return &netlink.Route{
		Table: routeTable, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, LinkIndex: loopback,
		Dst: &net.IPNet{IP: client.AsSlice(), Mask: net.CIDRMask(client.BitLen(), client.BitLen())}, Src: src.AsSlice(),
	}
}

// portRange is ports of the container, of one IP protocol.
type portRange struct {
	proto       int
	first, last uint16
}

// portRanges are the container's ports that specs lead to, in as few ranges as it takes.
func portRanges(specs []portfwd.Spec) []portRange {
	var all []portRange
	for _, s := range specs {
		proto := unix.IPPROTO_TCP
		if s.Proto == portfwd.UDP {
			proto = unix.IPPROTO_UDP
		}
		all = append(all, portRange{proto, s.Port, s.Port})
	}
	slices.SortFunc(all, func(a, b portRange) int {
		if a.proto != b.proto {
			return a.proto - b.proto
		}
		return int(a.first) - int(b.first)
	})
	var merged []portRange
	for _, p := range all {
		if n := len(merged); n > 0 && merged[n-1].proto == p.proto && int(p.first) <= int(merged[n-1].last)+1 {
			merged[n-1].last = p.last
			continue
		}
		merged = append(merged, p)
	}
	return merged
}
