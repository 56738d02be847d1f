package slirp4netns

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/compat/session"
	"github.com/usernet/usernet/tap"
)

// Where the frames come from, when it is not an interface of a namespace that we enter; and descriptors that our
// caller has left open for us.

// openTarget returns the TAP that the caller handed over, or the socket of the virtual machine that has connected;
// nil when the interface is in a namespace.
func openTarget(ctx context.Context, o *options, stderr io.Writer) (*session.TAP, error) {
	switch o.target {
	case targetTAPFD:
		f, info, err := tap.Inherit(o.tapFD, o.mtu)
		if err != nil {
			return nil, err
		}
		return &session.TAP{File: f, Info: info}, nil
	case targetBESS:
		f, err := acceptBESS(ctx, o.path, stderr)
		if err != nil {
			return nil, fmt.Errorf("wait for a BESS client: %w", err)
		}
		// A message is a frame as it was on the wire: no header before it, nothing left to be completed.
		return &session.TAP{File: f, Info: tap.Info{Name: "bess", MTU: o.mtu}}, nil
	}
	return nil, nil
}

// acceptBESS waits for the one client of a BESS-compatible socket, such as User Mode Linux.
func acceptBESS(ctx context.Context, path string, stderr io.Writer) (*os.File, error) {
	l, err := listenUnix("unixpacket", path)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	fmt.Fprintf(stderr, "Waiting for connection to %s\n", path)
	c, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return plain(c)
}

// plain is a duplicate of c that is a file to the runtime, and non-blocking as c is.
func plain(c *net.UnixConn) (*os.File, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	if cerr := raw.Control(func(s uintptr) { fd, err = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "bess"), nil
}

// inherited takes over a descriptor that our caller left open; nil for a number below 0.
func inherited(fd int, name string) (*os.File, error) {
	if fd < 0 {
		return nil, nil
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
		return nil, fmt.Errorf("%s %d: %w; is it open, and inherited?", name, fd, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// exitWatch waits for an event on the exit descriptor: data, or the end of whoever holds the other end.
type exitWatch struct {
	event chan struct{} // nil without a descriptor
	stop  *os.File
	wg    sync.WaitGroup
}

func watchExit(fd int) (*exitWatch, error) {
	w := &exitWatch{}
	f, err := inherited(fd, "exit-fd")
	if err != nil || f == nil {
		return w, err
	}
	r, stop, err := os.Pipe()
	if err != nil {
		f.Close()
		return w, err
	}
	w.event, w.stop = make(chan struct{}), stop
	w.wg.Go(func() {
		defer r.Close()
		defer f.Close()
		// Not by the runtime's poller: it takes no regular files, and tells of an event only who reads.
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(r.Fd()), Events: unix.POLLIN}}
		for {
			_, err := unix.Poll(fds, -1)
			if err == unix.EINTR {
				continue
			}
			if err != nil || fds[0].Revents != 0 {
				close(w.event)
			}
			return
		}
	})
	return w, nil
}

// close ends the watch and waits for it.
func (w *exitWatch) close() {
	if w.stop != nil {
		w.stop.Close()
	}
	w.wg.Wait()
}
