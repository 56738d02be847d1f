package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/usernet/usernet/internal/shim"
)

// exitError is the exit code of a command that failed otherwise than by bad flags or as shim does.
const exitError = 1

// Stdio are the standard files of a command.
type Stdio struct {
	In, Out, Err *os.File
}

// app is what the commands of one invocation share.
type app struct {
	env   []string
	stdio Stdio
	code  int // exit code of a command that did not fail: run's is CMD's own

	isolation []finding // doctor's, of the datapath's layers
}

// Main runs the command that args name, without the program's own name, and returns the exit code.
func Main(args, env []string, stdio Stdio) int {
	a := &app{env: env, stdio: stdio}
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(stdio.In)
	root.SetOut(stdio.Out)
	root.SetErr(stdio.Err)
	cmd, err := root.ExecuteC()
	if err == nil {
		return a.code
	}
	p := painter(stdio.Err, env)
	if msg := err.Error(); msg != "" {
		fmt.Fprintf(stdio.Err, "%s %s\n", p.red("usernet:"), msg)
	}
	if u, ok := errors.AsType[*usageError](err); ok {
		if cmd == nil {
			cmd = root
		}
		fmt.Fprintf(stdio.Err, "%s\n", u.hint(cmd))
		return shim.ExitFailure
	}
	if e, ok := errors.AsType[*shim.Error](err); ok {
		return e.Code
	}
	return exitError
}

// usageError is a mistake on the command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }

// Unwrap returns the mistake.
func (e *usageError) Unwrap() error { return e.err }

func (e *usageError) hint(cmd *cobra.Command) string {
	return fmt.Sprintf("See '%s --help'.", cmd.CommandPath())
}

// usagef is a usageError from a format.
func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// failure is an error with the exit code of a failed run or attach.
func failure(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*shim.Error](err); ok {
		return err
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return err
	}
	return &shim.Error{Code: shim.ExitFailure, Err: err}
}

// exactArgs is cobra.ExactArgs with our kind of error.
func exactArgs(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("want %s, have %d arguments", what, len(args))
		}
		return nil
	}
}

// print writes to standard output. A reader that went away, as head does, is not an error.
func (a *app) print(s string) error {
	_, err := io.WriteString(a.stdio.Out, s)
	if err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}
