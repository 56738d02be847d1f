package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"github.com/usernet/usernet/internal/control/registry"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
)

const psHelp = `List your running sandboxes, those of run with a private network and of attach.

--format takes json, for one object a line, or a Go template, executed for each
sandbox. It has .ID .Kind .PID .ShimPID .State .Addresses .Ports .Command .Created
.DatapathPID .Restarts .Weakened, and with --stats .Stats.TCPFlows .Stats.UDPFlows
.Stats.PingFlows .Stats.Drops; the function json encodes any of them.`

const psExample = `  usernet ps
  usernet ps --stats
  usernet ps --format '{{.ID}} {{.PID}}'
  usernet ps --format json | jq .ports`

// askTimeout is how long one sandbox may take to answer. A stopped one does not.
const askTimeout = 2 * time.Second

// psRow is a sandbox as ps shows it.
type psRow struct {
	ID          string         `json:"id"`
	Kind        string         `json:"kind"`
	PID         int            `json:"pid"`
	ShimPID     int            `json:"shim_pid"`
	State       string         `json:"state"`
	Addresses   []netip.Addr   `json:"addresses"`
	Ports       []portfwd.Spec `json:"ports"`
	Command     []string       `json:"command"`
	Created     time.Time      `json:"created"`
	DatapathPID int            `json:"datapath_pid"`
	Restarts    int            `json:"restarts"`
	Weakened    []string       `json:"weakened,omitempty"`
	Stats       *spec.Stats    `json:"stats,omitempty"`
}

type psOptions struct {
	format string
	quiet  bool
	stats  bool
}

func (a *app) psCommand() *cobra.Command {
	o := &psOptions{}
	cmd := &cobra.Command{
		Use:     "ps [flags]",
		Short:   "List your running sandboxes",
		Long:    psHelp,
		Example: psExample,
		Args:    exactArgs(0, "no arguments"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.ps(cmd.Context(), o) },
	}
	fs := cmd.Flags()
	fs.StringVar(&o.format, "format", "", "json, or a Go `TEMPLATE` (default a table)")
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "Only the ids")
	fs.BoolVar(&o.stats, "stats", false, "Ask for flows and drop counters too")
	a.completeFlags(cmd)
	return cmd
}

func (a *app) ps(ctx context.Context, o *psOptions) error {
	show, err := o.output()
	if err != nil {
		return err
	}
	d, err := registry.Open()
	if err != nil {
		return err
	}
	defer d.Close()
	entries, err := d.List(ctx)
	if err != nil {
		return err
	}
	rows := make([]psRow, 0, len(entries))
	for _, e := range entries {
		rows = append(rows, ask(ctx, d, e, o))
	}
	s, err := show(rows)
	if err != nil {
		return err
	}
	return a.print(s)
}

// ask completes what the directory says of a sandbox by what it says itself, if it answers.
func ask(ctx context.Context, d *registry.Dir, e registry.Entry, o *psOptions) psRow {
	r := psRow{
		ID: e.Name, Kind: e.Kind, PID: e.PID, ShimPID: e.ShimPID, Addresses: e.Addrs,
		Command: e.Command, Created: e.Created, State: "unreachable",
	}
	if o.quiet {
		return r
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	l, err := d.Sandbox(ctx, e.Name)
	if err != nil {
		return r
	}
	r.State, r.Ports, r.DatapathPID, r.Restarts, r.Weakened = l.State, l.Ports, l.DatapathPID, l.Restarts, l.Weakened
	if o.stats {
		if st, err := d.Stats(ctx, e.Name); err == nil {
			r.Stats = &st
		}
	}
	return r
}

// output chooses the form of the list.
func (o *psOptions) output() (func([]psRow) (string, error), error) {
	switch {
	case o.quiet && o.format != "":
		return nil, usagef("--quiet and --format exclude each other")
	case o.quiet:
		return showIDs, nil
	case o.format == "":
		return func(rows []psRow) (string, error) { return showTable(rows, o.stats, time.Now()), nil }, nil
	case o.format == "json":
		return showJSON, nil
	}
	t, err := template.New("format").Option("missingkey=error").Funcs(template.FuncMap{"json": toJSON, "join": strings.Join}).Parse(o.format)
	if err != nil {
		return nil, usagef("--format: %w", err)
	}
	return func(rows []psRow) (string, error) {
		var b strings.Builder
		for _, r := range rows {
			if err := t.Execute(&b, r); err != nil {
				return "", usagef("--format: %w", err)
			}
			b.WriteByte('\n')
		}
		return b.String(), nil
	}, nil
}

func showIDs(rows []psRow) (string, error) {
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintln(&b, r.ID)
	}
	return b.String(), nil
}

// showJSON writes one object a line, as docker ps does.
func showJSON(rows []psRow) (string, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	for _, r := range rows {
		if err := enc.Encode(r); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

func showTable(rows []psRow, stats bool, now time.Time) string {
	head := []string{"NAME", "PID", "COMMAND", "CREATED", "STATE", "ADDRESS", "PORTS"}
	if stats {
		head = append(head, "TCP", "UDP", "PING", "DROPS")
	}
	t := table{head}
	for _, r := range rows {
		line := []string{r.ID, fmt.Sprint(r.PID), shorten(strings.Join(r.Command, " ")), ago(now.Sub(r.Created)), r.state(),
			joinAddrs(r.Addresses), showPorts(r.Ports)}
		if stats {
			line = append(line, r.statColumns()...)
		}
		t = append(t, line)
	}
	return t.String()
}

func (r *psRow) state() string {
	if r.Restarts > 0 {
		return fmt.Sprintf("%s (%d restarts)", r.State, r.Restarts)
	}
	return r.State
}

func (r *psRow) statColumns() []string {
	if r.Stats == nil {
		return []string{"-", "-", "-", "-"}
	}
	return []string{fmt.Sprint(r.Stats.TCPFlows), fmt.Sprint(r.Stats.UDPFlows), fmt.Sprint(r.Stats.PingFlows), showDrops(r.Stats.Drops)}
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

// shorten keeps a command line to what a table has room for.
func shorten(s string) string {
	const most = 32
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' ' // a terminal would obey
		}
		return r
	}, s)
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}
