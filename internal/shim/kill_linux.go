package shim

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// killDescendants kills every descendant of the calling process, which is a child subreaper, and
// returns when none is left. Only processes for which member says yes are touched; nil means all. A child for
// which it says no is somebody else's with all that is below it.
//
// # Theory of operation
//
// A process may fork between our look at it and our kill, so no pass over /proc proves anything. But every
// orphan becomes a child of the subreaper: having no child proves that there is no descendant. One pass kills
// all descendants there are, so that a child which cannot die (it waits for a dead file server) does not shield
// its own. Then children are killed and waited for until there is none; what they leave behind are the
// next children. The time from the look to the kill is what a process that forks and exits in turn has to
// beat, so those looks read our own list of children and not all of /proc: 0.1 ms instead of 5.
func killDescendants(member func(pid int) bool) {
	// The ordinary end, in one call: there is no child, dead or alive.
	err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	if errors.Is(err, unix.ECHILD) {
		return
	}
	self, others := os.Getpid(), map[int]bool{}
	for _, p := range descendants(self) {
		is := member == nil || member(p.pid)
		if others[p.ppid] || p.ppid == self && !is {
			// What the caller had started before it became usernet, or a daemon that was started when the last one was
			// killed: its datapath is in a user namespace of its own too, and all other sandboxes need it.
			others[p.pid] = true
			continue
		}
		if is {
			// A process that is gone by now needs no kill.
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
	}
	for {
		var killed []int
		for _, pid := range children() {
			if member == nil || member(pid) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
				killed = append(killed, pid)
			}
		}
		if len(killed) == 0 {
			return
		}
		for _, pid := range killed {
			for {
				_, err := syscall.Wait4(pid, nil, 0, nil)
				if !errors.Is(err, syscall.EINTR) {
					break
				}
			}
		}
	}
}

// children lists the calling process's own children, zombies included.
func children() (pids []int) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil
	}
	for _, t := range tasks {
		b, err := os.ReadFile("/proc/self/task/" + t.Name() + "/children")
		if errors.Is(err, os.ErrNotExist) && exists("/proc/self/task/"+t.Name()) {
			return childrenByScan() // a kernel without CONFIG_PROC_CHILDREN
		}
		for f := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func childrenByScan() (pids []int) {
	for _, p := range descendants(os.Getpid()) {
		if p.ppid == os.Getpid() {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

type process struct{ pid, ppid int }

// descendants lists the processes below pid, zombies included, parents before their children.
func descendants(pid int) []process {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	children := map[int][]int{}
	for _, name := range names {
		n, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if ppid, ok := parentOf(n); ok {
			children[ppid] = append(children[ppid], n)
		}
	}
	found := []process{}
	queue := []int{pid}
	for len(queue) > 0 {
		parent := queue[0]
		queue = queue[1:]
		for _, c := range children[parent] {
			found = append(found, process{c, parent})
		}
		queue = append(queue, children[parent]...)
		delete(children, parent) // pids are reused while we read: never walk one twice
	}
	return found
}

// parentOf reads the parent's pid from /proc/PID/stat.
func parentOf(pid int) (int, bool) {
	_, ppid, ok := readStat(pid)
	return ppid, ok
}

// readStat returns the state letter and the parent of a process (proc_pid_stat(5)).
func readStat(pid int) (state byte, ppid int, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, false
	}
	// The name in parentheses may itself hold parentheses and spaces.
	i := bytes.LastIndexByte(b, ')')
	f := bytes.Fields(b[i+1:])
	if i < 0 || len(f) < 2 || len(f[0]) != 1 {
		return 0, 0, false
	}
	ppid, err = strconv.Atoi(string(f[1]))
	return f[0][0], ppid, err == nil
}

// inOtherNamespace says of a process that it is in a namespace of kind ("user", "net") other than ours. What a
// sandbox started is in another user namespace, for good: nothing inside can come back to ours. What the caller had started
// before it became usernet is not.
func inOtherNamespace(kind string, pid int) bool {
	own, err1 := os.Readlink("/proc/self/ns/" + kind)
	its, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	return err1 == nil && err2 == nil && own != its
}
