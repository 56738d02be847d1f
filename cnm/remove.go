package cnm

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/usernet/usernet/cnm/fault"
)

// Remove removes the Network that ref names: its id, its name, or the prefix of its id. One with Endpoints
// stays (LC6).
func (c *Controller) Remove(ctx context.Context, ref string) error {
	c.mu.Lock()
	n, err := c.findLocked(ref)
	if err == nil {
		err = c.retireLocked(n)
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return c.unmake(n)
}

// retireLocked lets the Network take no more Endpoints, or says why it must stay.
func (c *Controller) retireLocked(n *network) error {
	if predefined(n.conf.Name) {
		return fault.New(fault.Forbidden, "%s is a pre-defined network and cannot be removed", n.conf.Name)
	}
	for _, other := range c.networks {
		if n.conf.ConfigOnly && other.conf.ConfigFrom == n.conf.Name {
			return fault.New(fault.Forbidden, "configuration network %q is in use", n.conf.Name)
		}
	}
	var users []string
	for _, ep := range n.endpoints {
		users = append(users, fmt.Sprintf("name:%q id:%q", ep.name, shortID(ep.id)))
	}
	for name := range n.claims {
		users = append(users, fmt.Sprintf("name:%q", name))
	}
	if len(users) > 0 {
		slices.Sort(users)
		return fault.New(fault.Forbidden, "error while removing network: network %s has active endpoints (%s)", n.conf.Name, strings.Join(users, ", "))
	}
	n.state = removing
	return nil
}

// unmake is the reverse of make. What it has removed from the store is gone, whatever the rest says.
func (c *Controller) unmake(n *network) error {
	err := c.step("unstore")
	if err == nil {
		err = c.eraseNetwork(n)
	}
	if err != nil {
		c.mu.Lock()
		n.state = active
		c.mu.Unlock()
		return err
	}
	if n.plumbed {
		c.unreserve(n)
	}
	if n.drv != nil {
		c.dropFromDriver(n)
		c.releaseSubnets(n)
	}
	c.release(n)
	c.log.Info("network removed", "network", n.conf.Name)
	c.tellNetwork("destroy", n, "")
	return nil
}

// Prune removes the Networks that match and that nobody uses, and returns their names. Those that are always
// there, and those that hold settings for others, stay.
func (c *Controller) Prune(ctx context.Context, match func(NetworkInfo) bool) ([]string, error) {
	c.mu.Lock()
	if c.pruning {
		c.mu.Unlock()
		return nil, fault.New(fault.Conflict, "a prune operation is already running")
	}
	c.pruning = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.pruning = false
		c.mu.Unlock()
	}()
	all := c.Networks()
	slices.SortStableFunc(all, func(a, b NetworkInfo) int { return a.Created.Compare(b.Created) })
	var gone []string
	for _, info := range all {
		if err := context.Cause(ctx); err != nil {
			return gone, err
		}
		if predefined(info.Name) || info.ConfigOnly || len(info.Endpoints) > 0 || !match(info) {
			continue
		}
		switch err := c.Remove(ctx, info.ID); fault.KindOf(err) {
		case fault.Forbidden, fault.NotFound: // used, or gone, since we looked
		default:
			if err != nil {
				return gone, err
			}
			gone = append(gone, info.Name)
		}
	}
	c.tell(Event{Type: "network", Action: "prune"})
	return gone, nil
}
