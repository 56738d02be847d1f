package dnsproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Sockets to upstreams are made with bare system calls, as package net translates the zone of a link-local address by
// asking netlink for the host's interfaces, in both directions, and the Server's process may not. They
// are os.Files, so that the runtime's poller waits for them and deadlines work.
//
// They are connected: the kernel then binds a random free port, drops what comes from any other address, and
// hands us the ICMP error when nobody listens there.

// dialUDP makes a socket for one query.
func dialUDP(to netip.AddrPort) (*os.File, error) {
	fd, err := openConnect(unix.SOCK_DGRAM, to)
	if err != nil {
		return nil, fmt.Errorf("dial %v: %w", to, err)
	}
	return os.NewFile(uintptr(fd), "dns-udp"), nil
}

// dialTCP makes a connection and waits until it stands, or ctx ends.
func dialTCP(ctx context.Context, to netip.AddrPort) (*os.File, error) {
	fd, err := openConnect(unix.SOCK_STREAM, to)
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return nil, fmt.Errorf("dial %v: %w", to, err)
	}
	f := os.NewFile(uintptr(fd), "dns-tcp")
	stop := context.AfterFunc(ctx, func() { f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("dial %v: %w", to, err)
	}
	var connectErr error
	err = raw.Write(func(fd uintptr) bool {
		// Asking to connect again tells how the first connect stands, whatever woke us.
		connectErr = unix.Connect(int(fd), sockaddr(to))
		return !errors.Is(connectErr, unix.EALREADY) && !errors.Is(connectErr, unix.EINPROGRESS)
	})
	if err == nil && !errors.Is(connectErr, unix.EISCONN) {
		err = connectErr
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("dial %v: %w", to, err)
	}
	return f, nil
}

// openConnect returns a non-blocking socket that is connected, or with unix.EINPROGRESS soon will be.
func openConnect(kind int, to netip.AddrPort) (fd int, err error) {
	family := unix.AF_INET6
	if to.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		if errors.Is(err, unix.EINPROGRESS) {
			return fd, err
		}
		unix.Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// sourceFor returns the address the host would ask to from. It sends nothing.
func sourceFor(to netip.AddrPort) (netip.Addr, error) {
	fd, err := openConnect(unix.SOCK_DGRAM, to)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find source for %v: %w", to, err)
	}
	defer unix.Close(fd)
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find source for %v: %w", to, os.NewSyscallError("getsockname", err))
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr), nil
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(sa.Addr), nil
	}
	return netip.Addr{}, fmt.Errorf("find source for %v: unknown address family", to)
}

// sockaddr translates an address whose zone, if any, is a number.
func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if ap.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	zone, _ := strconv.ParseUint(ap.Addr().Zone(), 10, 32)
	return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16(), ZoneId: uint32(zone)}
}

// isEmptyDatagram reports whether a read of no bytes was a datagram without payload, which os.File calls the
// end of the file.
func isEmptyDatagram(err error) bool { return errors.Is(err, io.EOF) }
