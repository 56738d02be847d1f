package datapath

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/internal/wire"
)

// adoptionWait is how long a process without a control goes on. A shim notices a daemon's death at once and starts the
// next one; a minute is for hosts that are busy, and for people who start it by hand.
const adoptionWait = 60 * time.Second

// backlog is how many controls may wait. There is one; a second finds no answer until the first is gone.
const backlog = 4

// bindSocket makes a SEQPACKET socket with mode 0600 at path, in place of what an earlier process has left there. It
// does not listen: that is the datapath's to do, because those who connect are told the process that did (unix(7),
// SO_PEERCRED).
func bindSocket(path string) (*os.File, error) {
	if err := sys.FreeSocketPath(path); err != nil {
		return nil, fmt.Errorf("bind %s: %w", path, err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), path)
	if err = unix.Fchmod(fd, 0o600); err == nil { // as in sys.ListenUnix
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("bind %s: %w", path, err)
	}
	return f, nil
}

// door is where the next control comes in, seen from inside the process.
type door struct {
	l    *net.UnixListener
	wait time.Duration
	uid  int // who may come in
	log  *slog.Logger
}

// newDoor takes over the bound socket at descriptor fd, before the process confines itself.
func newDoor(fd int, wait time.Duration, log *slog.Logger) (*door, error) {
	f := os.NewFile(uintptr(fd), "adoption socket")
	defer f.Close()
	if err := unix.Listen(fd, backlog); err != nil {
		return nil, fmt.Errorf("open adoption socket: %w", os.NewSyscallError("listen", err))
	}
	listener, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("open adoption socket: %w", err)
	}
	l, ok := listener.(*net.UnixListener)
	if !ok {
		listener.Close()
		return nil, fmt.Errorf("open adoption socket: it is one of %s", listener.Addr().Network())
	}
	return &door{l: l, wait: wait, uid: os.Geteuid(), log: log}, nil
}

// next waits for a control of the same user. os.ErrDeadlineExceeded says that none came.
func (d *door) next() (*wire.Conn, error) {
	if err := d.l.SetDeadline(time.Now().Add(d.wait)); err != nil {
		return nil, fmt.Errorf("wait for control: %w", err)
	}
	for {
		c, err := d.l.AcceptUnix()
		if err != nil {
			return nil, fmt.Errorf("wait for control: %w", err)
		}
		uid, _, err := sys.Peer(c)
		if err == nil && uid == d.uid {
			return wire.New(c, MaxMessage)
		}
		c.Close()
		d.log.Warn("a control of another user was refused", "err", err)
	}
}

// build tells the binary that runs from others, also from another one at the same path.
func build() (string, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &st); err != nil {
		return "", fmt.Errorf("find own binary: %w", err)
	}
	return fmt.Sprintf("%x:%x:%x:%x.%x", st.Dev, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec), nil
}
