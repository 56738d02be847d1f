package join

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/internal/control"
	"github.com/usernet/usernet/internal/shim"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// errAway is what a request says when no daemon came back in time.
var errAway = fault.New(fault.Unavailable, "the daemon is gone and has not come back yet; usernet daemon starts one, its log says why it ended")

// running waits for a daemon, for as long as a request may.
func (c *Client) running(deadline time.Time) (*link, int, error) {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	for {
		c.mu.Lock()
		state, l, epoch, turned := c.state, c.l, c.epoch, c.turned
		c.mu.Unlock()
		switch state {
		case control.Running:
			return l, epoch, nil
		case control.Closed:
			return nil, 0, control.ErrClosed
		}
		select {
		case <-turned:
		case <-timer.C:
			return nil, 0, errAway
		}
	}
}

// Attach implements shim.Network: it keeps a duplicate of the TAP and gives the daemon one. The file stays the
// caller's.
func (c *Client) Attach(endpointID string, dev *os.File, info tap.Info) error {
	byPlug, err := c.keepTAP(endpointID, dev, info)
	if err == nil && !byPlug {
		if err = c.attach(endpointID); err != nil {
			c.mu.Lock()
			if t := c.taps[endpointID]; t != nil {
				t.fd.close()
				delete(c.taps, endpointID)
			}
			c.mu.Unlock()
		}
	}
	if err != nil {
		return fmt.Errorf("attach %s: %w", info.Name, err)
	}
	return nil
}

// attach gives the daemon a kept TAP, or sees that a rejoin did. It survives the end of a daemon.
func (c *Client) attach(endpointID string) error {
	deadline := time.Now().Add(c.opts.pauses.gap)
	for {
		l, epoch, err := c.running(deadline)
		if err != nil {
			return err
		}
		c.mu.Lock()
		t := c.taps[endpointID]
		there := t == nil || t.epoch == epoch
		c.mu.Unlock()
		if there {
			return nil
		}
		err = c.giveTAP(c.ctx, l, endpointID, t)
		if err == nil {
			c.mu.Lock()
			t.epoch = max(t.epoch, epoch)
			c.mu.Unlock()
			return nil
		}
		if !errors.Is(err, ErrGone) {
			return err
		}
		// The state follows; do not ask the same connection again.
		c.left(l)
	}
}

// left waits until l is no longer the connection.
func (c *Client) left(l *link) {
	for {
		c.mu.Lock()
		same, turned := c.l == l && c.state == control.Running, c.turned
		c.mu.Unlock()
		if !same {
			return
		}
		<-turned
	}
}

// Started implements shim.Network. It does not wait for the daemon.
func (c *Client) Started(pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pid = pid
	c.tellPIDLocked()
}

// tellPIDLocked tells the daemon, if there is one, which process is in the namespaces.
func (c *Client) tellPIDLocked() {
	if c.state != control.Running {
		return
	}
	l, pid := c.l, c.pid
	c.pidTold = c.epoch
	c.wg.Go(func() {
		if err := l.notify(kindStarted, pidBody{pid}); err != nil && !errors.Is(err, ErrGone) {
			c.log.Warn("daemon not told of the start", "err", err)
		}
	})
}

// Changes implements shim.Network.
func (c *Client) Changes() <-chan shim.Change { return c.changes }

// Done implements shim.Network: it is closed by Close, since a daemon that is gone comes back.
func (c *Client) Done() <-chan struct{} { return c.done }

// Status says how the connection stands: Running, Restarting or Closed, and how many daemons have had the sandbox
// after the first.
func (c *Client) Status() control.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return control.Status{State: c.state, Restarts: max(0, c.daemons-1)}
}

// Ports returns the published ports as they are bound. While there is no daemon they are those whose
// sockets were kept.
func (c *Client) Ports() []portfwd.Spec {
	b, err := ask[portsBody](context.Background(), c, time.Now(), kindPorts, nil)
	if err == nil {
		return b.Ports
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	specs := make([]portfwd.Spec, len(c.sockets))
	for i, k := range c.sockets {
		specs[i] = k.spec
	}
	return specs
}

// Publish binds host ports and forwards them to the sandbox: all or none.
func (c *Client) Publish(specs []portfwd.Spec) ([]portfwd.Spec, error) {
	b, err := ask[portsBody](context.Background(), c, c.gap(), kindPublish, portsBody{specs})
	return b.Ports, err
}

// Unpublish ends what Publish began.
func (c *Client) Unpublish(specs []portfwd.Spec) error {
	_, err := ask[struct{}](context.Background(), c, c.gap(), kindUnpublish, portsBody{specs})
	return err
}

// Stats returns the counters of the sandbox's Network.
func (c *Client) Stats(ctx context.Context) (spec.Stats, error) {
	return ask[spec.Stats](ctx, c, c.gap(), kindStats, nil)
}

func (c *Client) gap() time.Time { return time.Now().Add(c.opts.pauses.gap) }

// ask makes a request once there is a daemon, which is waited for until deadline. One that ends before it answers
// may have done what it was asked, so it is not asked twice.
func ask[T any](ctx context.Context, c *Client, deadline time.Time, k kind, v any) (T, error) {
	var zero T
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-c.done:
		return zero, control.ErrClosed
	case <-ctx.Done():
		return zero, ctx.Err()
	}
	l, _, err := c.running(deadline)
	if err != nil {
		return zero, err
	}
	r, err := l.call(ctx, k, v)
	defer r.close()
	switch {
	case errors.Is(err, ErrGone):
		return zero, fault.New(fault.Unavailable, "the daemon ended before it answered; look whether it was done, and try again")
	case err != nil:
		return zero, err
	}
	return body[T](r.message)
}
