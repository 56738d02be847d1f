package pasta

import (
	"errors"
	"syscall"
	"time"
)

// `podman restart` removes a namespace and starts the next pasta in the same breath. The one before learns of that from
// the kernel at the same moment, and its ports are in use until it has ended: on a busy machine, half of the restarts
// failed. A port in use is therefore asked for again for a while.
const (
	busyPatience = 5 * time.Second
	busyEvery    = 50 * time.Millisecond
)

// untilFree calls start until it succeeds, or fails otherwise than with a port in use, or busyPatience is over; the last
// error is returned.
func untilFree(start func() error) error {
	deadline := time.Now().Add(busyPatience)
	for {
		err := start()
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(busyEvery)
	}
}
