package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
)

const networkInspectHelp = `Show networks in detail, as a JSON array. --format takes json for one line, or a Go
template, executed for each network. A network that is not found is an error, after
the others were shown.`

const networkInspectExample = `  usernet network inspect backend
  usernet network inspect --format '{{range .IPAM.Config}}{{.Subnet}}{{end}}' backend
  usernet network inspect --format '{{json .Containers}}' backend`

func (a *app) networkInspectCommand() *cobra.Command {
	var format string
	var verbose bool
	cmd := &cobra.Command{
		Use:     "inspect [flags] NETWORK [NETWORK...]",
		Short:   "Show networks in detail",
		Long:    networkInspectHelp,
		Example: networkInspectExample,
		Args:    wantArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.networkInspect(cmd.Context(), args, format, verbose)
		},
		ValidArgsFunction: a.completeNetworks(-1),
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVarP(&format, "format", "f", "", "json, or a Go `TEMPLATE`")
	fs.BoolVarP(&verbose, "verbose", "v", false, "Show more, where the network is a swarm's")
	completeValues(cmd, map[string][]string{"format": {"json"}})
	return cmd
}

func (a *app) networkInspect(ctx context.Context, refs []string, format string, verbose bool) error {
	if err := checkElementFormat(format); err != nil {
		return err
	}
	e, err := a.engine(ctx)
	if err != nil {
		return err
	}
	return a.inspectAll(refs, format, func(ref string) (element, error) {
		n, raw, err := e.NetworkInspect(ctx, ref, verbose)
		return element{n, raw}, engineError(err)
	})
}

// checkElementFormat refuses a template that cannot be, before anything is asked.
func checkElementFormat(format string) error {
	if format == "" || format == "json" {
		return nil
	}
	if _, err := parseTemplate(format, templateFuncs); err != nil {
		return &statusError{exitError, err}
	}
	return nil
}

// inspectAll shows what refs name. What is not found is an error after the rest was shown.
func (a *app) inspectAll(refs []string, format string, get func(ref string) (element, error)) error {
	var found []element
	var failed []error
	for _, ref := range refs {
		el, err := get(ref)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		found = append(found, el)
	}
	s, err := formatElements(format, found)
	if err != nil {
		failed = append(failed, err)
	} else if err := a.print(s); err != nil {
		return err
	}
	if failed != nil {
		return &statusError{exitError, errors.Join(failed...)}
	}
	return nil
}
