package cli

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/usernet/usernet/api/client"
	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/internal/engine"
)

const rmHelp = `End sandboxes, with everything that runs in them, and print the name of each as it goes.
All that is listed runs, so without --force it is refused, as docker rm refuses it;
what has ended has left nothing that could be removed.`

// stopSignal is what stop sends first.
const stopSignal = syscall.SIGTERM

func (a *app) rmCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rm --force SANDBOX [SANDBOX...]",
		Short:   "End sandboxes at once",
		Long:    rmHelp,
		Example: "  usernet rm --force web db",
		Args:    wantArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachSandbox(cmd.Context(), args, func(ctx context.Context, ref string) error {
				err := a.remove(ctx, ref, force)
				if force && fault.KindOf(err) == fault.NotFound {
					return nil
				}
				return err
			})
		},
		ValidArgsFunction: completeSandboxes,
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "End what runs; what does not exist is no error")
	return cmd
}

func (a *app) stopCommand() *cobra.Command {
	var seconds int
	cmd := &cobra.Command{
		Use:     "stop [flags] SANDBOX [SANDBOX...]",
		Short:   "End sandboxes, with SIGTERM first",
		Long:    "Send SIGTERM to the commands of sandboxes, end those that are still there after a while, and\nprint the name of each as it goes.",
		Example: "  usernet stop web\n  usernet stop --time 60 db",
		Args:    wantArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if seconds < 0 {
				return usagef("--time %d: want 0 or more seconds", seconds)
			}
			return a.eachSandbox(cmd.Context(), args, func(ctx context.Context, ref string) error {
				return withoutDaemon(func(e *engine.Engine) error {
					return e.ContainerStop(ctx, ref, stopSignal, time.Duration(seconds)*time.Second)
				})
			})
		},
		ValidArgsFunction: completeSandboxes,
	}
	cmd.Flags().IntVarP(&seconds, "time", "t", 10, "`SECONDS` to wait before they are killed")
	noValueCompletion(cmd, "time")
	return cmd
}

// eachSandbox does something to sandboxes one by one. What fails does not keep the others.
func (a *app) eachSandbox(ctx context.Context, refs []string, do func(context.Context, string) error) error {
	var failed []error
	for _, ref := range refs {
		if err := do(ctx, ref); err != nil {
			failed = append(failed, err)
			continue
		}
		if err := a.print(ref + "\n"); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
}

// remove ends a sandbox. One in named networks is ended by the daemon if it runs, because its addresses and names are
// free then when this returns.
func (a *app) remove(ctx context.Context, ref string, force bool) error {
	if joined(ctx, ref) {
		c, err := a.runningEngine(ctx)
		if err != nil {
			return err
		}
		if err := c.ContainerRemove(ctx, ref, force); !errors.Is(err, client.ErrNoDaemon) {
			return engineError(err)
		}
	}
	return withoutDaemon(func(e *engine.Engine) error { return e.ContainerRemove(ctx, ref, force) })
}

// completeSandboxes offers the names of running sandboxes that are not given yet.
func completeSandboxes(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	names, directive := completeSandbox(cmd, nil, word)
	return without(names, args), directive
}
