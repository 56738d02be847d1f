package nat

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/spec"
)

func addrMap(from, to string) spec.AddrMap {
	return spec.AddrMap{From: netip.MustParseAddr(from), To: netip.MustParseAddr(to)}
}

// mapped is a Network with addresses that stand for the host's: link-local ones, which are refused otherwise.
func mapped() spec.Network {
	n := privateNetwork()
	n.Policy.Maps = []spec.AddrMap{
		addrMap("169.254.1.2", "203.0.113.1"), addrMap("169.254.1.3", "127.0.0.1"), addrMap("169.254.1.4", "127.0.0.1"),
		addrMap("fe80::1", "::1"), addrMap("169.254.1.2", "127.0.0.1"),
	}
	return n
}

// Maps lead to the host, whatever is refused otherwise; the first one counts.
func TestMaps(t *testing.T) {
	n := mapped()
	n.Policy.HostLoopback = true
	n.Policy.Refuse = []spec.Refused{{Prefix: netip.MustParsePrefix("169.254.1.0/24")}}
	p := mustPolicy(t, n, nil)
	for from, to := range map[string]string{
		"169.254.1.2": "203.0.113.1", "169.254.1.3": "127.0.0.1", "169.254.1.4": "127.0.0.1", "fe80::1": "::1",
		"10.0.2.2": "127.0.0.1", "fd00::2": "::1",
	} {
		dst := netip.MustParseAddr(from)
		for _, proto := range protocolsOf(dst) {
			want := Verdict{Allow: true, Dial: netip.MustParseAddr(to), Mapped: true}
			if v := p.Check(proto, netip.AddrPortFrom(dst, 9)); v != want {
				t.Errorf("protocol %d to %s: %+v, want %+v", proto, from, v, want)
			}
		}
	}
	for _, s := range []string{"169.254.1.1", "169.254.169.254", "127.0.0.1", "::1", "fe80::2", "::ffff:169.254.1.3", "64:ff9b::169.254.1.3"} {
		if v := p.Check(ip.TCP, netip.AddrPortFrom(netip.MustParseAddr(s), 9)); v.Allow {
			t.Errorf("%s is let through: %+v", s, v)
		}
	}
	n.Policy.NoEgress = true
	if v := mustPolicy(t, n, nil).Check(ip.TCP, netip.MustParseAddrPort("169.254.1.3:9")); v.Allow {
		t.Errorf("without egress: %+v", v)
	}
}

// What could not work, or would be more than one address, is refused with a reason.
func TestMapsRefused(t *testing.T) {
	for _, m := range []spec.AddrMap{
		{}, {From: netip.MustParseAddr("10.0.0.1")}, addrMap("10.0.0.1", "::1"), addrMap("::ffff:10.0.0.1", "::1"),
		addrMap("10.0.0.1", "0.0.0.0"), addrMap("0.0.0.0", "127.0.0.1"), addrMap("127.0.0.1", "127.0.0.1"),
		addrMap("fe80::1%eth0", "::1"), addrMap("224.0.0.1", "127.0.0.1"), addrMap("10.0.0.1", "224.0.0.1"),
	} {
		n := privateNetwork()
		n.Policy.Maps = []spec.AddrMap{m}
		if _, err := NewPolicy(n, nil); err == nil || !strings.Contains(err.Error(), "map ") {
			t.Errorf("%+v: %v", m, err)
		}
	}
}

// With the host's own LAN on its link a container reaches it, but no other Network and nothing that is never let through.
func TestAnyNeighbourPolicy(t *testing.T) {
	n := privateNetwork()
	n.AnyNeighbour = true
	var r Reserved
	if err := r.Add(netip.MustParsePrefix("10.9.0.0/16")); err != nil {
		t.Fatal(err)
	}
	p := mustPolicy(t, n, &r)
	for dst, want := range map[string]bool{
		"10.0.2.2": true, "10.0.2.17": true, "fd00::17": true, "8.8.8.8": true,
		"10.9.0.1": false, "127.0.0.1": false, "::1": false, "169.254.169.254": false, "fe80::1": false, "64:ff9b::7f00:1": false,
	} {
		if v := p.Check(ip.TCP, netip.AddrPortFrom(netip.MustParseAddr(dst), 9)); v.Allow != want || v.Mapped {
			t.Errorf("%s: %+v, want allowed %v", dst, v, want)
		}
	}
}

