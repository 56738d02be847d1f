// Command provide installs what tests and bench need beside Go: provide race|instructions|tests|bench...
package main

import (
	"fmt"
	"os"

	"github.com/usernet/usernet/rootless-tests/programs"
)

func main() {
	var purposes []programs.Purpose
	for _, a := range os.Args[1:] {
		purposes = append(purposes, programs.Purpose(a))
	}
	if err := programs.Provide(os.Stderr, purposes...); err != nil {
		fmt.Fprintln(os.Stderr, "provide:", err)
		os.Exit(1)
	}
}
