//go:build cgo && !race

package main

// Go cannot restrict threads that C may have started, so the datapath of a binary with cgo in it could not be
// confined. Better no binary than one that will not run. Test binaries of the race detector are exempt: it
// needs cgo, and package confine knows.
var _ = usernetMustBeBuiltWith_CGO_ENABLED_0_seeMakeBuild
