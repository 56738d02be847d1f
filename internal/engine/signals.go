package engine

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"

	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/internal/control/registry"
)

const (
	// killTimeout is how long a container that was killed may take to go.
	killTimeout = 10 * time.Second
	// lookInterval is between two looks whether it has gone: its last sign of life is a socket that vanishes.
	lookInterval = 20 * time.Millisecond
)

// ContainerKill implements api.Backend.
func (e *Engine) ContainerKill(ctx context.Context, ref string, sig syscall.Signal) error {
	c, err := e.find(ctx, ref)
	if err != nil {
		return err
	}
	return e.kill(ctx, c, sig)
}

func (e *Engine) kill(ctx context.Context, c found, sig syscall.Signal) error {
	if err := e.signal(ctx, c, sig); err != nil {
		return err
	}
	if sig != syscall.SIGKILL {
		return nil
	}
	return e.mustGo(ctx, c)
}

// signal sends a signal through the shim.
func (e *Engine) signal(ctx context.Context, c found, sig syscall.Signal) error {
	if c.entry == nil {
		return fault.New(fault.Conflict, "container %s is not running", c.ID)
	}
	err := e.reg.Signal(ctx, c.Name, sig)
	switch {
	case err == nil:
		e.log.Info("container signalled", "id", c.ID, "name", c.Name, "signal", sig)
		return nil
	case e.gone(ctx, c):
		return nil // it ended by itself
	}
	if a, ok := errors.AsType[*registry.APIError](err); ok {
		return fault.New(fault.Conflict, "container %s: %w", c.Name, a)
	}
	return fault.New(fault.Internal, "signal container %s: %w", c.Name, err)
}

// ContainerStop implements api.Backend.
func (e *Engine) ContainerStop(ctx context.Context, ref string, sig syscall.Signal, timeout time.Duration) error {
	c, err := e.find(ctx, ref)
	if err != nil {
		return err
	}
	if timeout != 0 {
		if err := e.signal(ctx, c, sig); err != nil {
			return err
		}
		if ended, err := e.wait(ctx, c, timeout); ended || err != nil {
			return err
		}
	}
	return e.kill(ctx, c, syscall.SIGKILL)
}

// ContainerRemove implements api.Backend.
func (e *Engine) ContainerRemove(ctx context.Context, ref string, force bool) error {
	c, err := e.find(ctx, ref)
	if err != nil {
		return err
	}
	if !force {
		return fault.New(fault.Conflict, "cannot remove container %q: container is running: stop the container before removing or force remove", "/"+c.Name)
	}
	return e.kill(ctx, c, syscall.SIGKILL)
}

// mustGo waits for the end of a container that was killed.
func (e *Engine) mustGo(ctx context.Context, c found) error {
	ended, err := e.wait(ctx, c, killTimeout)
	if err == nil && !ended {
		err = fault.New(fault.Internal, "container %s was killed and is still there after %s", c.Name, killTimeout)
	}
	return err
}

// wait waits until a container has gone; a negative timeout never comes.
func (e *Engine) wait(ctx context.Context, c found, timeout time.Duration) (ended bool, err error) {
	var late <-chan time.Time
	if timeout >= 0 {
		t := time.NewTimer(timeout)
		defer t.Stop()
		late = t.C
	}
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	for !e.gone(ctx, c) {
		select {
		case <-look.C:
		case <-late:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	return true, nil
}

// gone reports whether both who know of sandboxes have let go of one. Another of its name is another. A shim that ends is asked
// no more, since it stops answering before it is gone.
func (e *Engine) gone(ctx context.Context, c found) bool {
	entries, err := e.reg.List(ctx)
	if err != nil || slices.ContainsFunc(entries, func(s registry.Entry) bool { return s.ID == c.ID }) {
		return false
	}
	_, err = e.c.Sandbox(c.ID)
	return err != nil
}
