package cnm

import (
	"context"
	"fmt"
	"slices"

	"github.com/usernet/usernet/cnm/plumb"
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

// laterAttached is later once no TAP is on its way any more: a shim that does not answer must not keep its own TAPs from
// being attached, least of all when all come back to a new daemon.
func (sb *Sandbox) laterAttached() {
	sb.c.mu.Lock()
	waits := slices.ContainsFunc(sb.endpoints, func(ep *endpoint) bool { return ep.state == reserved })
	sb.c.mu.Unlock()
	if !waits {
		sb.c.later(sb)
	}
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
	if err = sb.clear(ctx); err == nil {
		err = sb.apply(ctx)
	}
	if err == nil {
		err = sb.tellKept(ctx)
	}
	if sb.ctx.Err() != nil || ctx.Err() != nil {
		return
	}
	known := sb.retries.pause > 0
	pause := sb.retries.next(err)
	switch {
	case err != nil && !known:
		sb.c.log.Warn("container not up to date", "container", sb.conf.Name, "err", err)
	case err == nil && known:
		sb.c.log.Info("container up to date again", "container", sb.conf.Name)
	}
	if pause > 0 {
		sb.again(pause)
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
