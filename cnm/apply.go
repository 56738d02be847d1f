package cnm

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"

	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/tap"
)

// Bringing the world in line with the model.
//
// Ports, routes, files and views of names follow from a sandbox's legs by pure functions. apply compares what
// they say with what was told last and tells the difference. So a change is: change the model, apply; and
// its undoing is: change the model back, apply. A step that fails leaves what was told unknown, so that the
// next apply tells it again.

// apply brings the sandbox in line, stopping at the first failure. op is held.
func (sb *Sandbox) apply(ctx context.Context) error {
	if err := sb.c.step("ports"); err != nil {
		return err
	}
	if err := sb.placePorts(); err != nil {
		return err
	}
	if sb.isStarted() {
		if err := sb.tellRoutes(ctx); err != nil {
			return err
		}
		if err := sb.tellFiles(ctx); err != nil {
			return err
		}
	}
	if err := sb.c.step("views"); err != nil {
		return err
	}
	for _, ep := range sb.endpoints {
		if err := sb.c.tellView(ep); err != nil {
			return err
		}
	}
	return nil
}

func (sb *Sandbox) tellRoutes(ctx context.Context) error {
	if err := sb.c.step("routes"); err != nil {
		return err
	}
	sb.c.mu.Lock()
	r := sb.routesLocked()
	sb.c.mu.Unlock()
	if sb.told.routes != nil && *sb.told.routes == r {
		return nil
	}
	sb.told.routes = nil
	ctx, cancel := sb.asking(ctx)
	defer cancel()
	if err := sb.ns.SetRoutes(ctx, r); err != nil {
		return fmt.Errorf("set the routes of container %s: %w", sb.conf.Name, err)
	}
	sb.told.routes = &r
	return nil
}

func (sb *Sandbox) tellFiles(ctx context.Context) error {
	if err := sb.c.step("files"); err != nil {
		return err
	}
	sb.c.mu.Lock()
	files := sb.filesLocked()
	sb.c.mu.Unlock()
	changed := slices.DeleteFunc(slices.Clone(files), func(f plumb.File) bool { return slices.Contains(sb.told.files, f) })
	if len(changed) == 0 {
		return nil
	}
	sb.told.files = nil
	ctx, cancel := sb.asking(ctx)
	defer cancel()
	if err := sb.ns.SetFiles(ctx, changed); err != nil {
		return fmt.Errorf("write the files of container %s: %w", sb.conf.Name, err)
	}
	sb.told.files = files
	return nil
}

// tellKept gives the shim the sockets to keep. It is told in the background: a daemon that dies before
// costs the sandbox no more than binding its ports again.
func (sb *Sandbox) tellKept(ctx context.Context) error {
	specs := specsOf(sb.bound)
	if sb.told.keep && slices.Equal(sb.told.kept, specs) || !sb.told.keep && len(specs) == 0 {
		return nil
	}
	ctx, cancel := sb.asking(ctx)
	defer cancel()
	if err := sb.ns.Keep(ctx, sb.bound); err != nil {
		return fmt.Errorf("give the ports of container %s to its shim: %w", sb.conf.Name, err)
	}
	sb.told.keep, sb.told.kept = true, specs
	return nil
}

// later has the sandbox's namespaces brought in line soon, by a goroutine that waits for its turn.
func (c *Controller) later(sb *Sandbox) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if sb.syncing || sb.state == closed || c.closing {
		return
	}
	sb.syncing = true
	c.wg.Go(func() { sb.sync(c.ctx) })
}

func (sb *Sandbox) sync(ctx context.Context) {
	err := sb.lockRunning(ctx)
	sb.c.mu.Lock()
	sb.syncing = false
	sb.c.mu.Unlock()
	if err != nil {
		return
	}
	defer sb.unlock()
	if err = sb.apply(ctx); err == nil {
		err = sb.tellKept(ctx)
	}
	if err != nil && sb.ctx.Err() == nil && ctx.Err() == nil {
		sb.c.log.Warn("container not up to date", "container", sb.conf.Name, "err", err)
	}
}

// tellRelated tells those whose view depends on sb: the targets of its links of the holes for it at once, and those
// who link to it of its address soon, because their shims must not keep sb waiting.
func (c *Controller) tellRelated(sb *Sandbox) {
	c.mu.Lock()
	var targets []*endpoint
	var parents []*Sandbox
	for _, other := range c.sandboxes {
		if other == sb || other.state != joined {
			continue
		}
		if ep := other.onDefaultBridgeLocked(); ep != nil && ep.net.spec.Apart && len(sb.links) > 0 {
			targets = append(targets, ep)
		}
		if len(other.links) > 0 {
			parents = append(parents, other)
		}
	}
	c.mu.Unlock()
	for _, ep := range targets {
		if err := c.tellView(ep); err != nil {
			c.log.Warn("holes of links not up to date", "container", ep.name, "err", err)
		}
	}
	for _, p := range parents {
		c.later(p)
	}
}

