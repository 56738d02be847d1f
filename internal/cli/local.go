package cli

import (
	"context"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/internal/control/registry"
	"github.com/usernet/usernet/internal/engine"
)

// withoutDaemon does something with an Engine of this process's own, which knows of sandboxes what their
// registry says: for commands that need no daemon.
func withoutDaemon(do func(*engine.Engine) error) error {
	d, err := registry.Open()
	if err != nil {
		return err
	}
	defer d.Close()
	e := engine.New(noController{}, d, engine.Options{})
	defer e.Close()
	return do(e)
}

// noController has no Networks and no sandboxes. What changes Networks is never asked of it.
type noController struct{ engine.Controller }

func (noController) Sandboxes() []cnm.SandboxInfo { return nil }

func (noController) Sandbox(ref string) (cnm.SandboxInfo, error) {
	return cnm.SandboxInfo{}, cnm.NoSuchContainer(ref)
}

func (noController) Networks() []cnm.NetworkInfo { return nil }

func (noController) Network(ref string) (cnm.NetworkInfo, error) {
	return cnm.NetworkInfo{}, fault.New(fault.NotFound, "network %s not found", ref)
}

func (noController) Subscribe(func(cnm.Event)) (cancel func()) { return func() {} }

// joined reports whether ref names a sandbox in Networks of the daemon.
func joined(ctx context.Context, ref string) bool {
	e, err := findSandbox(ctx, ref)
	return err == nil && e.Joined()
}
