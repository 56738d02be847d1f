package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/usernet/usernet/internal/control/registry"
	"github.com/usernet/usernet/internal/shim"
)

// noSuchContainer is Docker's text.
const noSuchContainer = "No such container"

// share makes the sandbox one more in the network of another, which ref names.
func (s *session) share(ctx context.Context, ref string, cfg *shim.Config) error {
	donor, err := findSandbox(ctx, ref)
	if errors.Is(err, registry.ErrNotFound) {
		return fmt.Errorf("%s: %s; usernet ps shows which there are", noSuchContainer, ref)
	}
	if err != nil {
		return err
	}
	s.entry.Mode, s.entry.Hostname = wordContainer+":"+donor.ID, donor.Hostname
	cfg.Join, cfg.Start = &shim.Target{PID: donor.PID}, s.startBare
	cfg.Hostname = donor.Hostname
	return nil
}

// findSandbox finds a running sandbox by name, id or process id.
func findSandbox(ctx context.Context, ref string) (registry.Entry, error) {
	d, err := registry.Open()
	if err != nil {
		return registry.Entry{}, err
	}
	defer d.Close()
	return d.Find(ctx, ref)
}
