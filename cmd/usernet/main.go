// Usernet gives rootless containers a network. See package internal/cli for the command line, and package compat for
// those of the programs whose place it can take.
package main

import (
	"os"

	"github.com/usernet/usernet/compat"
	"github.com/usernet/usernet/internal/cli"
	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/internal/shim"
)

func main() {
	os.Exit(dispatch(os.Args[1:]))
}

// dispatch runs the role that the first word selects. The hidden roles come first: they are on the
// way of every start of a sandbox and need nothing of the command line. Then the name it was called by counts.
func dispatch(args []string) int {
	if len(args) > 0 {
		switch args[0] {
		case shim.InitRole:
			return shim.Init(args[1:])
		case shim.JoinRole:
			return shim.InitJoined(args[1:])
		case shim.ExecRole:
			return shim.ExecInside(args[1:])
		case shim.TapRole:
			return shim.Tap()
		case datapath.Role:
			return datapath.Main(args[1:], newHost)
		}
	}
	if program, ok := compat.Lookup(os.Args[0]); ok {
		return program(os.Args, os.Environ(), [3]*os.File{os.Stdin, os.Stdout, os.Stderr})
	}
	return cli.Main(args, os.Environ(), cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
}
