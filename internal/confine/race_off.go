//go:build !race

package confine

const builtWithRace = false
