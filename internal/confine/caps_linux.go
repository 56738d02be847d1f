package confine

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dropCapabilities empties the bounding set and then all others, on all threads. An ordinary user
// without a namespace of its own has no capability to lose and may not touch the bounding set,
// which no_new_privs makes meaningless: weak says so and is no error.
func dropCapabilities() (weak, err error) {
	for c := uintptr(0); known(c); c++ {
		err := allThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0)
		if errors.Is(err, unix.EPERM) {
			weak = fmt.Errorf("the bounding set stays: %w", err)
			break
		}
		if err != nil {
			return nil, fmt.Errorf("capability %d from bounding set: %w", c, err)
		}
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	// An empty permitted set empties the ambient set too (capabilities(7)).
	return weak, allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&none[0])), 0)
}

// known reports whether the kernel has capability c.
func known(c uintptr) bool {
	_, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
	return err == nil
}
