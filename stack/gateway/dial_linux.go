package gateway

import (
	"context"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// hostDialer returns the Dial of the real world, by one interface of the host unless device is empty.
//
// A local port is chosen by connect and not by bind. bind does not know the destination: it takes a port that
// no other socket has, so 28 000 connections to one server would leave none for the others. Hence not
// Dialer.DialTCP, which binds even when it is given no address.
func hostDialer(device string) DialFunc {
	return func(ctx context.Context, network string, from netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
		d := net.Dialer{
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepaliveIdle, Interval: keepaliveInterval, Count: keepaliveCount},
		}
		if from.IsValid() {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		if from.IsValid() || device != "" {
			d.Control = func(_, _ string, c syscall.RawConn) error { return bindTo(c, from.IsValid(), device) }
		}
		c, err := d.DialContext(ctx, network, to.String())
		if err != nil {
			return nil, err
		}
		return c.(*net.TCPConn), nil
	}
}

// bindTo makes bind take the address only (ip(7), Linux 4.2; the option is of IPv6 sockets too), and binds to a
// device unless it is empty. Since Linux 5.7 that needs no privilege.
func bindTo(c syscall.RawConn, addr bool, device string) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		if addr {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		}
		if err == nil && device != "" {
			err = unix.BindToDevice(int(fd), device)
		}
	}); cerr != nil {
		return cerr
	}
	return err
}
