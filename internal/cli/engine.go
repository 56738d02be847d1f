package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/usernet/usernet/api/client"
	"github.com/usernet/usernet/internal/control/registry"
	"github.com/usernet/usernet/internal/daemon"
)

// connectDaemon returns a client of the caller's daemon, which is started with start if none answers.
func connectDaemon(ctx context.Context, start bool) (*client.Client, error) {
	d, err := registry.Open()
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if start {
		if err := startDaemon(ctx); err != nil {
			return nil, err
		}
	}
	return client.New(filepath.Join(d.Path(), daemon.SocketName)), nil
}

// engine is a client of the daemon, which is started when none runs.
func (a *app) engine(ctx context.Context) (*client.Client, error) { return a.connect(ctx, true) }

// runningEngine is a client of the daemon, whether one runs or not.
func (a *app) runningEngine(ctx context.Context) (*client.Client, error) {
	return a.connect(ctx, false)
}

// engineError is an error of a client as people are told of it.
func engineError(err error) error {
	if err == nil {
		return nil
	}
	if r, ok := errors.AsType[*client.Error](err); ok {
		return &statusError{exitError, fmt.Errorf("Error response from daemon: %w", r)}
	}
	return err
}
