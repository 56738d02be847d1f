package daemon

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrRunning is the cause when another daemon holds the lock.
var ErrRunning = errors.New("a daemon runs already")

const (
	// lockWait is how long to wait for a daemon that is just ending (LU-05: one second in all).
	lockWait = 500 * time.Millisecond
	lockTick = 20 * time.Millisecond
)

// lock takes the daemon's place, or says who has it. The kernel lets go of the lock when its holder dies in any
// way, so the number in the file is for people only.
func lock(p Paths) (*os.File, error) {
	f, err := os.OpenFile(p.pid(), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", p.pid(), err)
	}
	for end := time.Now().Add(lockWait); ; time.Sleep(lockTick) {
		err = tryLock(f)
		if err == nil || !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(end) {
			break
		}
	}
	if err == nil {
		if err = f.Truncate(0); err == nil {
			_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		}
	}
	if err == nil {
		return f, nil
	}
	defer f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		b, _ := io.ReadAll(io.LimitReader(f, 32)) // who it is is only a hint
		return nil, fmt.Errorf("start daemon: %w, process %s; end it with `kill %[2]s`", ErrRunning, strings.TrimSpace(string(b)))
	}
	return nil, fmt.Errorf("lock %s: %w", p.pid(), err)
}

// tryLock takes a lock that ends with f, or is EWOULDBLOCK.
func tryLock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func ownedByUser(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}
