package cli

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/spf13/cobra"

	"github.com/usernet/usernet/internal/control/registry"
)

const psHelp = `List your running sandboxes, whatever network they have, the newest first.

--filter KEY=VALUE, repeatable: id and name (the beginning of the one, a part of the
other), label (KEY or KEY=VALUE), network, status=running.

--format: table (default), "table TEMPLATE", json for one object a line, or a Go template,
executed for each sandbox. It has .ID .Name .Names .Kind .PID .ShimPID .State .Status
.Mode .Networks .Addresses .Ports .Command .CommandLine .Created .CreatedAt .RunningFor
.Labels .Label "KEY" .DatapathPID .Restarts .Weakened, and with --stats .Stats.TCPFlows
.Stats.UDPFlows .Stats.PingFlows .Stats.Drops. It has the functions json, join, split,
lower, upper, title, pad, truncate and println.`

const psExample = `  usernet ps
  usernet ps --stats
  usernet ps --filter network=backend --quiet
  usernet ps --format '{{.Name}} {{.PID}}'
  usernet ps --format json | jq .ports`

// askTimeout is how long one sandbox may take to answer. A stopped one does not.
const askTimeout = 2 * time.Second

type psOptions struct {
	filters filterList
	format  string
	quiet   bool
	noTrunc bool
	stats   bool
}

func (a *app) psCommand() *cobra.Command {
	o := &psOptions{filters: filterList{}}
	cmd := &cobra.Command{
		Use:               "ps [flags]",
		Short:             "List your running sandboxes",
		Long:              psHelp,
		Example:           psExample,
		Args:              exactArgs(0, "no arguments"),
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.ps(cmd.Context(), o) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.VarP(o.filters, "filter", "f", "Only the sandboxes that are so, such as network=backend")
	fs.StringVar(&o.format, "format", "", "table, json or a Go `TEMPLATE`")
	fs.BoolVar(&o.noTrunc, "no-trunc", false, "Show ids and commands in full")
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "Only the ids")
	fs.BoolVar(&o.stats, "stats", false, "Ask for flows and drop counters too")
	completeValues(cmd, map[string][]string{
		"filter": {"id=", "label=", "name=", "network=", "status="}, "format": {"table", "json"},
	})
	return cmd
}

func (a *app) ps(ctx context.Context, o *psOptions) error {
	if o.quiet && o.format != "" {
		return usagef("--quiet and --format exclude each other")
	}
	keep, err := psFilter(o.filters)
	if err != nil {
		return err
	}
	rows, err := a.psRows(ctx, o)
	if err != nil {
		return err
	}
	rows = slices.DeleteFunc(rows, func(r psRow) bool { return !keep(r) })
	l := psFormat
	if o.stats {
		l.table += statsColumns
	}
	s, err := formatList(l, o.format, o.quiet, rows)
	if err != nil && !o.stats && strings.Contains(o.format, ".Stats") {
		return usagef("--format: .Stats is there with --stats only")
	}
	if err != nil {
		return usagef("--format: %w", err)
	}
	return a.print(s)
}

// psRows asks every sandbox how it is, and the daemon, if one runs, what networks those in named ones are in now.
func (a *app) psRows(ctx context.Context, o *psOptions) ([]psRow, error) {
	d, err := registry.Open()
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.List(ctx)
	if err != nil {
		return nil, err
	}
	slices.Reverse(entries)
	known := map[string]container.Summary{}
	if slices.ContainsFunc(entries, registry.Entry.Joined) && !o.quiet {
		if known, err = a.summaries(ctx); err != nil {
			return nil, err
		}
	}
	now := time.Now()
	rows := make([]psRow, 0, len(entries))
	for _, e := range entries {
		r := newPsRow(e, o.noTrunc, now)
		if s, ok := known[e.ID]; ok {
			r.setNetworks(s)
		}
		if !o.quiet {
			r.ask(ctx, d, e.Name, o.stats)
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// summaries are the sandboxes that the daemon knows, by id. Without a daemon there are none.
func (a *app) summaries(ctx context.Context) (map[string]container.Summary, error) {
	known := map[string]container.Summary{}
	c, err := a.runningEngine(ctx)
	if err != nil {
		return nil, err
	}
	list, err := c.ContainerList(ctx, nil)
	if err != nil {
		return known, nil // ps tells of what there is; what sandboxes joined at the start is known
	}
	for _, s := range list {
		known[s.ID] = s
	}
	return known, nil
}

// psFilter is what --filter comes to: values of one key are alternatives but for labels, keys must all hold.
func psFilter(filters filterList) (func(psRow) bool, error) {
	var all []func(psRow) bool
	for key, values := range filters {
		match, ok := psFilters[key]
		if !ok {
			return nil, statusf("invalid filter '%s'", key)
		}
		for _, v := range values {
			if _, err := regexp.Compile(v); key == "name" && err != nil {
				return nil, statusf("invalid filter: 'name'='%s'", v)
			}
			if key == "status" && v != "running" {
				return nil, statusf("invalid filter: 'status'='%s'; what has ended is not listed", v)
			}
		}
		all = append(all, func(r psRow) bool {
			is := func(v string) bool { return match(r, v) }
			if key == "label" {
				return !slices.ContainsFunc(values, func(v string) bool { return !is(v) })
			}
			return slices.ContainsFunc(values, is)
		})
	}
	return func(r psRow) bool {
		return !slices.ContainsFunc(all, func(is func(psRow) bool) bool { return !is(r) })
	}, nil
}

// psFilters say whether a sandbox matches a value, by key.
var psFilters = map[string]func(r psRow, v string) bool{
	"id":      func(r psRow, v string) bool { return strings.HasPrefix(r.fullID, v) },
	"name":    func(r psRow, v string) bool { ok, err := regexp.MatchString(v, r.Name); return ok && err == nil },
	"network": func(r psRow, v string) bool { return slices.Contains(r.Networks, v) },
	"status":  func(psRow, string) bool { return true },
	"label": func(r psRow, v string) bool {
		k, want, valued := strings.Cut(v, "=")
		has, ok := r.Labels[k]
		return ok && (!valued || has == want)
	},
}

// ago says how long ago in the largest unit, as docker ps does.
func ago(d time.Duration) string {
	units := []struct {
		name string
		d    time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}, {"second", time.Second}}
	for _, u := range units {
		if n := int(d / u.d); n > 1 {
			return fmt.Sprintf("%d %ss ago", n, u.name)
		} else if n == 1 {
			return "1 " + u.name + " ago"
		}
	}
	return "now"
}

// printable replaces what a terminal would obey.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// shorten keeps a command line to what a table has room for.
func shorten(s string) string {
	const most = 32
	s = printable(s)
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}
