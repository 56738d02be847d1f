//go:build race

package confine

// builtWithRace says that the binary was built with the race detector; only test binaries are.
const builtWithRace = true