// Answers come from the address the container spoke to last, when several stand for one of the host.
func TestUDPMaps(t *testing.T) {
	l := newLink(t)
	u := startUDP(t, l, mapped())
	lo, own := listen(t, "127.0.0.1:0"), listen(t, "203.0.113.1:0")
	for _, row := range []struct {
		to     string
		server *server
	}{{"169.254.1.3", lo}, {"169.254.1.4", lo}, {"169.254.1.2", own}, {"203.0.113.1", own}, {"169.254.1.3", lo}, {"169.254.1.2", own}} {
		to := netip.AddrPortFrom(netip.MustParseAddr(row.to), row.server.port())
		u.input(t, datagram{from: a1, to: to.String(), payload: []byte("x")})
		outside, _ := row.server.next()
		row.server.reply(outside, []byte("y"))
		if g := l.next(); g.src != to || string(g.payload) != "y" {
			t.Errorf("sent to %s, answered by %v", to, g.src)
		}
	}
	if n := u.Flows(); n != 1 {
		t.Errorf("%d flows of one port", n)
	}
}

// A mapped port nobody listens at is told as that of the mapped address, not of the host's.
func TestUDPMapsError(t *testing.T) {
	l := newLink(t)
	u := startUDP(t, l, mapped())
	u.input(t, datagram{from: a1, to: "169.254.1.3:9", payload: []byte("x")})
	e := l.next()
	want := netip.MustParseAddr("169.254.1.3")
	if e.err.Kind != ip.PortUnreachable || e.err.Dst != netip.AddrPortFrom(want, 9) || e.src.Addr() != want {
		t.Errorf("error %+v", e)
	}
}

// Pings of a mapped address are answered under it.
func TestPingMaps(t *testing.T) {
	permitPings(t)
	l := newLink(t)
	g := startPing(t, l.env(), mapped())
	for i, to := range []string{"169.254.1.3", "169.254.1.2", "169.254.1.4"} {
		g.Input(request{from: "10.0.2.100", to: to, id: 7, seq: uint16(i), data: []byte("x")}.packet(t))
		if r := l.next(); r.src.Addr() != netip.MustParseAddr(to) {
			t.Errorf("ping of %s answered by %v", to, r.src)
		}
	}
}

// What is bound to an interface leaves by no other, and the host itself is reached all the same, by the same port of
// the container.
func TestUDPOutboundDevice(t *testing.T) {
	l := newLink(t)
	n := mapped()
	n.OutboundDevice4 = "lo"
	u := startUDP(t, l, n)
	out, host := listen(t, "203.0.113.2:0"), listen(t, "127.0.0.1:0")
	for range 2 {
		for _, row := range []struct {
			to     string
			server *server
		}{{"203.0.113.2", out}, {"169.254.1.3", host}} {
			to := netip.AddrPortFrom(netip.MustParseAddr(row.to), row.server.port())
			u.input(t, datagram{from: a1, to: to.String(), payload: []byte("x")})
			outside, _ := row.server.next()
			row.server.reply(outside, []byte("y"))
			if g := l.next(); g.src != to || fmt.Sprint(g.dst) != a1 {
				t.Errorf("sent to %s, answered by %v to %v", to, g.src, g.dst)
			}
		}
	}
	devices := make(map[string]int)
	for _, e := range u.s.table.flows {
		if err := e.value.sock.rc.Control(func(fd uintptr) {
			name, err := unix.GetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
			if err != nil {
				t.Error(err)
			}
			devices[name]++
		}); err != nil {
			t.Error(err)
		}
	}
	if len(devices) != 2 || devices["lo"] != 1 || devices[""] != 1 {
		t.Errorf("sockets by interface: %v", devices)
	}
}

func TestNoOutboundDevice(t *testing.T) {
	l := newLink(t)
	n := mapped()
	n.OutboundDevice4 = "nosuchif0"
	u := startUDP(t, l, n)
	u.input(t, datagram{from: a1, to: "203.0.113.2:9", payload: []byte("x")})
	if e := l.next(); e.err.Kind != ip.AdminProhibited || u.Flows() != 0 {
		t.Errorf("without its interface: %+v, %d flows", e, u.Flows())
	}
}