// wire gives an Endpoint its TAP in the datapath, which hears of the Network if it is the first.
func (c *Controller) wire(ep *endpoint, dev *os.File, info tap.Info) error {
	n := ep.net
	n.wire.Lock()
	defer n.wire.Unlock()
	if err := c.step("attach"); err != nil {
		return err
	}
	if n.attached == 0 {
		if err := c.cfg.Datapath.AddNetwork(n.spec, c.knownHosts(n)); err != nil {
			return fmt.Errorf("start network %s: %w", n.conf.Name, err)
		}
	}
	c.mu.Lock()
	s := ep.specLocked()
	c.mu.Unlock()
	if err := c.cfg.Datapath.Attach(n.id, s, dev, info); err != nil {
		c.stopIdle(n)
		return fmt.Errorf("attach container %s to network %s: %w", ep.name, n.conf.Name, err)
	}
	n.attached++
	ep.view = &s
	c.mu.Lock()
	ep.state = attached
	c.mu.Unlock()
	return nil
}

// unwire takes an Endpoint from the datapath; it is about to go, so a failure changes nothing for it.
func (c *Controller) unwire(ep *endpoint) {
	n := ep.net
	n.wire.Lock()
	defer n.wire.Unlock()
	if ep.view == nil {
		return
	}
	ep.view = nil
	if err := c.cfg.Datapath.Detach(n.id, ep.id); err != nil {
		c.log.Warn("endpoint not detached", "network", n.conf.Name, "container", ep.name, "err", err)
	}
	n.attached--
	c.stopIdle(n)
}

// stopIdle ends a Network without Endpoints in the datapath. n.wire is held.
func (c *Controller) stopIdle(n *network) {
	if n.attached > 0 {
		return
	}
	if err := c.cfg.Datapath.RemoveNetwork(n.id); err != nil {
		c.log.Warn("idle network not stopped", "network", n.conf.Name, "err", err)
	}
}

// tellView tells the datapath what changed of an Endpoint's names, resolver and holes.
func (c *Controller) tellView(ep *endpoint) error {
	ep.net.wire.Lock()
	defer ep.net.wire.Unlock()
	if ep.view == nil {
		return nil
	}
	c.mu.Lock()
	s := ep.specLocked()
	c.mu.Unlock()
	if reflect.DeepEqual(*ep.view, s) {
		return nil
	}
	if err := c.cfg.Datapath.Update(ep.net.id, s); err != nil {
		return fmt.Errorf("update container %s in network %s: %w", ep.name, ep.net.conf.Name, err)
	}
	ep.view = &s
	return nil
}

// knownHosts are the names a Network's DNS knows beside its Endpoints.
func (c *Controller) knownHosts(n *network) map[string][]netip.Addr {
	if !n.names || n.conf.Internal {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.hostGatewayLocked(); a.IsValid() {
		return map[string][]netip.Addr{"host.docker.internal": {a}}
	}
	return nil
}

// placePorts binds the ports that are wanted while a leg may have them, and leads them to the right leg. op
// is held.
func (sb *Sandbox) placePorts() error {
	sb.c.mu.Lock()
	to := sb.targetsLocked()
	sb.c.mu.Unlock()
	if to[0] == nil {
		sb.dropPorts()
		return nil
	}
	if len(sb.bound) == 0 && len(sb.want) > 0 {
		ls, err := sb.bind(to[0], sb.want)
		if err != nil {
			return err
		}
		sb.setBound(ls)
	}
	for f := range to {
		if err := sb.leadPorts(f, to[f]); err != nil {
			return err
		}
	}
	return nil
}

// bind binds ports as the leg's Network has it.
func (sb *Sandbox) bind(ep *endpoint, want []portfwd.Spec) ([]portfwd.Listener, error) {
	specs := slices.Clone(want)
	for i := range specs {
		if !specs[i].HostIP.IsValid() {
			specs[i].HostIP = ep.net.seg.Bind
		}
	}
	ls, err := sb.c.ports.bind(specs)
	if err != nil {
		return nil, sb.portError(ep, err)
	}
	return ls, nil
}

// portError is what Docker's driver says when ports cannot be had.
func (sb *Sandbox) portError(ep *endpoint, err error) error {
	return fault.New(fault.KindOf(err), "driver failed programming external connectivity on endpoint %s (%s): %w", ep.name, ep.id, err)
}

// leadPorts leads the sockets of family f, 0 for IPv4 and 1 for IPv6, to a leg, or nowhere while that
// one has no TAP yet.
func (sb *Sandbox) leadPorts(f int, to *endpoint) error {
	if to != nil && to.view == nil {
		to = nil
	}
	if sb.lead[f] == to {
		return nil
	}
	ls := ofPortFamily(sb.bound, f)
	if from := sb.lead[f]; from != nil {
		if len(ls) > 0 {
			if err := sb.c.cfg.Datapath.Unpublish(from.net.id, from.id, specsOf(ls)); err != nil {
				return sb.portError(from, err)
			}
		}
		sb.lead[f] = nil
	}
	if to != nil {
		if len(ls) > 0 {
			if err := sb.c.cfg.Datapath.Publish(to.net.id, to.id, ls); err != nil {
				return sb.portError(to, err)
			}
		}
		sb.lead[f] = to
	}
	return nil
}

// dropPorts frees the ports; what is wanted stays. op is held.
func (sb *Sandbox) dropPorts() {
	for f := range sb.lead {
		if err := sb.leadPorts(f, nil); err != nil {
			sb.c.log.Warn("ports not withdrawn", "container", sb.conf.Name, "err", err)
			sb.lead[f] = nil
		}
	}
	ls := sb.bound
	sb.setBound(nil)
	sb.c.ports.release(ls)
}

func (sb *Sandbox) setBound(ls []portfwd.Listener) {
	sb.c.mu.Lock()
	sb.bound = ls
	sb.c.mu.Unlock()
}
