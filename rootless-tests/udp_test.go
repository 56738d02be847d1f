package rootlesstests

import (
	"net/netip"
	"testing"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// UDP-01: datagrams of all sizes pass a published port, both ways.
func TestUDP01(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	port, flag := publish(7, "udp")
	sb := r.Run(t, "--publish", flag)
	bothFamilies(t, func(t *testing.T, f family) {
		listenUDP(t, sb.Node, at(f.any, 7), sendBack)
		c := r.X1.DialUDP(t, at(f.host, port))
		for _, n := range datagramSizes {
			want := payload(n)
			if got := exchange(t, c, want); string(got) != string(want) {
				t.Errorf("datagram of %d bytes came back as %d bytes, or as others", n, len(got))
			}
		}
	})
}

// UDP-02: the answer comes from the address that the client spoke to; and the container sees the client's own.
func TestUDP02(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	port, flag := publish(7, "udp")
	sb := r.Run(t, "--publish", flag)
	bothFamilies(t, func(t *testing.T, f family) {
		server := listenUDP(t, sb.Node, at(f.any, 7), sendBack)
		for _, host := range []netip.Addr{f.host, f.host2} {
			t.Run(host.String(), func(t *testing.T) {
				// Connected: its kernel takes nothing from another address.
				c := r.X1.DialUDP(t, at(host, port))
				if got := exchange(t, c, []byte(host.String())); string(got) != host.String() {
					t.Errorf("answer %q", got)
				}
				if from, want := server.sources()[host.String()], addrOf(t, c.LocalAddr()); from != want {
					t.Errorf("the container sees %v, want the client's %v", from, want)
				}
			})
		}
	})
}
