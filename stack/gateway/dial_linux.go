package gateway

import (
	"context"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// dialHost is the Dial of the real world.
//
// A local port is chosen by connect and not by bind. bind does not know the destination: it takes a port that
// no other socket has, so 28 000 connections to one server would leave none for the others. Hence not
// Dialer.DialTCP, which binds even when it is given no address.
func dialHost(ctx context.Context, network string, from netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepaliveIdle, Interval: keepaliveInterval, Count: keepaliveCount},
	}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		d.Control = bindWithoutPort
	}
	c, err := d.DialContext(ctx, network, to.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// bindWithoutPort makes bind take the address only (ip(7), Linux 4.2). The option is of IPv6 sockets too.
func bindWithoutPort(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	}); cerr != nil {
		return cerr
	}
	return err
}
