package cnm

import (
	"fmt"
	"net/netip"
	"os"
	"reflect"

	"github.com/usernet/usernet/tap"
)

// What the datapath has of a Network: nothing until the first Endpoint is there, nothing after the last.

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
	if a := c.hostGateway(n); a.IsValid() {
		return map[string][]netip.Addr{"host.docker.internal": {a}}
	}
	return nil
}
