package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

const doctorHelp = `Look at what this host lacks for usernet and say how to get it.

A check is OK, WARN when something works less well or a feature is missing, or FAIL
when "usernet run" would fail; then the exit code is 1. Nothing is changed: the
checks that need more than a look make a sandbox and end it.`

// status is the outcome of a check.
type status string

const (
	statusOK   status = "OK"
	statusWarn status = "WARN" // run works, with less
	statusFail status = "FAIL" // run does not work
)

// finding is what a check found.
type finding struct {
	Check  string `json:"check"`
	Status status `json:"status"`
	Detail string `json:"detail"`
	// Fix says what to do; empty when all is well.
	Fix string `json:"fix,omitempty"`
}

func ok(detail string, args ...any) finding {
	return finding{Status: statusOK, Detail: fmt.Sprintf(detail, args...)}
}

func warn(detail, fix string) finding {
	return finding{Status: statusWarn, Detail: detail, Fix: fix}
}

func fail(detail, fix string) finding {
	return finding{Status: statusFail, Detail: detail, Fix: fix}
}

func (a *app) doctorCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:     "doctor [flags]",
		Short:   "Check this host and say how to fix it",
		Long:    doctorHelp,
		Example: "  usernet doctor\n  usernet doctor --format json | jq '.[] | select(.status != \"OK\")'",
		Args:    exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "" && format != "json" {
				return usagef("--format %q: use json", format)
			}
			found := examine(cmd.Context(), a)
			for _, f := range found {
				if f.Status == statusFail {
					a.code = exitError
				}
			}
			if format == "json" {
				b, err := json.MarshalIndent(found, "", "  ")
				if err != nil {
					return err
				}
				return a.print(string(b) + "\n")
			}
			return a.print(showFindings(found, painter(a.stdio.Out, a.env)))
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "`FORMAT` of the output: json (default a table)")
	return cmd
}

// showFindings is the table for people, each fix below what it fixes.
func showFindings(found []finding, p paint) string {
	width := 0
	for _, f := range found {
		width = max(width, len(f.Check))
	}
	var b strings.Builder
	for _, f := range found {
		colour := p.green
		switch f.Status {
		case statusWarn:
			colour = p.yellow
		case statusFail:
			colour = p.red
		}
		fmt.Fprintf(&b, "%s  %-*s  %s\n", colour(fmt.Sprintf("%-4s", f.Status)), width, f.Check, f.Detail)
		if f.Fix != "" {
			fmt.Fprintf(&b, "      %-*s  %s\n", width, "", "→ "+f.Fix)
		}
	}
	return b.String()
}
