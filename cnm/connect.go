package cnm

import (
	"context"
	"fmt"

	"github.com/usernet/usernet/cnm/fault"
)

// Legs that come and go while the command runs.
//
// Connect: addresses and lease, the interface, its TAP into the datapath, then apply (ports, routes, files,
// views). Disconnect: apply as if the leg were gone, so that nothing leads to it any more, then the interface,
// then TAP, lease and addresses. The interface's end is the point of no return: before it a failure undoes
// everything, after it nothing fails.
//
// A caller that goes away ends the step under way, and the undoing of what came before goes on without it.

// Connect gives a running sandbox another leg.
func (c *Controller) Connect(ctx context.Context, sandbox string, e EndpointConfig) error {
	sb, err := c.findOrWait(sandbox)
	if err != nil {
		return err
	}
	if err := sb.lockSoon(ctx); err != nil {
		return err
	}
	defer sb.unlock()
	ep, err := c.addEndpoint(ctx, sb, e)
	if err != nil {
		return err
	}
	if err = sb.plug(ctx, ep); err == nil {
		err = sb.apply(ctx)
	}
	if err != nil {
		sb.undo(ctx, ep)
		return err
	}
	c.tellNetwork("connect", ep.net, sb.conf.ID)
	c.tellRelated(sb)
	c.later(sb)
	return nil
}

// plug makes the leg's interface and gives its TAP to the datapath.
func (sb *Sandbox) plug(ctx context.Context, ep *endpoint) error {
	if err := sb.c.step("plug"); err != nil {
		return err
	}
	if err := sb.clear(ctx); err != nil {
		return err
	}
	ctx, cancel := sb.asking(ctx)
	defer cancel()
	dev, info, err := sb.ns.Plug(ctx, ep.link)
	if err != nil {
		return fmt.Errorf("make interface %s of container %s: %w", ep.link.Name, sb.conf.Name, err)
	}
	defer dev.Close()
	return sb.c.wire(ep, dev, info)
}

// undo takes a leg away that did not come to be. It goes on when the caller has gone.
func (sb *Sandbox) undo(ctx context.Context, ep *endpoint) {
	ctx = context.WithoutCancel(ctx)
	sb.mark(ep, leaving)
	err := sb.apply(ctx)
	if e := sb.unplug(ctx, ep); e != nil {
		sb.strays = append(sb.strays, ep.id)
		err = e
	}
	sb.forget(ep)
	if err != nil && sb.ctx.Err() == nil {
		sb.c.log.Warn("connect not undone in full", "container", sb.conf.Name, "network", ep.net.conf.Name, "err", err)
		sb.c.later(sb)
	}
}

func (sb *Sandbox) mark(ep *endpoint, s endpointState) {
	sb.c.mu.Lock()
	ep.state = s
	sb.c.mu.Unlock()
}

func (sb *Sandbox) unplug(ctx context.Context, ep *endpoint) error {
	if err := sb.c.step("unplug"); err != nil {
		return err
	}
	ctx, cancel := sb.asking(ctx)
	defer cancel()
	if err := sb.ns.Unplug(ctx, ep.id); err != nil {
		return fmt.Errorf("remove interface %s of container %s: %w", ep.link.Name, sb.conf.Name, err)
	}
	return nil
}

// clear removes the interfaces of legs that are gone, of which the shim did not say that they are: it may have
// made one after all, when nobody waited for it any more.
func (sb *Sandbox) clear(ctx context.Context) error {
	for len(sb.strays) > 0 {
		ctx, cancel := sb.asking(ctx)
		err := sb.ns.Unplug(ctx, sb.strays[0])
		cancel()
		if err != nil {
			return fmt.Errorf("remove a left interface of container %s: %w", sb.conf.Name, err)
		}
		sb.strays = sb.strays[1:]
	}
	return nil
}

// forget frees everything of a leg whose interface has gone.
func (sb *Sandbox) forget(ep *endpoint) {
	for f := range sb.lead {
		if sb.lead[f] == ep {
			if err := sb.leadPorts(f, nil); err != nil {
				sb.lead[f] = nil
			}
		}
	}
	sb.c.unwire(ep)
	sb.c.removeEndpoint(ep)
}

// Disconnect takes one away. With force it also removes the Endpoint of a sandbox that has vanished.
func (c *Controller) Disconnect(ctx context.Context, network, sandbox string, force bool) error {
	n, err := c.find(network)
	if err != nil {
		return err
	}
	sb, err := c.findSandbox(sandbox)
	if err != nil {
		if fault.KindOf(err) == fault.NotFound && force {
			return c.removeOrphan(n, sandbox, err)
		}
		return err
	}
	if err := sb.lockSoon(ctx); err != nil {
		return err
	}
	defer sb.unlock()
	ep := first(sb.endpoints, func(ep *endpoint) bool { return ep.net == n })
	if ep == nil {
		return fmt.Errorf("container %s is not connected to network %s", sb.conf.ID, n.conf.Name)
	}
	was := ep.state
	sb.mark(ep, leaving)
	if err = sb.apply(ctx); err == nil {
		err = sb.unplug(ctx, ep)
	}
	if err != nil {
		sb.mark(ep, was)
		if e := sb.apply(context.WithoutCancel(ctx)); e != nil && sb.ctx.Err() == nil {
			c.log.Warn("disconnect not undone in full", "container", sb.conf.Name, "network", n.conf.Name, "err", e)
			c.later(sb)
		}
		return err
	}
	sb.forget(ep)
	c.tellNetwork("disconnect", n, sb.conf.ID)
	c.tellRelated(sb)
	c.later(sb)
	return nil
}
