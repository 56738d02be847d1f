package dnsproxy

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"github.com/usernet/usernet/stack/spec"
)

// TestIsInside: of the servers that an Endpoint is given, those with an address of the Network are asked there, except where
// it is the Network's own, and where containers have the host's.
func TestIsInside(t *testing.T) {
	n := spec.Network{
		Subnet4: netip.MustParsePrefix("10.1.0.0/24"), Subnet6: netip.MustParsePrefix("fd00::/64"),
		Gateway4: netip.MustParseAddr("10.1.0.1"), DNS6: netip.MustParseAddr("fd00::1"),
	}
	env := Env{Inside: func(context.Context, string, netip.AddrPort) (net.Conn, error) { return nil, net.ErrClosed }}
	hosts := n
	hosts.AnyNeighbour = true
	for _, tc := range []struct {
		name string
		net  spec.Network
		env  Env
		addr string
		want bool
	}{
		{"the Network's", n, env, "10.1.0.2", true},
		{"the Network's, IPv6", n, env, "fd00::2", true},
		{"the gateway", n, env, "10.1.0.1", false},
		{"the name server itself", n, env, "fd00::1", false},
		{"the outside's", n, env, "8.8.8.8", false},
		{"a link-local server of the host's", n, env, "fe80::1%2", false},
		{"the host's own address", hosts, env, "10.1.0.2", false},
		{"without a way inside", n, Env{}, "10.1.0.2", false},
	} {
		s := New(tc.env, tc.net)
		if got := s.isInside(netip.MustParseAddr(tc.addr)); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
		s.Close()
	}
}

// TestInsideOrHost: nobody outside is asked in place of a container that is not there, and no container in place of a server of the
// host's, whatever its address.
func TestInsideOrHost(t *testing.T) {
	const c, other = "10.1.0.2", "10.1.0.3"
	l := newLAN(t)
	var dialled atomic.Int64
	inside := func(context.Context, string, netip.AddrPort) (net.Conn, error) {
		dialled.Add(1)
		return nil, net.ErrClosed
	}
	s := New(Env{Inside: inside, Directory: l.dir}, spec.Network{ID: "id", Subnet4: netip.MustParsePrefix("127.0.0.0/8")})
	t.Cleanup(func() { s.Close() })
	l.networks["net"] = s
	s.Configure(Config{Upstreams: []netip.AddrPort{l.up.addr}})
	l.endpoint("net", c, spec.Resolver{Upstreams: []netip.AddrPort{l.up.addr}})
	if got := l.ask("net", c, "www.example", dns.TypeA); got != "SERVFAIL" || dialled.Load() == 0 {
		t.Errorf("its own server is not there: %q, %d conversations inside", got, dialled.Load())
	}
	if n := l.up.queries.Load(); n > 0 {
		t.Errorf("the host was asked %d times in its place", n)
	}
	dialled.Store(0)
	if got := l.ask("net", other, "www.example", dns.TypeA); got != forwarded || dialled.Load() > 0 {
		t.Errorf("a server of the host's: %q, %d conversations inside", got, dialled.Load())
	}
}
