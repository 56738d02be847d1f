package shim

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// guard keeps our files in place while the host replaces the files they are mounted on.
//
// For each file it holds a detached copy of the mount. When the directory of the file, or of what its
// path leads to, changes, and the path no longer leads to our file, the copy is mounted there and a
// new copy taken. Kernels before 5.2 have no detached mounts and get no guard.
//
// It begins to watch after guardDelay and looks at what has changed until then: taking an inotify
// watch away takes the kernel 10 ms (it waits for a grace period), as much as all else that a short
// command takes.
type guard struct {
	files  []guardedFile
	notify *os.File // inotify, on the poller
	stop   chan struct{}
	wg     sync.WaitGroup
}

type guardedFile struct {
	laidFile
	spare int // descriptor of a detached copy of the mount; -1 when there is none
}

// guardDelay is how long a change of the host's may show inside a sandbox that has just started.
const guardDelay = time.Second

// newGuard starts to guard files. It returns nil, which can be closed, when the kernel refuses.
func newGuard(files []laidFile) *guard {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	g := &guard{notify: os.NewFile(uintptr(fd), "inotify"), stop: make(chan struct{})}
	for _, f := range files {
		g.files = append(g.files, guardedFile{f, cloneMount(f.path)})
	}
	g.wg.Go(g.run)
	return g
}

// Close ends the guard and waits for it.
func (g *guard) Close() {
	if g == nil {
		return
	}
	close(g.stop)
	g.notify.Close()
	g.wg.Wait()
	for _, f := range g.files {
		unix.Close(f.spare)
	}
}

func (g *guard) run() {
	delay := time.NewTimer(guardDelay)
	defer delay.Stop()
	select {
	case <-g.stop:
		return
	case <-delay.C:
	}
	buf := make([]byte, 4096)
	for {
		// First watch, then look: a change in between is read below.
		g.watch()
		for i := range g.files {
			g.files[i].restore()
		}
		// What happened does not matter: the files are looked at instead.
		if _, err := g.notify.Read(buf); err != nil {
			return
		}
	}
}

// watch watches the directories of all paths and of what they lead to now. Watching one again
// changes nothing.
func (g *guard) watch() {
	rc, err := g.notify.SyscallConn()
	if err != nil {
		return
	}
	_ = rc.Control(func(fd uintptr) {
		for _, f := range g.files {
			dirs := []string{filepath.Dir(f.path)}
			if t, err := filepath.EvalSymlinks(f.path); err == nil {
				dirs = append(dirs, filepath.Dir(t))
			}
			for _, d := range dirs {
				// A directory that is gone or unreadable has nothing to tell.
				_, _ = unix.InotifyAddWatch(int(fd), d, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE|unix.IN_MOVED_FROM)
			}
		}
	})
}

// restore mounts the file again where its path leads to another. A path that leads nowhere is left
// for the next change of its directory.
func (f *guardedFile) restore() {
	var st unix.Stat_t
	if unix.Stat(f.path, &st) == nil && st.Dev == f.dev && st.Ino == f.ino {
		return
	}
	target, err := mountable(f.path)
	if err != nil || f.spare < 0 {
		return
	}
	err = unix.MoveMount(f.spare, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if errors.Is(err, unix.ENOENT) { // replaced once more: there will be another event
		return
	}
	unix.Close(f.spare)
	f.spare = cloneMount(f.path)
}

// cloneMount returns a detached copy of the mount at path, or -1.
func cloneMount(path string) int {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1
	}
	return fd
}
