package dnsproxy

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// TestIsInside: an upstream is asked in the Network only when a container there has its address, and never when containers have the
// host's own.
func TestIsInside(t *testing.T) {
	n := spec.Network{Subnet4: netip.MustParsePrefix("10.1.0.0/24"), Subnet6: netip.MustParsePrefix("fd00::/64")}
	env := Env{
		Station: func(a netip.Addr) (m l2.MAC) {
			switch a.String() {
			case "10.1.0.2", "fd00::2", "8.8.8.8":
				m = l2.MAC{2}
			}
			return m
		},
		Inside: func(context.Context, string, netip.AddrPort) (net.Conn, error) { return nil, net.ErrClosed },
	}
	lan := n
	lan.AnyNeighbour = true
	for _, tc := range []struct {
		name string
		net  spec.Network
		env  Env
		addr string
		want bool
	}{
		{"a container", n, env, "10.1.0.2", true},
		{"a container, IPv6", n, env, "fd00::2", true},
		{"nobody", n, env, "10.1.0.3", false},
		{"an address of the outside that a container sends from", n, env, "8.8.8.8", false},
		{"the host's own address", lan, env, "10.1.0.2", false},
		{"without a way inside", n, Env{Station: env.Station}, "10.1.0.2", false},
	} {
		s := New(tc.env, tc.net)
		if got := s.isInside(netip.MustParseAddr(tc.addr)); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
		s.Close()
	}
}
