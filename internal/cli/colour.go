package cli

import (
	"os"
	"strings"

	"golang.org/x/term"
)

// paint colours text for a terminal, and only there (https://no-color.org).
type paint bool

func painter(f *os.File, env []string) paint {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "NO_COLOR="); ok && v != "" || e == "TERM=dumb" {
			return false
		}
	}
	return paint(term.IsTerminal(int(f.Fd())))
}

func (p paint) with(code, s string) string {
	if !p {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p paint) red(s string) string    { return p.with("31", s) }
func (p paint) green(s string) string  { return p.with("32", s) }
func (p paint) yellow(s string) string { return p.with("33", s) }
