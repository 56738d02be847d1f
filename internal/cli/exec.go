package cli

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/usernet/usernet/internal/shim"
)

const execHelp = `Run CMD in the namespaces of a running sandbox: its network, its users and its files.

The exit code is CMD's own, 126 when CMD cannot be executed, 127 when it was not found,
and 125 when usernet itself failed. Flags end at SANDBOX; -- before CMD is optional.
CMD ends by itself: it is not one of those that the sandbox's end takes along.`

const execExample = `  usernet exec web -- ss -ltn
  usernet exec --env LANG=C --workdir / web sh -c 'ping -c 1 db'`

// execOptions are the flags of exec.
type execOptions struct {
	env     []string
	workdir string
}

func (a *app) execCommand() *cobra.Command {
	o := &execOptions{}
	cmd := &cobra.Command{
		Use:     "exec [flags] SANDBOX [--] CMD [ARG...]",
		Short:   "Run a command in a running sandbox",
		Long:    execHelp,
		Example: execExample,
		Args: func(_ *cobra.Command, args []string) error {
			if len(sandboxAndCommand(args)) < 2 {
				return usagef("want a sandbox and a command, as in: usernet exec web -- ss -ltn")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			args = sandboxAndCommand(args)
			return failure(a.exec(cmd.Context(), o, args[0], args[1:]))
		},
		DisableFlagsInUseLine: true,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return completeSandbox(cmd, args, word)
			}
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.SetInterspersed(false)
	fs.StringArrayVarP(&o.env, "env", "e", nil, "`KEY=VALUE` for CMD's environment; KEY alone takes the value here")
	fs.StringVarP(&o.workdir, "workdir", "w", "", "`DIR` of the sandbox to run CMD in (default its own)")
	addIgnored(fs, "interactive", "tty")
	noValueCompletion(cmd, "env", "workdir")
	return cmd
}

// sandboxAndCommand drops the -- that may stand between the two.
func sandboxAndCommand(args []string) []string {
	if len(args) > 1 && args[1] == "--" {
		return append([]string{args[0]}, args[2:]...)
	}
	return args
}

func (a *app) exec(ctx context.Context, o *execOptions, ref string, command []string) error {
	if err := checkEnv(o.env); err != nil {
		return err
	}
	e, err := findSandbox(ctx, ref)
	if err != nil {
		return err
	}
	env := (&runOptions{env: o.env}).environment(a.env, e.Hostname, nil)
	return shim.Exec(shim.ExecConfig{
		PID: e.PID, Command: command, Env: env, Dir: o.workdir,
		Stdio: [3]*os.File{a.stdio.In, a.stdio.Out, a.stdio.Err},
	})
}
