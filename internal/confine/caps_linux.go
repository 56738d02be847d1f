package confine

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// emptyBoundingSet empties the bounding set of all threads. An ordinary user without a namespace of
// its own may not, and then it is moot: no_new_privs has no exec give anything.
func emptyBoundingSet() error {
	for c := uintptr(0); known(c); c++ {
		if err := allThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0); err != nil {
			return fmt.Errorf("the bounding set stays: %w", err)
		}
	}
	return nil
}

// dropCapabilities empties the permitted, effective and inheritable sets of all threads, and with the
// first the ambient one (capabilities(7)).
func dropCapabilities() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&none[0])), 0)
}

// known reports whether the kernel has capability c.
func known(c uintptr) bool {
	_, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
	return err == nil
}
