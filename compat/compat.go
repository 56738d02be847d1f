// Package compat is usernet under the names of other programs.
//
// Linked or copied as slirp4netns, usernet is called by the programs that call slirp4netns, with its options, and
// has its messages, files and defaults. Each such front end is a package of its own below this one; what stands
// behind it is the same datapath and the same control as that of every other sandbox. docs/COMPATIBILITY.md says
// for people how to put usernet in place of which program, and where it differs.
package compat

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/usernet/usernet/compat/pasta"
	"github.com/usernet/usernet/compat/pesto"
	"github.com/usernet/usernet/compat/rootlessport"
	"github.com/usernet/usernet/compat/slirp4netns"
)

// Main is the whole life of a program. args begin with the name it was called by; stdio are its descriptors 0, 1
// and 2. It returns the exit code.
type Main func(args, env []string, stdio [3]*os.File) int

// programs are the front ends by the name they are called by.
var programs = map[string]Main{
	"slirp4netns":  slirp4netns.Main,
	"pasta":        pasta.Main,
	"pesto":        pesto.Main,
	"rootlessport": rootlessport.Main,
	"passt":        refuse("passt connects virtual machines over a socket; usernet connects namespaces: call it as pasta or slirp4netns"),
}

// Lookup finds the program that a process called argv0 is to be. Only the last part of the path counts.
func Lookup(argv0 string) (main Main, ok bool) {
	main, ok = programs[filepath.Base(argv0)]
	return main, ok
}

// refuse is a program that usernet is not.
func refuse(why string) Main {
	return func(args, _ []string, stdio [3]*os.File) int {
		fmt.Fprintf(stdio[2], "%s: %s\n", filepath.Base(args[0]), why)
		return 1
	}
}
