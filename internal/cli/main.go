package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/usernet/usernet/api/client"
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
	args  []string
	env   []string
	stdio Stdio
	code  int // exit code of a command that did not fail: run's is CMD's own

	// connect finds the daemon, and with start starts one when none runs.
	connect func(ctx context.Context, start bool) (*client.Client, error)

	reporter  *reporter // of a detached start; nil otherwise
	isolation []finding // doctor's, of the datapath's layers
}

// Main runs the command that args name, without the program's own name, and returns the exit code.
func Main(args, env []string, stdio Stdio) int {
	a := &app{args: args, env: env, stdio: stdio, connect: connectDaemon}
	return a.main()
}

func (a *app) main() int {
	root := a.rootCommand()
	root.SetArgs(a.args)
	root.SetIn(a.stdio.In)
	root.SetOut(a.stdio.Out)
	root.SetErr(a.stdio.Err)
	cmd, err := root.ExecuteC()
	if err == nil {
		return a.code
	}
	return a.fail(cmd, err)
}

// fail says why a command failed and returns the exit code.
func (a *app) fail(cmd *cobra.Command, err error) int {
	stderr := a.stdio.Err
	if s, ok := err.(*statusError); ok {
		fmt.Fprintln(stderr, s)
		return s.code
	}
	if a.reporter != nil {
		a.reporter.send(report{Code: exitCode(err), Error: err.Error()})
	}
	if msg := err.Error(); msg != "" {
		fmt.Fprintf(stderr, "%s %s\n", painter(stderr, a.env).red("usernet:"), msg)
	}
	if u, ok := errors.AsType[*argumentError](err); ok {
		fmt.Fprintf(stderr, "%s\n", u.hint(cmd))
	}
	if u, ok := errors.AsType[*usageError](err); ok {
		fmt.Fprintf(stderr, "%s\n", u.hint(cmd))
	}
	return exitCode(err)
}

// exitCode is the code that an error stands for.
func exitCode(err error) int {
	if _, ok := errors.AsType[*usageError](err); ok {
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
			return usagef("want %s, have %d", what, len(args))
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

// warn tells of something that is not as asked for but no failure.
func (a *app) warn(s string) {
	fmt.Fprintf(a.stdio.Err, "%s %s\n", painter(a.stdio.Err, a.env).yellow("WARNING:"), s)
}
