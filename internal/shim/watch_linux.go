package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
)

// endWatch waits for the end of namespaces: of the process, when they were given by one, else of the path.
// A path ends when it is unmounted (the kernel announces changes of /proc/self/mountinfo) or deleted
// (inotify on its directory). What has changed does not matter; the path is looked at again, but only then: while it
// is looked at it cannot be unmounted (EBUSY), and in its directory others may come and go all the time.
type endWatch struct {
	ended chan struct{}
	cause string // written before ended is closed

	ns   *namespaces
	fds  []unix.PollFd // the first is the end of stop
	stop *os.File
	open []*os.File
	wg   sync.WaitGroup
}

// watchEnd starts to watch ns, which stays open until close.
func watchEnd(ns *namespaces) (*endWatch, error) {
	w := &endWatch{ended: make(chan struct{}), ns: ns}
	if err := w.arm(); err != nil {
		w.close()
		return nil, fmt.Errorf("watch %s: %w", ns.name, err)
	}
	w.wg.Go(w.run)
	return w, nil
}

func (w *endWatch) arm() error {
	r, stop, err := os.Pipe()
	if err != nil {
		return err
	}
	w.stop = stop
	w.add(r, unix.POLLIN)
	if w.ns.pidfd >= 0 {
		w.fds = append(w.fds, unix.PollFd{Fd: int32(w.ns.pidfd), Events: unix.POLLIN})
		return nil
	}
	// Not os.Open: it gives the file to the runtime's poller, and the kernel tells of a change once for each
	// open file (mounts_poll in fs/proc_namespace.c), so that the poller would often take the news.
	mounts, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/proc/self/mountinfo", Err: err}
	}
	w.add(os.NewFile(uintptr(mounts), "mountinfo"), unix.POLLPRI)
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	w.add(os.NewFile(uintptr(fd), "inotify"), unix.POLLIN)
	// Of a directory that cannot be watched, mountinfo tells what matters most.
	_, _ = unix.InotifyAddWatch(fd, filepath.Dir(w.ns.path), watchedEvents)
	return nil
}

// watchedEvents of a directory change where its entries lead.
const watchedEvents = unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_CREATE | unix.IN_MOVED_TO

func (w *endWatch) add(f *os.File, events int16) {
	w.open = append(w.open, f)
	w.fds = append(w.fds, unix.PollFd{Fd: int32(f.Fd()), Events: events})
}

// close ends the watch and waits for it.
func (w *endWatch) close() {
	if w.stop != nil {
		w.stop.Close()
	}
	w.wg.Wait()
	for _, f := range w.open {
		f.Close()
	}
}

func (w *endWatch) run() {
	buf := make([]byte, 4096)
	for look := true; ; {
		if look && w.ns.pidfd < 0 {
			if now, err := os.Stat(w.ns.path); err != nil || !os.SameFile(now, w.ns.id) {
				w.cause = "its path no longer leads to it"
				close(w.ended)
				return
			}
		}
		if _, err := unix.Poll(w.fds, -1); err != nil && err != unix.EINTR {
			w.cause = "watching it failed: " + err.Error()
			close(w.ended)
			return
		}
		if w.fds[0].Revents != 0 {
			return
		}
		if w.ns.pidfd >= 0 && w.fds[1].Revents != 0 {
			w.cause = "its process ended"
			close(w.ended)
			return
		}
		look = w.fds[1].Revents != 0
		if len(w.fds) > 2 && w.fds[2].Revents != 0 {
			n, _ := unix.Read(int(w.fds[2].Fd), buf)
			look = look || concerns(buf[:max(n, 0)], filepath.Base(w.ns.path))
		}
	}
}

// concerns reports whether events of a directory may change where the path of its entry name leads.
func concerns(events []byte, name string) bool {
	for e := range sys.InotifyEvents(events) {
		if e.Name == name || e.Name == "" { // without a name: the directory itself, or events were lost
			return true
		}
	}
	return false
}
