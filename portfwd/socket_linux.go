package portfwd

import (
	"errors"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
)

const (
	// backlog is cut by the kernel to net.core.somaxconn, 4096 by default since Linux 5.4.
	backlog = 4096
	// udpBuffer is asked for on receive and send; the kernel cuts it to net.core.rmem_max and
	// wmem_max. 4 MiB holds 60 of the largest datagrams while the datapath is busy elsewhere.
	udpBuffer = 4 << 20
)

// openSocket makes, binds and (TCP) listens on one socket and reports the port it got. device is the interface it is
// bound to, unless empty.
//
// SO_REUSEPORT is never set: with it another process of the same user could take half of the
// traffic. SO_REUSEADDR is set for TCP alone, where it lets a new listener stand beside old
// connections in TIME_WAIT (FT-04) and, in Linux, never beside another listener; for UDP it would
// let a second socket steal the port.
func openSocket(proto Proto, at netip.AddrPort, device string) (_ *os.File, port uint16, err error) {
	kind := unix.SOCK_STREAM
	if proto == UDP {
		kind = unix.SOCK_DGRAM
	}
	family := unix.AF_INET
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, 0, err
	}
	if port, err = bind(fd, proto, at, device); err != nil {
		unix.Close(fd)
		return nil, 0, err
	}
	// A blocking descriptor is not put into the poller of this process, which would otherwise wake
	// for each connection and datagram that another process handles. Non-blocking it becomes after.
	f := os.NewFile(uintptr(fd), "publish "+at.String())
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, port, nil
}

func bind(fd int, proto Proto, at netip.AddrPort, device string) (uint16, error) {
	if err := setOptions(fd, proto, at.Addr().Is6()); err != nil {
		return 0, err
	}
	if device != "" {
		if err := unix.BindToDevice(fd, device); err != nil {
			return 0, err
		}
	}
	if err := unix.Bind(fd, sockaddr(at)); err != nil {
		return 0, err
	}
	if proto == TCP {
		if err := unix.Listen(fd, backlog); err != nil {
			return 0, err
		}
	}
	return boundPort(fd)
}

func setOptions(fd int, proto Proto, v6 bool) error {
	if v6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return err
		}
	}
	if proto == TCP {
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), sys.InlineUrgent(fd))
	}
	// The reply must leave from the address the client spoke to (UDP-02).
	if err := sys.SetOptionsFD(fd, v6, sys.OptPktInfo); err != nil {
		return err
	}
	for _, o := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o, udpBuffer); err != nil {
			return err
		}
	}
	// Fewer, larger receives; a kernel before 5.0 does without.
	if err := sys.SetOptionsFD(fd, v6, sys.OptUDPGRO); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func boundPort(fd int) (uint16, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return uint16(sa.Port), nil
	case *unix.SockaddrInet6:
		return uint16(sa.Port), nil
	}
	return 0, syscall.EAFNOSUPPORT
}
