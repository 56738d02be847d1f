package gateway

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDialHost: connections come from the address that was asked for, and their port was left to connect.
func TestDialHost(t *testing.T) {
	for _, row := range []struct{ listen, from string }{
		{"127.0.0.1:0", ""}, {"127.0.0.1:0", "127.0.0.2"}, {"[::1]:0", ""}, {"[::1]:0", "::1"},
	} {
		l, err := net.Listen("tcp", row.listen)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		from := netip.Addr{}
		if row.from != "" {
			from = netip.MustParseAddr(row.from)
		}
		fd, err := dialHost(t.Context(), outbound{from: from}, l.Addr().(*net.TCPAddr).AddrPort())
		if err != nil {
			t.Fatalf("dial %s from %q: %v", row.listen, row.from, err)
		}
		defer closeSocket(fd)
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); from.IsValid() && got != from {
			t.Errorf("connection comes from %v, want %v", got, from)
		}
		v, err := unix.GetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT)
		if want := from.IsValid(); err != nil || (v != 0) != want {
			t.Errorf("dial from %q: IP_BIND_ADDRESS_NO_PORT is %d, %v; want %v", row.from, v, err, want)
		}
	}
}
