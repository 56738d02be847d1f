package cnm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/usernet/usernet/cnm/driver"
	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// endpointState is how far an Endpoint is.
//
//	reserved ──► attached ──► leaving
//	   └─────────────────────────▲
//	orphaned ──► reserved
//
// The way back from leaving to where it was is that of a disconnect that fails.
type endpointState uint8

const (
	reserved endpointState = iota // it has addresses and a lease; its interface may not be there yet
	attached                      // its TAP is in the datapath
	leaving                       // it counts no more for routes, names and ports
	orphaned                      // of an earlier Controller; its sandbox has not come back yet
)

// endpoint is one leg of a sandbox. What has no word on it does not change once it is in its Network's map.
type endpoint struct {
	id    string
	net   *network
	name  string // of its sandbox
	owner string // id of its sandbox
	conf  EndpointConfig
	links []link // private aliases
	link  plumb.Link

	state   endpointState // guarded by Controller.mu
	sandbox *Sandbox      // nil for an orphan; guarded by Controller.mu

	// view is what the datapath was told of it, nil when it has not got it; guarded by net.wire.
	view *spec.Endpoint
}

// infoLocked is a snapshot.
func (ep *endpoint) infoLocked() EndpointInfo {
	t := ep.net.spec
	info := EndpointInfo{
		ID: ep.id, NetworkID: ep.net.id, NetworkName: ep.net.conf.Name, SandboxName: ep.name,
		Config: ep.conf, Interface: ep.link.Name, MAC: ep.link.MAC, Addr4: ep.link.Addr4, Addr6: ep.link.Addr6,
	}
	if info.Addr4.IsValid() {
		info.Gateway4 = t.Gateway4
	}
	if info.Addr6.IsValid() {
		info.Gateway6 = t.Gateway6
	}
	if ep.sandbox != nil {
		info.SandboxID = ep.owner
		if ep.net.names {
			info.Names = dnsNames(&ep.sandbox.conf, &ep.conf)
		}
	}
	return info
}

// newID is an id as Docker's: 64 hexadecimal digits.
func newID() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// addEndpoint makes a leg: it takes its name in the Network, its addresses, and writes the lease. op is
// held.
func (c *Controller) addEndpoint(ctx context.Context, sb *Sandbox, e EndpointConfig) (*endpoint, error) {
	links, err := parseLinks(e.Links)
	if err != nil {
		return nil, err
	}
	n, err := c.find(e.Network)
	if err != nil {
		return nil, err
	}
	if err := n.admits(&e); err != nil {
		return nil, err
	}
	ep := &endpoint{id: newID(), net: n, name: sb.conf.Name, owner: sb.conf.ID, conf: e, links: links, sandbox: sb}
	c.mu.Lock()
	err = c.claimLocked(ep)
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := c.fillEndpoint(ctx, sb, ep); err != nil {
		c.mu.Lock()
		delete(n.claims, ep.name)
		c.mu.Unlock()
		return nil, err
	}
	return ep, nil
}

// claimLocked takes a leg's name in its Network, which from then on cannot be removed.
func (c *Controller) claimLocked(ep *endpoint) error {
	n := ep.net
	if n.state != active {
		return fault.New(fault.NotFound, "network %s not found", ep.conf.Network)
	}
	taken := n.claims[ep.name]
	for _, other := range n.endpoints {
		taken = taken || other.name == ep.name
	}
	if taken {
		return fault.New(fault.Forbidden, "endpoint with name %s already exists in network %s", ep.name, n.conf.Name)
	}
	n.claims[ep.name] = true
	return nil
}

