package cli

import (
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/pflag"

	"github.com/usernet/usernet/internal/shim"
)

type logOptions struct {
	level slog.Level
	json  bool
}

func addLogFlags(fs *pflag.FlagSet, o *logOptions) {
	// Quiet by default: standard error is the command's.
	o.level = slog.LevelWarn
	fs.Var(&value[slog.Level]{to: &o.level, parse: parseLevel, show: showLevel, kind: "level"}, "log-level",
		"Log debug, info, warn or error and what is graver")
	fs.Var(&value[bool]{to: &o.json, parse: parseLogFormat, show: showLogFormat, kind: "format"}, "log-format",
		"Log as text or json")
}

func parseLevel(s string) (slog.Level, error) {
	switch s {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("unknown level %q; use debug, info, warn or error", s)
}

func showLevel(l slog.Level) string { return strings.ToLower(l.String()) }

func parseLogFormat(s string) (json bool, err error) {
	switch s {
	case "text", "json":
		return s == "json", nil
	}
	return false, fmt.Errorf("unknown format %q; use text or json", s)
}

func showLogFormat(json bool) string {
	if json {
		return "json"
	}
	return "text"
}

// logger is the log of this process.
func (o logOptions) logger(w io.Writer) *slog.Logger {
	h := &slog.HandlerOptions{Level: o.level}
	if o.json {
		return slog.New(slog.NewJSONHandler(w, h))
	}
	return slog.New(slog.NewTextHandler(w, h))
}

// forInit is the log of a sandbox's init.
func (o logOptions) forInit() shim.LogOptions {
	return shim.LogOptions{On: true, Level: o.level, JSON: o.json}
}
