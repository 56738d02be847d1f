package proctest

import "os"

// LeaveAtOnce is for a TestMain whose tests start many processes: the race detector has each of them sleep for a second
// before it exits.
func LeaveAtOnce() {
	if os.Getenv("GORACE") == "" {
		os.Setenv("GORACE", "atexit_sleep_ms=0")
	}
}
