package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const rootHelp = `usernet gives rootless containers a network, without root on the host.

It puts a TAP device into a network namespace and carries its frames to a TCP/IP
stack of its own, which switches, translates addresses, forwards ports and
answers DNS in user space.`

const rootExample = `  # a shell in a sandbox with a network
  usernet run -- bash

  # a web server, reachable at port 5000 of the host
  usernet run --publish 5000:80 -- python3 -m http.server 80

  # a network for a container that another program made
  usernet attach 4242

  # what is missing on this host
  usernet doctor`

// rootCommand makes the tree of commands.
func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:     "usernet COMMAND",
		Short:   "Rootless container networking",
		Long:    rootHelp,
		Example: rootExample,
		// Errors are printed by Main, in one place and form.
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return notACommand(args[0])
			}
			return nil
		},
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SuggestionsMinimumDistance: 2,
		CompletionOptions:          cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{flagError(err)} })
	root.PersistentFlags().SortFlags = false
	root.AddCommand(
		a.runCommand(), a.attachCommand(), a.daemonCommand(), a.execCommand(), a.inspectCommand(), a.networkCommand(),
		a.portCommand(), a.psCommand(), a.rmCommand(), a.stopCommand(),
		a.doctorCommand(), a.versionCommand(), a.completionCommand(root), a.manCommand(root),
	)
	refuseUnknownTopics(root)
	return root
}

// refuseUnknownTopics has "usernet help" fail for what is no command: by itself cobra answers with the help of the nearest.
func refuseUnknownTopics(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	help, _, err := root.Find([]string{"help"})
	if err != nil {
		return
	}
	help.Args = func(_ *cobra.Command, args []string) error {
		switch found, rest, _ := root.Find(args); {
		case len(rest) == 0:
			return nil
		case found == root:
			return notACommand(rest[0])
		default:
			return usagef("unknown command: %s %s", found.CommandPath(), rest[0])
		}
	}
}

func notACommand(word string) error { return usagef("%q is not a usernet command", word) }

// flagError takes the program's name of a flag's type out of pflag's texts.
func flagError(err error) error {
	if ve, ok := err.(*pflag.InvalidValueError); ok {
		name := "--" + ve.GetFlag().Name
		return &flagValueError{name, ve.GetValue(), plainly(ve.Unwrap())}
	}
	return err
}

// plainly says in words of the user what a number or a truth value cannot be.
func plainly(err error) error {
	ne, ok := errors.AsType[*strconv.NumError](err)
	switch {
	case !ok:
		return err
	case ne.Func == "ParseBool":
		return fmt.Errorf("%q is neither true nor false", ne.Num)
	case errors.Is(ne.Err, strconv.ErrRange):
		return fmt.Errorf("%q is too large", ne.Num)
	}
	return fmt.Errorf("%q is not a number", ne.Num)
}

// flagValueError is a flag with a value that cannot be.
type flagValueError struct {
	flag, value string
	err         error
}

func (e *flagValueError) Error() string {
	cause := e.err.Error()
	// Our own parsers name the value already.
	if strings.Contains(cause, e.value) && e.value != "" {
		return e.flag + ": " + cause
	}
	return e.flag + " " + quote(e.value) + ": " + cause
}

// Unwrap returns why.
func (e *flagValueError) Unwrap() error { return e.err }