// fillEndpoint takes addresses, asks the driver, writes the lease and enters the leg into the model.
func (c *Controller) fillEndpoint(ctx context.Context, sb *Sandbox, ep *endpoint) (err error) {
	var undo undo
	defer undo.unless(&err)
	if err := c.step("addresses"); err != nil {
		return err
	}
	addr4, addr6, err := c.takeAddresses(ep, &undo)
	if err != nil {
		return err
	}
	leg, err := c.makeLeg(ctx, ep, addr4, addr6, &undo)
	if err != nil {
		return err
	}
	if ep.link, err = sb.linkOf(ep, leg); err != nil {
		return err
	}
	if err := c.step("lease"); err != nil {
		return err
	}
	if err := c.writeLease(ep); err != nil {
		return err
	}
	undo.add(func() { c.dropLease(ep) })
	if err := c.step("enter"); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(ep.net.claims, ep.name)
	ep.net.endpoints[ep.id] = ep
	sb.endpoints = append(sb.endpoints, ep)
	return nil
}

// takeAddresses takes a leg's addresses: IPv4, then IPv6.
func (c *Controller) takeAddresses(ep *endpoint, undo *undo) (addr4, addr6 netip.Prefix, err error) {
	take := func(v6 bool, want netip.Addr) (p netip.Prefix, err error) {
		if p, err = ep.net.takeAddress(v6, want); err == nil && p.IsValid() {
			undo.add(func() { ep.net.freeAddress(p.Addr()) })
		}
		return p, err
	}
	if addr4, err = take(false, ep.conf.IPv4); err == nil {
		addr6, err = take(true, ep.conf.IPv6)
	}
	return addr4, addr6, err
}

// makeLeg asks the driver what the leg is made of.
func (c *Controller) makeLeg(ctx context.Context, ep *endpoint, addr4, addr6 netip.Prefix, undo *undo) (driver.Leg, error) {
	n := ep.net
	mac := ep.conf.MAC
	if mac.IsZero() && ep.sandbox.conf.Profile == Profile2010 && addr4.IsValid() {
		mac = addressMAC(addr4.Addr())
	}
	if _, err := n.drv.CreateEndpoint(ctx, n.id, ep.forDriver(mac, addr4, addr6)); err != nil {
		return driver.Leg{}, err
	}
	undo.add(func() { c.unmakeLeg(ep) })
	return n.drv.Join(ctx, n.id, ep.id, ep.owner)
}

func (ep *endpoint) forDriver(mac l2.MAC, addr4, addr6 netip.Prefix) driver.Endpoint {
	return driver.Endpoint{ID: ep.id, MAC: mac, Addr4: addr4, Addr6: addr6, Options: ep.conf.DriverOpts}
}

// unmakeLeg is the reverse of makeLeg.
func (c *Controller) unmakeLeg(ep *endpoint) {
	n := ep.net
	c.leave(ep)
	if err := n.drv.DeleteEndpoint(c.ctx, n.id, ep.id); err != nil {
		c.log.Warn("driver keeps an endpoint", "network", n.conf.Name, "container", ep.name, "err", err)
	}
}

func (c *Controller) leave(ep *endpoint) {
	if err := ep.net.drv.Leave(c.ctx, ep.net.id, ep.id); err != nil {
		c.log.Warn("driver does not let a container leave", "network", ep.net.conf.Name, "container", ep.name, "err", err)
	}
}

// linkOf names the leg's interface, as asked for, else the lowest free number, and adds its link-local
// addresses.
func (sb *Sandbox) linkOf(ep *endpoint, leg driver.Leg) (plumb.Link, error) {
	taken := func(name string) bool {
		return slices.ContainsFunc(sb.endpoints, func(o *endpoint) bool { return o.link.Name == name })
	}
	name := leg.Name
	if taken(name) {
		return plumb.Link{}, fault.New(fault.Conflict, "interface %s exists already in container %s", name, sb.conf.Name)
	}
	for i := 0; name == "" || taken(name); i++ {
		name = fmt.Sprintf("%s%d", leg.Prefix, i)
	}
	l := leg.Link(ep.id, name)
	for _, a := range ep.conf.LinkLocal {
		bits := 16
		if a.Is6() {
			bits = 64
		}
		l.LinkLocal = append(l.LinkLocal, netip.PrefixFrom(a, bits))
	}
	return l, nil
}

// addressMAC is 02:42: and the IPv4 address, as Docker made them before Engine 28.
func addressMAC(a netip.Addr) l2.MAC {
	b := a.As4()
	return l2.MAC{0x02, 0x42, b[0], b[1], b[2], b[3]}
}

