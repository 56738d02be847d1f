package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/usernet/usernet/cnm/plumb"
)

// Namespace is the network namespace of the calling thread, which has CAP_NET_ADMIN there.
type Namespace struct {
	// Own says that it was made for us: its interfaces forward nothing from one to another. In one that
	// somebody else made, whether they do is left as it is.
	Own bool
	// NoSysctls leaves /proc/sys as it is, but for the Sysctls of Links and a congestion control that paces: whoever
	// made the namespace has its own idea of them.
	NoSysctls bool
	// Log takes settings that could not be made; nil discards them.
	Log *slog.Logger
}

// queueLen is the transmit queue of the interface, in frames. The kernel fills it without
// back-pressure and drops the rest. Of a burst of 1000 small datagrams the default of 500 let 499
// to 912 through, 1000 let 991 to all through (measured with a reader that takes 3 µs a frame). More
// is not better: the kernel charges what is in the queue to nobody, so it is what a hostile
// container can hold, 64 MiB as it is.
const queueLen = 1000

// Configure sets up lo, links, whose interfaces exist, and routes. An error leaves the namespace half
// configured; whoever made it ends it.
func (n Namespace) Configure(links []plumb.Link, routes plumb.Routes) error {
	h, err := open()
	if err != nil {
		return fmt.Errorf("configure namespace: %w", err)
	}
	defer h.Close()
	if slices.ContainsFunc(links, func(l plumb.Link) bool { return !l.Down }) {
		n.sysctls()
	}
	if err := loopback(h); err != nil {
		return fmt.Errorf("configure namespace: %w", err)
	}
	for _, l := range links {
		if err := n.plug(h, l); err != nil {
			return err
		}
	}
	return setRoutes(h, plumb.Routes{}, routes)
}

// Plug sets up the interface of l, which exists. After an error the caller removes it.
func (n Namespace) Plug(l plumb.Link) error {
	h, err := open()
	if err != nil {
		return fmt.Errorf("configure %s: %w", l.Name, err)
	}
	defer h.Close()
	return n.plug(h, l)
}

// Unplug removes the TAP called name, and with it its addresses and routes. One that is gone is no error, and
// an interface of another kind, which the container made under that name, is left alone.
func (n Namespace) Unplug(name string) error {
	h, err := open()
	if err != nil {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	defer h.Close()
	link, err := h.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil && link.Type() == "tuntap" {
		err = h.LinkDel(link)
	}
	// The last descriptor of the TAP may be closed at this very moment.
	if err != nil && !errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}

func open() (*netlink.Handle, error) {
	h, err := netlink.NewHandle(syscall.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return h, nil
}

func (n Namespace) log() *slog.Logger {
	if n.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return n.Log
}

func (n Namespace) plug(h *netlink.Handle, l plumb.Link) error {
	if err := check(l); err != nil {
		return fmt.Errorf("configure %s: %w", l.Name, err)
	}
	link, err := h.LinkByName(l.Name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", l.Name, err)
	}
	if !n.NoSysctls {
		n.linkSysctls(l)
	}
	steps := []func() error{
		func() error { return n.forwarding(link) },
		func() error { return userSysctls(l.Sysctls) },
		func() error { return linkUp(h, link, l) },
		func() error { return addresses(h, link, l) },
		func() error { return further(h, link, l) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("configure %s: %w", l.Name, err)
		}
	}
	return nil
}

// check refuses what would be understood otherwise than it is meant.
func check(l plumb.Link) error {
	for _, f := range []struct {
		addr netip.Prefix
		v4   bool
	}{{l.Addr4, true}, {l.Addr6, false}} {
		if f.addr.IsValid() && f.addr.Addr().Is4() != f.v4 {
			return fmt.Errorf("address %v is of the other family", f.addr)
		}
	}
	for _, a := range l.LinkLocal {
		if !a.IsValid() || !a.Addr().IsLinkLocalUnicast() {
			return fmt.Errorf("address %v is not link-local; use one of 169.254.0.0/16 or fe80::/64", a)
		}
	}
	for name := range l.Sysctls {
		if _, err := sysctlPath(name); err != nil {
			return err
		}
	}
	return nil
}

func loopback(h *netlink.Handle) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

func linkUp(h *netlink.Handle, link netlink.Link, l plumb.Link) error {
	a := link.Attrs()
	// Whoever made an interface and configures it chose its MTU.
	if l.MTU != 0 && l.MTU != a.MTU && !(l.Adopt && l.Down) {
		if err := h.LinkSetMTU(link, l.MTU); err != nil {
			return fmt.Errorf("set MTU to %d: %w", l.MTU, err)
		}
	}
	if !l.MAC.IsZero() && l.MAC.String() != a.HardwareAddr.String() {
		if err := h.LinkSetHardwareAddr(link, l.MAC[:]); err != nil {
			return fmt.Errorf("set MAC address to %v: %w", l.MAC, err)
		}
	}
	if a.TxQLen != queueLen {
		if err := h.LinkSetTxQLen(link, queueLen); err != nil {
			return fmt.Errorf("set transmit queue to %d frames: %w", queueLen, err)
		}
	}
	if l.Down {
		return nil
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

// addresses adds those of l; the routes to their subnets come with them.
func addresses(h *netlink.Handle, link netlink.Link, l plumb.Link) error {
	for _, addr := range slices.Concat([]netip.Prefix{l.Addr4, l.Addr6}, l.LinkLocal, l.Addrs) {
		if !addr.IsValid() {
			continue
		}
		na := &netlink.Addr{IPNet: ipNet(addr)}
		if addr.Addr().Is6() {
			na.Flags = syscall.IFA_F_NODAD
		}
		if err := h.AddrAdd(link, na); err != nil {
			return fmt.Errorf("add address %v: %w", addr, err)
		}
	}
	return nil
}

// hasIPv6 reports whether l speaks IPv6.
func hasIPv6(l plumb.Link) bool {
	for _, a := range slices.Concat(l.LinkLocal, l.Addrs) {
		if a.Addr().Is6() {
			return true
		}
	}
	return l.Addr6.IsValid()
}

// forwarding switches off in IPv4 what the kernel copies from the host into new namespaces: a host that
// forwards, as those of container engines do, would have each sandbox of two Networks be a router between them.
func (n Namespace) forwarding(link netlink.Link) error {
	if !n.Own {
		return nil
	}
	if err := setDevconf(link, devconfForwarding, 0); err != nil {
		return fmt.Errorf("switch forwarding off: %w", err)
	}
	return nil
}

// ipNet is p as the netlink package wants it: the address with its host bits.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// readOnly adds to err what to do where the settings of the kernel are mounted read-only.
func readOnly(err error) error {
	if errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w; is /proc/sys read-only in here?", err)
	}
	return err
}
