package cnm

import (
	"fmt"
	"time"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/cnm/store"
)

// networkRecord is a Network on disk.
type networkRecord struct {
	Created time.Time     `json:"created"`
	Config  NetworkConfig `json:"config"`
	Subnets []Subnet      `json:"subnets,omitempty"`
}

// lease is an Endpoint on disk: who has which addresses. It is there before anybody uses them, so that the
// next Controller does not give them to somebody else.
type lease struct {
	Network string         `json:"network"`
	Sandbox string         `json:"sandbox"`
	Name    string         `json:"name"`
	Config  EndpointConfig `json:"config"`
	Link    plumb.Link     `json:"link"`
}

func (c *Controller) writeNetwork(n *network) error {
	if err := c.cfg.Store.Put(store.Networks, n.id, networkRecord{n.created, n.conf, n.subnets}); err != nil {
		return fmt.Errorf("keep network %s: %w", n.conf.Name, err)
	}
	return nil
}

func (c *Controller) eraseNetwork(n *network) error {
	if err := c.cfg.Store.Delete(store.Networks, n.id); err != nil {
		return fmt.Errorf("forget network %s: %w", n.conf.Name, err)
	}
	return nil
}

func (c *Controller) writeLease(ep *endpoint) error {
	l := lease{Network: ep.net.id, Sandbox: ep.owner, Name: ep.name, Config: ep.conf, Link: ep.link}
	if err := c.cfg.Store.Put(store.Endpoints, ep.id, l); err != nil {
		return fmt.Errorf("keep the addresses of container %s: %w", ep.name, err)
	}
	return nil
}

func (c *Controller) dropLease(ep *endpoint) {
	if err := c.cfg.Store.Delete(store.Endpoints, ep.id); err != nil {
		c.log.Warn("lease not deleted", "network", ep.net.conf.Name, "container", ep.name, "err", err)
	}
}
