package join

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/usernet/usernet/cnm"
)

// rejoin makes one attempt at giving a daemon the sandbox with everything that was kept. An error that the
// daemon itself gave is a *RefusedError.
func (c *Client) rejoin(ctx context.Context) (*clientSession, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	s, err := c.open(conn)
	if err != nil {
		return nil, err
	}
	if err := c.giveBack(ctx, s.l); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (c *Client) giveBack(ctx context.Context, l *link) error {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	if err := c.giveSockets(ctx, l); err != nil {
		return err
	}
	rejoin, epoch := c.rejoinBody()
	r, err := l.callFor(ctx, kindRejoin, rejoinBody{Version, c.config, rejoin})
	r.close()
	if err != nil {
		return err
	}
	c.mu.Lock()
	if rejoin.PID != 0 {
		c.pidTold = epoch
	}
	c.mu.Unlock()
	// What the shim hands over meanwhile is given too, until there is nothing.
	for {
		id, t, ok := c.nextTAP(l, epoch)
		if !ok {
			return nil
		}
		if err := c.giveTAP(ctx, l, id, t); err != nil {
			if _, no := errors.AsType[*RefusedError](err); !no {
				return err
			}
			// The other legs work.
			c.log.Error("daemon refuses an interface", "endpoint", id, "err", err)
		}
		c.mu.Lock()
		t.epoch = epoch
		c.mu.Unlock()
	}
}

// rejoinBody says what the sandbox has, and begins the epoch of the daemon that gets it.
func (c *Client) rejoinBody() (cnm.Rejoin, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	return cnm.Rejoin{PID: c.pid, Endpoints: slices.Clone(c.legs)}, c.epoch
}

// nextTAP returns a TAP that the daemon of epoch does not have. When there is none, l is the connection from
// now on.
func (c *Client) nextTAP(l *link, epoch int) (string, *keptTAP, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, t := range c.taps {
		if t.epoch != epoch {
			return id, t, true
		}
	}
	c.runLocked(l)
	if c.pid != 0 && c.pidTold != epoch {
		c.tellPIDLocked()
	}
	return "", nil, false
}

func (c *Client) giveTAP(ctx context.Context, l *link, id string, t *keptTAP) error {
	c.mu.Lock()
	if c.taps[id] != t {
		c.mu.Unlock()
		return nil // taken away meanwhile
	}
	f, err := t.fd.file()
	c.mu.Unlock()
	if err != nil {
		return fmt.Errorf("duplicate TAP of %s: %w", t.info.Name, err)
	}
	defer f.Close()
	r, err := l.call(ctx, kindAttach, attachBody{id, t.info}, f)
	r.close()
	return err
}

// giveSockets sends the kept sockets in parts, each answered before the next.
func (c *Client) giveSockets(ctx context.Context, l *link) error {
	c.mu.Lock()
	n := len(c.sockets)
	c.mu.Unlock()
	if n == 0 {
		return nil
	}
	return sendSockets(n, func(from, to int) error {
		var b socketsBody
		var files []*os.File
		defer func() {
			for _, f := range files {
				f.Close()
			}
		}()
		c.mu.Lock()
		// Only a daemon changes the set, and there is none.
		for _, k := range c.sockets[from:min(to, len(c.sockets))] {
			f, err := k.fd.file()
			if err != nil {
				c.mu.Unlock()
				return fmt.Errorf("duplicate socket of %s: %w", k.spec, err)
			}
			b.Ports, files = append(b.Ports, k.spec), append(files, f)
		}
		c.mu.Unlock()
		r, err := l.call(ctx, kindKept, b, files...)
		r.close()
		return err
	})
}
