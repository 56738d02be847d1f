package pasta

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/portfwd"
)

// `podman restart` removes a namespace and starts the next pasta in the same breath. The one before learns of that from
// the kernel at the same moment, and its ports are in use until it has ended: on a busy machine, half of the restarts
// failed. A port of a pasta that ends is therefore asked for again for a while; any other that is in use is an error at
// once, as with the original.
//
// Who has a port, the kernel's table of sockets says, with the owner, and the descriptors of processes. That a pasta
// ends is seen by the namespace on its command line, which is gone. A datapath does not show its descriptors: a port of
// ours that nobody seems to have may be that of a pasta whose first process has ended already.
const (
	busyPatience = 5 * time.Second
	busyEvery    = 50 * time.Millisecond
)

// untilFree calls start until it succeeds, or fails otherwise than with a port in use, or busyPatience is over; the last
// error is returned. taken says of such an error that the port will not be free soon.
func untilFree(start func() error, taken func(error) bool) error {
	deadline := time.Now().Add(busyPatience)
	for {
		err := start()
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) || taken(err) {
			return err
		}
		time.Sleep(busyEvery)
	}
}

// staysTaken reports whether somebody has the port that err is about who is not a pasta that ends.
func staysTaken(err error) bool {
	var bind *portfwd.BindError
	if !errors.As(err, &bind) {
		return false
	}
	own := map[string]bool{} // inodes of our user's sockets
	for _, family := range []string{"", "6"} {
		f, err := os.Open("/proc/net/" + string(bind.Spec.Proto) + family)
		if err != nil {
			continue // a kernel without IPv6
		}
		foreign := socketsAt(f, bind.Spec.HostPort, os.Getuid(), own)
		f.Close()
		if foreign {
			return true
		}
	}
	return heldOn(own)
}

// socketsAt reads a table of sockets, as proc(5) has it, adds to own the inodes of those at port that are the user's, and
// reports whether there is one of another user. Connections that were accepted at the port do not hold it.
func socketsAt(table io.Reader, port uint16, uid int, own map[string]bool) (foreign bool) {
	const (
		local, remote = 1, 2
		owner, inode  = 7, 9
		hexPort       = 4
	)
	at := fmt.Sprintf(":%04X", port)
	for s := bufio.NewScanner(table); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) <= inode || !strings.HasSuffix(f[local], at) || !strings.HasSuffix(f[remote], ":"+strings.Repeat("0", hexPort)) {
			continue
		}
		if f[owner] != strconv.Itoa(uid) {
			return true
		}
		own[f[inode]] = true
	}
	return false
}

// heldOn reports whether a process that goes on has one of sockets.
func heldOn(sockets map[string]bool) bool {
	if len(sockets) == 0 {
		return false
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/[0-9]*")
	if err != nil {
		return false
	}
	for _, fd := range fds {
		to, err := os.Readlink(fd)
		if err != nil {
			continue // it has been closed
		}
		n, ok := strings.CutPrefix(strings.TrimSuffix(to, "]"), "socket:[")
		if ok && sockets[n] && !ends(filepath.Dir(filepath.Dir(fd))) {
			return true
		}
	}
	return false
}

// ends reports whether the process with the directory dir of /proc is a pasta of which the namespace is gone.
func ends(dir string) bool {
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return false
	}
	exe, err := os.Stat(dir + "/exe")
	if errors.Is(err, fs.ErrNotExist) {
		return true // it has ended since
	}
	if err != nil || !os.SameFile(exe, self) {
		return false
	}
	line, err := os.ReadFile(dir + "/cmdline")
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	o, err := Parse(strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00"))
	switch {
	case err != nil:
		return false
	case o.PID != 0:
		return syscall.Kill(o.PID, 0) == syscall.ESRCH
	case o.Netns == "":
		return false
	case !filepath.IsAbs(o.Netns):
		o.Netns = filepath.Join(dir, "cwd", o.Netns)
	}
	// Unmounted, it is a file like any other.
	f, err := sys.OpenNamespace(o.Netns, sys.NetNamespace)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist) || errors.Is(err, sys.ErrNotNamespace)
	}
	f.Close()
	return false
}
