package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/usernet/usernet/api/client"
	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/internal/engine"
)

const inspectHelp = `Show sandboxes and networks in detail, as a JSON array in the form of docker inspect.
--format takes json for one line, or a Go template, executed for each.`

const inspectExample = `  usernet inspect web
  usernet inspect --format '{{.State.Pid}}' web
  usernet inspect --format '{{json .NetworkSettings.Networks}}' web`

func (a *app) inspectCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:     "inspect [flags] SANDBOX|NETWORK [SANDBOX|NETWORK...]",
		Short:   "Show sandboxes and networks in detail",
		Long:    inspectHelp,
		Example: inspectExample,
		Args:    wantArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.inspect(cmd.Context(), args, format)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			names, directive := completeSandbox(cmd, nil, word)
			return without(append(names, a.networkNames(cmd.Context(), args)...), args), directive
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "json, or a Go `TEMPLATE`")
	completeValues(cmd, map[string][]string{"format": {"json"}})
	return cmd
}

func (a *app) inspect(ctx context.Context, refs []string, format string) error {
	if err := checkElementFormat(format); err != nil {
		return err
	}
	c, err := a.runningEngine(ctx)
	if err != nil {
		return err
	}
	return a.inspectAll(refs, format, func(ref string) (element, error) {
		s, raw, err := c.ContainerInspect(ctx, ref)
		if errors.Is(err, client.ErrNoDaemon) {
			// Without a daemon there are no networks to look for.
			return inspectLocal(ctx, ref)
		}
		if err == nil || !client.IsNotFound(err) {
			return element{s, raw}, engineError(err)
		}
		n, raw, err := c.NetworkInspect(ctx, ref, false)
		if client.IsNotFound(err) {
			return element{}, noSuchObject(ref)
		}
		return element{n, raw}, engineError(err)
	})
}

func noSuchObject(ref string) error { return fmt.Errorf("Error: No such object: %s", ref) }

// inspectLocal shows a sandbox as the daemon would.
func inspectLocal(ctx context.Context, ref string) (el element, err error) {
	err = withoutDaemon(func(e *engine.Engine) error {
		s, err := e.Container(ctx, ref)
		if err != nil {
			return err
		}
		raw, err := json.Marshal(s)
		el = element{s, raw}
		return err
	})
	if fault.KindOf(err) == fault.NotFound && err != nil {
		err = noSuchObject(ref)
	}
	return el, err
}
