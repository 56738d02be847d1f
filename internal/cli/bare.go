package cli

import (
	"context"
	"errors"
	"os"

	"github.com/usernet/usernet/internal/control"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"

	"github.com/usernet/usernet/internal/shim"
)

// bare is the network of a sandbox whose packets nobody here moves: none, host, or another sandbox's. It is a
// shim.Network and a registry.Sandbox.
type bare struct{}

var errBare = errors.New("this sandbox has no network of its own; ports are published with --network private or a named network")

// Attach implements shim.Network. There is no Link, so it is never called.
func (bare) Attach(string, *os.File, tap.Info) error { return errBare }

// Started implements shim.Network.
func (bare) Started(int) {}

// Changes implements shim.Network.
func (bare) Changes() <-chan shim.Change { return nil }

// Done implements shim.Network.
func (bare) Done() <-chan struct{} { return nil }

// Close implements shim.Network.
func (bare) Close() error { return nil }

// Ports implements registry.Sandbox.
func (bare) Ports() []portfwd.Spec { return nil }

// Publish implements registry.Sandbox.
func (bare) Publish([]portfwd.Spec) ([]portfwd.Spec, error) { return nil, errBare }

// Unpublish implements registry.Sandbox.
func (bare) Unpublish([]portfwd.Spec) error { return control.ErrNotPublished }

// Stats implements registry.Sandbox.
func (bare) Stats(context.Context) (spec.Stats, error) { return spec.Stats{}, nil }

// Status implements registry.Sandbox.
func (bare) Status() control.Status { return control.Status{State: control.Running} }
