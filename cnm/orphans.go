package cnm

import (
	"time"

	"github.com/usernet/usernet/cnm/fault"
)

// watch starts watchOrphans if there are any.
func (c *Controller) watch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watching || c.closing || len(c.orphansLocked()) == 0 {
		return
	}
	c.watching = true
	c.wg.Go(c.watchOrphans)
}

// watchOrphans frees what orphans hold when their sandboxes die before they come back. It ends when there are
// none left.
func (c *Controller) watchOrphans() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		c.mu.Lock()
		orphans := c.orphansLocked()
		c.watching = len(orphans) > 0
		c.mu.Unlock()
		if len(orphans) == 0 {
			return
		}
		for _, ep := range orphans {
			if !c.cfg.Alive(ep.owner) {
				c.dropOrphan(ep)
			}
		}
		select {
		case <-tick.C:
		case <-c.ctx.Done():
			return
		}
	}
}

func (c *Controller) orphans() []*endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.orphansLocked()
}

func (c *Controller) orphansLocked() (all []*endpoint) {
	for _, n := range c.networks {
		for _, ep := range n.endpoints {
			if ep.state == orphaned {
				all = append(all, ep)
			}
		}
	}
	return all
}

// dropOrphan frees an orphan unless its sandbox has come back meanwhile.
func (c *Controller) dropOrphan(ep *endpoint) bool {
	c.mu.Lock()
	was := ep.state
	if was == orphaned {
		ep.state = leaving
	}
	c.mu.Unlock()
	if was != orphaned {
		return false
	}
	c.removeEndpoint(ep)
	c.log.Info("endpoint of a vanished container removed", "network", ep.net.conf.Name, "container", ep.name)
	c.tellNetwork("disconnect", ep.net, ep.owner)
	return true
}

// dropOrphansOf frees what is left of a sandbox that has come back without it.
func (c *Controller) dropOrphansOf(sandbox string) {
	for _, ep := range c.orphans() {
		if ep.owner == sandbox {
			c.dropOrphan(ep)
		}
	}
}

// removeOrphan is disconnect by force: of a sandbox that is not there, by its name, as Docker has it. None
// there is the error given.
func (c *Controller) removeOrphan(n *network, name string, none error) error {
	for _, ep := range c.orphans() {
		if ep.net == n && ep.name == name && c.dropOrphan(ep) {
			return nil
		}
	}
	return none
}

// findOrWait finds a sandbox that is to be changed; one that has not come back yet is worth another try.
func (c *Controller) findOrWait(ref string) (*Sandbox, error) {
	sb, err := c.findSandbox(ref)
	if err == nil || fault.KindOf(err) != fault.NotFound {
		return sb, err
	}
	for _, ep := range c.orphans() {
		if ep.name == ref || ep.owner == ref {
			return nil, fault.New(fault.Unavailable, "container %s is coming back to a new daemon; try again", ref)
		}
	}
	return nil, err
}
