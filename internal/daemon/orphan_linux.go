package daemon

import (
	"errors"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// A shim is a child subreaper, so a daemon that it started becomes its child when the process in between exits, and
// its zombie in the end: nobody else waits for it. Waiting for any child would steal the exit of one that is
// waited for elsewhere. So the process in between says which pid it started, and only those are waited for; a pid
// is not given to another process before.

// pidLine is how the process in between says it, before the daemon's own line or after.
const pidLine = "pid "

// adopted are the daemons that became children of this process.
var adopted struct {
	mu   sync.Mutex
	pids []int // guarded by mu
}

// adopt notes a daemon, if it is a child of this process by now.
func adopt(pid int) {
	adopted.mu.Lock()
	defer adopted.mu.Unlock()
	if !ended(pid) {
		adopted.pids = append(adopted.pids, pid)
	}
}

// Reap waits for the daemons started by this process that have ended and became its children, and returns at
// once. It is for a child subreaper to call when a child has ended (SIGCHLD).
func Reap() {
	adopted.mu.Lock()
	defer adopted.mu.Unlock()
	adopted.pids = slices.DeleteFunc(adopted.pids, ended)
}

// ended reports that pid is no child of this process, or no more.
func ended(pid int) bool {
	for {
		got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil)
		if !errors.Is(err, unix.EINTR) {
			return err != nil || got == pid
		}
	}
}
