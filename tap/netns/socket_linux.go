package netns

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/sys"
)

// MaxSockets is how many sockets OpenSockets makes at once: as many as one message carries.
const MaxSockets = sys.MaxFDs

// listenBacklog is cut by the kernel to net.core.somaxconn, 4096 by default since Linux 5.4.
const listenBacklog = 4096

// OpenSockets makes sockets in the network namespace that the calling thread is in: all or none. They are
// non-blocking, close-on-exec, not in this process's poller, and the caller's to close. An error names the address
// and wraps the syscall.Errno.
func OpenSockets(wanted []plumb.Socket) (made []*os.File, err error) {
	if len(wanted) > MaxSockets {
		return nil, fmt.Errorf("open %d sockets: at most %d at once", len(wanted), MaxSockets)
	}
	for _, w := range wanted {
		f, err := openSocket(w)
		if err != nil {
			for _, f := range made {
				f.Close()
			}
			return nil, fmt.Errorf("open socket %s %s: %w", w.Network, w.Listen, err)
		}
		made = append(made, f)
	}
	return made, nil
}

func openSocket(w plumb.Socket) (*os.File, error) {
	family, kind, err := socketKind(w)
	if err != nil {
		return nil, err
	}
	protocol := 0
	if w.Network == plumb.SockDiag {
		protocol = unix.NETLINK_SOCK_DIAG
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, err
	}
	if w.Listen.IsValid() {
		if err := bindSocket(fd, family, kind, w); err != nil {
			unix.Close(fd)
			return nil, err
		}
	}
	// A blocking descriptor is not put into the poller of this process, which never waits for it. Non-blocking it
	// becomes after.
	f := os.NewFile(uintptr(fd), "socket "+w.Listen.String())
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// socketKind checks w and says it in the kernel's words.
func socketKind(w plumb.Socket) (family, kind int, err error) {
	family, kind = unix.AF_INET, unix.SOCK_STREAM
	switch w.Network {
	case plumb.TCP4:
	case plumb.TCP6:
		family = unix.AF_INET6
	case plumb.UDP4:
		kind = unix.SOCK_DGRAM
	case plumb.UDP6:
		family, kind = unix.AF_INET6, unix.SOCK_DGRAM
	case plumb.SockDiag:
		if w.Listen.IsValid() {
			return 0, 0, fmt.Errorf("%s is bound to no address", w.Network)
		}
		family, kind = unix.AF_NETLINK, unix.SOCK_RAW
	default:
		return 0, 0, fmt.Errorf("unknown network %q; use tcp4, tcp6, udp4, udp6 or sock_diag", w.Network)
	}
	a := w.Listen.Addr()
	if a.IsValid() && (a.Is4() != (family == unix.AF_INET) || a.Is4In6() || a.Zone() != "") {
		return 0, 0, fmt.Errorf("address %s is not one of %s", a, w.Network)
	}
	return family, kind, nil
}

// bindSocket binds the socket to its address alone (an IPv6 one is of IPv6 only) and listens if it is TCP. A TCP
// port may be bound beside old connections in TIME_WAIT; never beside another listener.
func bindSocket(fd, family, kind int, w plumb.Socket) error {
	var at unix.Sockaddr = &unix.SockaddrInet4{Port: int(w.Listen.Port())}
	if family == unix.AF_INET {
		at.(*unix.SockaddrInet4).Addr = w.Listen.Addr().As4()
	} else {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return err
		}
		at = &unix.SockaddrInet6{Port: int(w.Listen.Port()), Addr: w.Listen.Addr().As16()}
	}
	if kind == unix.SOCK_DGRAM {
		// The reply leaves from the address that was spoken to.
		if err := sys.SetOptionsFD(fd, family == unix.AF_INET6, sys.OptPktInfo); err != nil {
			return err
		}
		return unix.Bind(fd, at)
	}
	if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), sys.InlineUrgent(fd)); err != nil {
		return err
	}
	if err := unix.Bind(fd, at); err != nil {
		return err
	}
	return unix.Listen(fd, listenBacklog)
}
