package sys

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Yield lets other goroutines run, those that wait for the network included. A loop that makes only
// quiet (raw) system calls and always has work must call it now and then: the runtime's monitor, which
// takes the CPU from such a goroutine and looks at the network in its stead, sleeps since the process was last
// idle, and only an ordinary system call wakes it.
func Yield() {
	_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	runtime.Gosched()
}
