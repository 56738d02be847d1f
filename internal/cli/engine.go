package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/usernet/usernet/api/client"
	"github.com/usernet/usernet/internal/control/registry"
)

// The daemon's sockets in the runtime directory.
const (
	socketName     = "usernet.sock"
	joinSocketName = "join.sock"
)

// connectDaemon returns a client of the caller's daemon.
func connectDaemon(context.Context, bool) (*client.Client, error) {
	d, err := registry.Open()
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return client.New(filepath.Join(d.Path(), socketName)), nil
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
