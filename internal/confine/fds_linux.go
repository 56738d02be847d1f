package confine

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// probeFDs is how far to look where /proc is not mounted.
const probeFDs = 1024

// closeInherited closes every descriptor from keep on that came through the exec, such as one a shell
// forgot to close before it started us, and returns them. What the Go runtime has opened since
// (its poller, the cgroup limits) is close-on-exec, and nothing that came through an exec is: that
// tells them apart.
func closeInherited(keep int) []int {
	var closed []int
	for _, fd := range openFDs() {
		if fd < keep {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue
		}
		unix.Close(fd)
		closed = append(closed, fd)
	}
	return closed
}

func openFDs() []int {
	var fds []int
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		for fd := range probeFDs {
			fds = append(fds, fd)
		}
		return fds
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil {
			fds = append(fds, fd)
		}
	}
	return fds
}
