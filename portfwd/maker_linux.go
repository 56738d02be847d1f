package portfwd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
)

// # Trust
//
// The two sockets were made by a process in the container, and what runs there may have replaced them or hold them too. So
// they are checked to be what they are said to be, nothing is ever sent through them, and a step that fails or takes
// too long ends their use for good; the connections then go through the gateway. The new socket is made here and nobody
// else has it.
//
// Whoever else holds the two can make a call block that was not to (O_NONBLOCK is of the file, SO_LINGER of the socket), for as long as
// they like. So whatever works on the two has a goroutine of its own, which nobody waits for longer than that should take. One that a
// container keeps for ever costs a thread, and there are two for each family at most: after it nothing more is tried.

// insidePatience bounds the wait for a connection that the kernel makes within one system call unless
// the container interferes, or the machine is very busy.
const insidePatience = 5 * time.Second

// maker makes sockets of one family from two given ones.
type maker struct {
	mu       sync.Mutex // held while a socket is made: one at a time
	listener *os.File
	caller   *os.File // nil until it has come
	patience time.Duration
	off      bool // guarded by mu; a step has failed

	closed bool // guarded by spares.mu; it has no spares any more

	useMu sync.Mutex // a leaf; guards what follows
	used  bool       // mint has the two sockets
	ended bool       // close was called
}

// closeAtOnce has close(2) of fd wait for nobody. A socket gets SO_LINGER from its listener, where a container may have set it, and
// close then waits for what was sent to be read, on a thread and with locks held.
func closeAtOnce(fd int) error {
	return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{})
}

// make makes a socket like the two of m.
func (m *maker) make(v6 bool) (*conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.off {
		return nil, errNotInside
	}
	fd, err := m.mintInTime(v6)
	if err != nil && !exhausted(err) {
		m.off = true
	}
	var c *conn
	if err == nil {
		c, err = newConn(fd)
	}
	if err != nil {
		return nil, fmt.Errorf("make a socket of the container: %w", err)
	}
	c.home = m
	return c, nil
}

// exhausted reports whether err will pass.
func exhausted(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// minted is what mint returns.
type minted struct {
	fd  int
	err error
}

// errHeldUp says that a system call with a socket of the container's has not come back.
var errHeldUp = errors.New("the container holds its sockets up")

// mintInTime is mint by a goroutine of its own. When that takes too long nobody waits for it any more, and it is told to end.
func (m *maker) mintInTime(v6 bool) (fd int, err error) {
	if !m.use() {
		return -1, net.ErrClosed
	}
	got, late := make(chan minted), make(chan struct{})
	go func() {
		fd, err := m.mint(v6)
		m.release()
		select {
		case got <- minted{fd, err}:
		case <-late:
			if fd >= 0 {
				unix.Close(fd)
			}
		}
	}()
	t := time.NewTimer(2 * m.patience) // accept has an end of its own
	defer t.Stop()
	select {
	case r := <-got:
		return r.fd, r.err
	case <-t.C:
		close(late)
		go m.interrupt()
		return -1, errHeldUp
	}
}

// use begins the use of the two sockets, unless close was called.
func (m *maker) use() bool {
	m.useMu.Lock()
	defer m.useMu.Unlock()
	m.used = !m.ended
	return m.used
}

// release ends it, and closes them if close was called meanwhile.
func (m *maker) release() {
	m.useMu.Lock()
	m.used = false
	ended := m.ended
	m.useMu.Unlock()
	if ended {
		_ = m.closeFiles()
	}
}

// interrupt ends a wait of mint that the container has made a blocking one. It may be held up itself.
func (m *maker) interrupt() {
	for _, f := range []*os.File{m.listener, m.caller} {
		if rc, err := f.SyscallConn(); err == nil {
			_ = control(rc, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) })
		}
	}
}

func (m *maker) mint(v6 bool) (fd int, err error) {
	lrc, err := m.listener.SyscallConn()
	if err != nil {
		return -1, err
	}
	crc, err := m.caller.SyscallConn()
	if err != nil {
		return -1, err
	}
	defer func() {
		derr := errors.Join(control(lrc, sys.Disconnect), control(crc, sys.Disconnect))
		if fd >= 0 {
			derr = errors.Join(derr, refresh(fd), sys.InlineUrgent(fd), closeAtOnce(fd))
		}
		if derr != nil && fd >= 0 {
			unix.Close(fd)
			fd = -1
		}
		err = errors.Join(err, derr)
	}()
	var port uint16
	if err := control(lrc, func(fd int) (err error) {
		if err = unix.Listen(fd, 1); err == nil {
			port, err = boundPort(fd)
		}
		return err
	}); err != nil {
		return -1, err
	}
	at := loopback4
	if v6 {
		at = netip.IPv6Loopback()
	}
	err = control(crc, func(fd int) error { return unix.Connect(fd, sockaddr(netip.AddrPortFrom(at, port))) })
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return -1, err
	}
	return m.accept(lrc)
}

// accept takes the connection that is on its way.
func (m *maker) accept(rc syscall.RawConn) (fd int, err error) {
	if err := m.listener.SetReadDeadline(time.Now().Add(m.patience)); err != nil {
		return -1, err
	}
	fd = -1
	rerr := rc.Read(func(s uintptr) bool {
		fd, _, err = unix.Accept4(int(s), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		return err != unix.EAGAIN && err != unix.EINTR && err != unix.ECONNABORTED
	})
	if rerr != nil {
		return -1, rerr
	}
	return fd, err
}

// close ends the use of m. It does not wait for long for anything that the container has a hand in: what mint has just now is closed by
// mint's goroutine.
func (m *maker) close() error {
	err := spares.end(m)
	m.useMu.Lock()
	m.ended = true
	used := m.used
	m.useMu.Unlock()
	if used {
		go m.interrupt()
		return err
	}
	closed := make(chan error, 1)
	go func() { closed <- m.closeFiles() }()
	t := time.NewTimer(m.patience)
	defer t.Stop()
	select {
	case cerr := <-closed:
		return errors.Join(err, cerr)
	case <-t.C:
		return errors.Join(err, errHeldUp)
	}
}

func (m *maker) closeFiles() error {
	var errs []error
	for _, f := range []*os.File{m.listener, m.caller} {
		if f == nil {
			continue
		}
		if rc, err := f.SyscallConn(); err == nil {
			_ = control(rc, func(fd int) error { return errors.Join(closeAtOnce(fd), sys.Disconnect(fd)) }) // as good as new, at most
		}
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
