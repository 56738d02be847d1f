package cnm

import (
	"context"
	"fmt"

	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/portfwd"
)

// Rejoin takes over a sandbox that outlived an earlier Controller: its Endpoints as they are, and the sockets ls
// that its shim kept, which are the Sandbox's from now on; on an error they stay the caller's. Then its TAPs
// come by Attach.
func (c *Controller) Rejoin(ctx context.Context, s SandboxConfig, r Rejoin, ls []portfwd.Listener, ns Namespace) (*Sandbox, error) {
	sb, err := c.enter(&s, ns)
	if err != nil {
		return nil, err
	}
	if err := sb.rejoin(r, ls); err != nil {
		c.orphan(sb)
		sb.Close()
		return nil, err
	}
	sb.laterAttached()
	return sb, nil
}

// orphan lets go of the legs of a sandbox that could not be taken over: it lives, and may come again.
func (c *Controller) orphan(sb *Sandbox) {
	c.mu.Lock()
	legs := sb.endpoints
	sb.endpoints = nil
	for _, ep := range legs {
		ep.state, ep.sandbox = orphaned, nil
	}
	c.mu.Unlock()
	for _, ep := range legs {
		c.leave(ep)
	}
	c.watch()
}

func (sb *Sandbox) rejoin(r Rejoin, ls []portfwd.Listener) error {
	if err := sb.lock(context.Background()); err != nil {
		return err
	}
	defer sb.unlock()
	c := sb.c
	for _, e := range r.Endpoints {
		if err := c.takeOver(sb, e); err != nil {
			return fmt.Errorf("take over container %s: %w", sb.conf.Name, err)
		}
	}
	// A leg that was coming or going when the last daemon died has gone, but for its lease.
	c.dropOrphansOf(sb.conf.ID)
	sb.wantPorts()
	if len(ls) > 0 {
		c.ports.adopt(ls)
		sb.setPorts(specsOf(ls), ls)
		sb.told.keep, sb.told.kept = true, specsOf(ls)
	} else if err := sb.placePorts(); err != nil {
		// The last daemon died before its shim had the sockets, and somebody was quicker. Its legs are worth more.
		c.log.Warn("ports not published again", "container", sb.conf.Name, "err", err)
		sb.setPorts(nil, nil)
	}
	if r.PID != 0 {
		close(sb.started)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	sb.pid, sb.state = r.PID, joined
	return nil
}

// takeOver gives a sandbox one of its legs back: the orphan that waits for it, or else one made anew with the
// same addresses.
func (c *Controller) takeOver(sb *Sandbox, e RejoinEndpoint) (err error) {
	if err := e.check(); err != nil {
		return err
	}
	n, ep, err := c.claimOrphan(sb, e)
	if err != nil {
		return err
	}
	if ep == nil {
		if ep, err = c.remakeEndpoint(sb, n, e); err != nil {
			return err
		}
	}
	// Whether it joined or not, it is the sandbox's now, to be let go of like the others.
	_, err = ep.net.drv.Join(c.ctx, ep.net.id, ep.id, ep.owner)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(ep.net.claims, ep.name)
	ep.net.endpoints[ep.id] = ep
	sb.endpoints = append(sb.endpoints, ep)
	return err
}

// claimOrphan finds the Network of a leg and the orphan that is the leg, nil if there is none.
func (c *Controller) claimOrphan(sb *Sandbox, e RejoinEndpoint) (*network, *endpoint, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.networks[e.NetworkID]
	if n == nil || n.state != active || !n.plumbed {
		return nil, nil, fault.New(fault.NotFound, "network %s not found", e.NetworkID)
	}
	ep := n.endpoints[e.Link.EndpointID]
	switch {
	case ep == nil:
		return n, nil, nil
	case ep.state != orphaned || ep.owner != sb.conf.ID || ep.link.Addr4 != e.Link.Addr4 || ep.link.Addr6 != e.Link.Addr6 || ep.link.MAC != e.Link.MAC:
		return nil, nil, fault.New(fault.Conflict, "endpoint %s in network %s is another's", shortID(ep.id), n.conf.Name)
	}
	ep.state, ep.sandbox = reserved, sb
	return n, ep, nil
}

// remakeEndpoint makes a leg whose lease was lost. The shim's word for what it was is taken as far as a new leg
// could be like that.
func (c *Controller) remakeEndpoint(sb *Sandbox, n *network, e RejoinEndpoint) (_ *endpoint, err error) {
	links, err := parseLinks(e.Config.Links)
	if err != nil {
		return nil, err
	}
	if err := n.admits(&e.Config); err != nil {
		return nil, err
	}
	var undo undo
	defer undo.unless(&err)
	ep := &endpoint{id: e.Link.EndpointID, net: n, name: sb.conf.Name, owner: sb.conf.ID,
		conf: e.Config, links: links, link: e.Link, sandbox: sb}
	c.mu.Lock()
	err = c.claimLocked(ep)
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	undo.add(func() {
		c.mu.Lock()
		delete(ep.net.claims, ep.name)
		c.mu.Unlock()
	})
	if err := c.reclaim(ep, &undo); err != nil {
		return nil, err
	}
	if err := c.writeLease(ep); err != nil {
		return nil, err
	}
	return ep, nil
}

// abandon ends the Sandbox for this Controller alone: its namespaces, its leases and what its shim keeps
// live on. It returns the sockets to close.
func (sb *Sandbox) abandon() []portfwd.Listener {
	sb.cancel()
	sb.op <- struct{}{}
	defer sb.unlock()
	sb.c.mu.Lock()
	defer sb.c.mu.Unlock()
	ls := sb.bound
	sb.state, sb.bound = closed, nil
	return ls
}
