//go:build race

package ip

// raceEnabled: the race detector makes sync.Pool drop a part of what is put in.
const raceEnabled = true