// removeEndpoint frees a leg's lease, name and addresses. That the lease cannot be deleted is no reason to keep
// the rest: it is dropped when its sandbox comes back without the leg, or does not come back.
func (c *Controller) removeEndpoint(ep *endpoint) {
	c.dropLease(ep)
	c.unmakeLeg(ep)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(ep.net.endpoints, ep.id)
	if sb := ep.sandbox; sb != nil {
		sb.endpoints = slices.DeleteFunc(slices.Clone(sb.endpoints), func(o *endpoint) bool { return o == ep })
	}
	for _, p := range []netip.Prefix{ep.link.Addr4, ep.link.Addr6} {
		if p.IsValid() {
			ep.net.freeAddress(p.Addr())
		}
	}
}

// admits refuses what cannot be a leg of the Network, in Docker's words.
func (n *network) admits(e *EndpointConfig) error {
	switch {
	case n.conf.ConfigOnly:
		return fault.New(fault.Forbidden, "cannot create endpoint on configuration-only network")
	case n.conf.Driver == "host":
		return fault.New(fault.Invalid, "cannot connect container to host network - container must be created in host network mode")
	case !n.plumbed:
		return fault.New(fault.Invalid, "container cannot be connected to multiple networks with one of the networks in private (none) mode")
	}
	var errs []error
	if !n.names {
		if e.IPv4.IsValid() || e.IPv6.IsValid() || len(e.LinkLocal) > 0 {
			errs = append(errs, errors.New("user-specified IP address is supported on user-defined networks only"))
		}
		if len(e.Aliases) > 0 {
			errs = append(errs, errors.New("network-scoped aliases are only supported for user-defined networks"))
		}
	}
	for _, a := range e.Aliases {
		if !isWord(a) {
			errs = append(errs, fmt.Errorf("invalid alias %q: want one word of at most %d bytes", a, maxWord))
		}
	}
	errs = append(errs, n.checkAddresses(e)...)
	if len(errs) == 0 {
		return nil
	}
	return fault.New(fault.Invalid, "invalid endpoint settings:\n%w", list(errs))
}

// checkAddresses checks the addresses asked for against the Network's subnets.
func (n *network) checkAddresses(e *EndpointConfig) (errs []error) {
	for _, f := range []struct {
		name string
		addr netip.Addr
		fits bool
	}{{"IPv4", e.IPv4, e.IPv4.Is4()}, {"IPv6", e.IPv6, e.IPv6.Is6() && !e.IPv6.Is4In6()}} {
		switch {
		case !f.addr.IsValid():
		case !f.fits || f.addr.IsUnspecified():
			errs = append(errs, fmt.Errorf("invalid %s address: %s", f.name, f.addr))
		case !slices.ContainsFunc(n.subnets, func(s Subnet) bool { return s.Prefix.Contains(f.addr) }):
			errs = append(errs, fmt.Errorf("no configured subnet contains IP address %s", f.addr))
		}
	}
	for _, a := range e.LinkLocal {
		switch {
		case !a.IsValid() || a.IsUnspecified():
			errs = append(errs, fmt.Errorf("invalid link-local IP address: %s", a))
		case !a.IsLinkLocalUnicast():
			errs = append(errs, fmt.Errorf("invalid link local IP address: %s", a))
		}
	}
	return errs
}

// list is several errors as Docker writes them.
func list(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	var b strings.Builder
	for _, err := range errs {
		b.WriteString("* " + err.Error() + "\n")
	}
	return errors.New(strings.TrimSuffix(b.String(), "\n"))
}

// undo is what takes back the steps of a function that fails, the last first. One that does not come to its end
// takes back nothing.
type undo []func()

func (u *undo) add(f func()) { *u = append(*u, f) }

// unless runs it unless *err is nil; it is deferred.
func (u *undo) unless(err *error) {
	if *err == nil {
		return
	}
	for _, f := range slices.Backward(*u) {
		f()
	}
}
