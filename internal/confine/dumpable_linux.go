package confine

import "golang.org/x/sys/unix"

// dumpableForStart makes this process one whose children's id maps it may write, until the result is called. The child
// shares this process's memory until its exec, and with it that nobody may look into it: the kernel then gives
// /proc/CHILD/uid_map to root (PR_SET_DUMPABLE in prctl(2)), and the datapath of a daemon that protects itself would
// get no namespaces. It takes a millisecond.
func dumpableForStart() (restore func()) {
	was, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil || was == 1 || unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) != nil {
		return func() {}
	}
	return func() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, uintptr(was), 0, 0, 0) }
}
