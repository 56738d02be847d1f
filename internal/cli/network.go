package cli

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/network"
	"github.com/spf13/cobra"
)

const networkHelp = `Make, show and change named networks. Sandboxes in one network reach each other by
name and address; networks do not reach each other.

Networks belong to the daemon, which starts by itself when a command needs it. The
commands, their flags and what they print are those of docker network; the real
docker command works too, with DOCKER_HOST=unix://$XDG_RUNTIME_DIR/usernet/usernet.sock.`

const networkExample = `  # two sandboxes that find each other by name
  usernet network create backend
  usernet run --detach --network backend --name db -- postgres
  usernet run --network backend -- psql --host db

  # a subnet of one's own
  usernet network create --subnet 172.28.0.0/16 --ip-range 172.28.5.0/24 --gateway 172.28.5.254 br0

  # another leg for a running sandbox, and away with it
  usernet network connect frontend db
  usernet network disconnect frontend db`

func (a *app) networkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "network COMMAND",
		Short:   "Manage networks",
		Long:    networkHelp,
		Example: networkExample,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return argumentf("unknown command: %s %s", cmd.CommandPath(), args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		a.networkConnectCommand(), a.networkCreateCommand(), a.networkDisconnectCommand(), a.networkInspectCommand(),
		a.networkListCommand(), a.networkPruneCommand(), a.networkRemoveCommand(),
	)
	return cmd
}

// argumentError is a usageError in the arguments rather than the flags. Docker's commands exit with 1 then.
type argumentError struct{ usageError }

// argumentf is an argumentError from a format.
func argumentf(format string, args ...any) error {
	return &argumentError{usageError{fmt.Errorf(format, args...)}}
}

// wantArgs demands least to most arguments, in Docker's words; most may be -1 for any number.
func wantArgs(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		n := len(args)
		if n >= least && (most < 0 || n <= most) {
			return nil
		}
		switch {
		case most == 0:
			return argumentf("%s accepts no arguments", cmd.CommandPath())
		case most < 0:
			return argumentf("%s requires at least %s", cmd.CommandPath(), count(least, "argument"))
		case least == most:
			return argumentf("%s requires %s", cmd.CommandPath(), count(least, "argument"))
		}
		return argumentf("%s requires at least %s and at most %s", cmd.CommandPath(), count(least, "argument"), count(most, "argument"))
	}
}

// count is a number of things, in words.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// filterList collects --filter: values by key.
type filterList map[string][]string

// Set implements pflag.Value.
func (f filterList) Set(s string) error {
	k, v, ok := strings.Cut(s, "=")
	if !ok {
		return fmt.Errorf("bad format of filter (expected name=value)")
	}
	k = strings.ToLower(strings.TrimSpace(k))
	f[k] = append(f[k], strings.TrimSpace(v))
	return nil
}

// String implements pflag.Value.
func (f filterList) String() string { return "" }

// Type is what the help shows for the value.
func (f filterList) Type() string { return "filter" }

// confirm asks a question whose answer is no unless the user says yes.
func (a *app) confirm(question string) (bool, error) {
	if err := a.print(question + " [y/N] "); err != nil {
		return false, err
	}
	line, err := bufio.NewReader(a.stdio.In).ReadString('\n')
	if err != nil && line == "" {
		// Whoever has nothing to say has not said yes.
		return false, a.print("\n")
	}
	line = strings.ToLower(strings.TrimSpace(line))
	return line == "y" || line == "yes", nil
}

// completeNetworks offers the names of networks for arguments up to the most-th; most -1 means any number.
func (a *app) completeNetworks(most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if most >= 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.networkNames(cmd.Context(), args), cobra.ShellCompDirectiveNoFileComp
	}
}

// networkNames are the networks there are but for those in taken, for completion: without a daemon there are
// none but Docker's own three.
func (a *app) networkNames(ctx context.Context, taken []string) []string {
	names := []string{network.NetworkBridge, network.NetworkHost, network.NetworkNone}
	if e, err := a.runningEngine(ctx); err == nil {
		if list, err := e.NetworkList(ctx, nil); err == nil {
			names = names[:0]
			for _, n := range list {
				names = append(names, n.Name)
			}
		}
	}
	return without(names, taken)
}

// without is names less those of taken. A name may have a description after a tab.
func without(names, taken []string) []string {
	return slices.DeleteFunc(names, func(n string) bool {
		n, _, _ = strings.Cut(n, "\t")
		return slices.Contains(taken, n)
	})
}

// completeNetworkThenSandbox completes the arguments of connect and disconnect.
func (a *app) completeNetworkThenSandbox(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 1 {
		return completeSandbox(cmd, nil, word)
	}
	return a.completeNetworks(1)(cmd, args, word)
}
