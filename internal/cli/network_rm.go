package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/usernet/usernet/api/client"
)

const networkRemoveHelp = `Remove networks that nobody uses, and print the name of each as it goes. One that
cannot be removed does not keep the others.`

const networkPruneHelp = `Remove all networks but bridge, host and none that no sandbox uses.

--filter KEY=VALUE, repeatable: until=TIME or until=DURATION for those made before,
label=KEY[=VALUE] and label!=KEY[=VALUE].`

const ingressWarning = `WARNING! Before removing the routing-mesh network, make sure all the nodes in your swarm run the same docker engine version. ` +
	`Otherwise, removal may not be effective and functionality of newly create ingress networks will be impaired.
Are you sure you want to continue?`

const pruneWarning = `WARNING! This will remove all custom networks not used by at least one container.
Are you sure you want to continue?`

func (a *app) networkRemoveCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm [flags] NETWORK [NETWORK...]",
		Aliases:           []string{"remove"},
		Short:             "Remove networks",
		Long:              networkRemoveHelp,
		Example:           "  usernet network rm backend frontend\n  usernet network rm --force maybe",
		Args:              wantArgs(1, -1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.networkRemove(cmd.Context(), args, force) },
		ValidArgsFunction: a.completeNetworks(-1),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not error if the network does not exist")
	return cmd
}

func (a *app) networkRemove(ctx context.Context, refs []string, force bool) error {
	e, err := a.engine(ctx)
	if err != nil {
		return err
	}
	failed := false
	for _, ref := range refs {
		if n, _, err := e.NetworkInspect(ctx, ref, false); err == nil && n.Ingress {
			if yes, err := a.confirm(ingressWarning); err != nil {
				return err
			} else if !yes {
				continue
			}
		}
		if err := e.NetworkRemove(ctx, ref); err != nil {
			if force && client.IsNotFound(err) {
				continue
			}
			fmt.Fprintln(a.stdio.Err, engineError(err))
			failed = true
			continue
		}
		if err := a.print(ref + "\n"); err != nil {
			return err
		}
	}
	if failed {
		return &statusError{code: exitError}
	}
	return nil
}

func (a *app) networkPruneCommand() *cobra.Command {
	filters := filterList{}
	var force bool
	cmd := &cobra.Command{
		Use:               "prune [flags]",
		Short:             "Remove all unused networks",
		Long:              networkPruneHelp,
		Example:           "  usernet network prune\n  usernet network prune --force --filter until=24h",
		Args:              wantArgs(0, 0),
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.networkPrune(cmd.Context(), filters, force) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.Var(filters, "filter", "Only the networks that are so, such as until=24h")
	fs.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	completeValues(cmd, map[string][]string{"filter": {"until=", "label=", "label!="}})
	return cmd
}

func (a *app) networkPrune(ctx context.Context, filters filterList, force bool) error {
	if !force {
		// Who does not want it has not made a mistake: Docker's command succeeds too.
		if yes, err := a.confirm(pruneWarning); err != nil || !yes {
			return err
		}
	}
	e, err := a.engine(ctx)
	if err != nil {
		return err
	}
	report, err := e.NetworkPrune(ctx, filters)
	if err != nil {
		return engineError(err)
	}
	if len(report.NetworksDeleted) == 0 {
		return nil
	}
	return a.print("Deleted Networks:\n" + strings.Join(report.NetworksDeleted, "\n") + "\n\n")
}
