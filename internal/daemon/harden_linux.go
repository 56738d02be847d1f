package daemon

import (
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// harden makes this process one that other programs of the user cannot look into (LU-15), and that leaves
// no memory behind when it crashes; it may open as many files as the system allows, since each TAP and each
// published port is one.
func harden() error {
	unix.Umask(0o077)
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err == nil && l.Cur < l.Max {
		l.Cur = l.Max
		// The datapath raises its own and says which limit it has.
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid tracing: %w", err)
	}
	return nil
}

// closeInherited closes what came through the exec but standard input, output and error: a daemon
// that was started on demand must not hold a pipe of the command that happened to need it (LU-14). All that
// this process opened itself is close-on-exec; what is not was inherited.
func closeInherited() error {
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("close inherited files: %w", err)
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return fmt.Errorf("close inherited files: %w", err)
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd < 3 {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	return nil
}

// isJournal reports whether f is a stream of the journal, which $JOURNAL_STREAM names as DEVICE:INODE
// (systemd.exec(5)).
func isJournal(f *os.File, stream string) bool {
	var st unix.Stat_t
	rc, err := f.SyscallConn()
	if err != nil || stream == "" {
		return false
	}
	if err := rc.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &st) }); err != nil {
		return false
	}
	return err == nil && stream == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}
