package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"
	"github.com/spf13/cobra"

	"github.com/usernet/usernet/internal/control/registry"
)

const networkListHelp = `List networks.

--filter KEY=VALUE, repeatable: dangling=true|false, driver, id, label (KEY or KEY=VALUE),
name, scope, type=builtin|custom.

--format: table (default), "table TEMPLATE", json for one object a line, raw, or a Go
template, executed for each network. It has .ID .Name .Driver .Scope .IPv4 .IPv6
.Internal .Labels .CreatedAt and .Label "KEY", and the functions json, join, split,
lower, upper, title, pad, truncate and println.`

const networkListExample = `  usernet network ls
  usernet network ls --filter driver=bridge --quiet
  usernet network ls --format 'table {{.Name}}\t{{.Driver}}\t{{.Internal}}'
  usernet network rm $(usernet network ls --filter type=custom --quiet)`

type networkListOptions struct {
	filters filterList
	format  string
	quiet   bool
	noTrunc bool
}

func (a *app) networkListCommand() *cobra.Command {
	o := &networkListOptions{filters: filterList{}}
	cmd := &cobra.Command{
		Use:               "ls [flags]",
		Aliases:           []string{"list"},
		Short:             "List networks",
		Long:              networkListHelp,
		Example:           networkListExample,
		Args:              wantArgs(0, 0),
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.networkList(cmd.Context(), o) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.VarP(o.filters, "filter", "f", "Only the networks that are so, such as driver=bridge")
	fs.StringVar(&o.format, "format", "", "table, json, raw or a Go `TEMPLATE`")
	fs.BoolVar(&o.noTrunc, "no-trunc", false, "Show ids in full")
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "Only the ids")
	completeValues(cmd, map[string][]string{
		"filter": {"dangling=", "driver=", "id=", "label=", "name=", "scope=", "type="},
		"format": {"table", "json", "raw"},
	})
	return cmd
}

// networkRow is a network as network ls shows it. The order of the fields is that of Docker's JSON.
type networkRow struct {
	CreatedAt string
	Driver    string
	ID        string
	IPv4      string
	IPv6      string
	Internal  string
	Labels    string
	Name      string
	Scope     string

	labels map[string]string
}

// Label is one label of the network.
func (r networkRow) Label(name string) string { return r.labels[name] }

var networkListFormat = listFormat{
	titles: titles{
		"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "IPv4": "IPV4", "IPv6": "IPV6",
		"Internal": "INTERNAL", "Labels": "LABELS", "CreatedAt": "CREATED AT",
	},
	table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
	quiet: "{{.ID}}",
	raw:   "network_id: {{.ID}}\nname: {{.Name}}\ndriver: {{.Driver}}\nscope: {{.Scope}}\n",
	rawID: "network_id: {{.ID}}",
}

func newNetworkRow(n network.Network, noTrunc bool) networkRow {
	r := networkRow{
		CreatedAt: n.Created.String(), Driver: n.Driver, ID: n.ID, IPv4: strconv.FormatBool(n.EnableIPv4),
		IPv6: strconv.FormatBool(n.EnableIPv6), Internal: strconv.FormatBool(n.Internal), Labels: showLabels(n.Labels),
		Name: n.Name, Scope: n.Scope, labels: n.Labels,
	}
	if !noTrunc {
		r.ID = registry.ShortID(r.ID)
	}
	return r
}

// showLabels lists labels as Docker's tables do.
func showLabels(labels map[string]string) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		all = append(all, fmt.Sprintf("%s=%s", k, labels[k]))
	}
	return strings.Join(all, ",")
}

func (a *app) networkList(ctx context.Context, o *networkListOptions) error {
	e, err := a.engine(ctx)
	if err != nil {
		return err
	}
	list, err := e.NetworkList(ctx, o.filters)
	if err != nil {
		return engineError(err)
	}
	slices.SortStableFunc(list, func(a, b network.Summary) int { return compareNatural(a.Name, b.Name) })
	rows := make([]networkRow, 0, len(list))
	for _, n := range list {
		rows = append(rows, newNetworkRow(n.Network, o.noTrunc))
	}
	s, err := formatList(networkListFormat, o.format, o.quiet, rows)
	if err != nil {
		return &statusError{exitError, err}
	}
	return a.print(s)
}

// compareNatural orders strings as people do: numbers in them by value, so that n2 comes before n10.
func compareNatural(a, b string) int {
	for a != "" && b != "" {
		an, bn := digits(a), digits(b)
		if an == 0 || bn == 0 {
			if a[0] != b[0] {
				return int(a[0]) - int(b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		x, y := strings.TrimLeft(a[:an], "0"), strings.TrimLeft(b[:bn], "0")
		if len(x) != len(y) {
			return len(x) - len(y)
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
		if an != bn {
			return an - bn // fewer leading zeros first
		}
		a, b = a[an:], b[bn:]
	}
	return len(a) - len(b)
}

// digits is how many decimal digits s begins with.
func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
