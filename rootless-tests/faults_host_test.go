package rootlesstests

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// plugIn puts the network of H in order, whatever a test did to it.
func plugIn(t *testing.T, r *rig.Rig) {
	t.Helper()
	// t's own context has ended when cleanups run.
	out, code, err := r.H.Exec(context.Background(), "", "sh", "-ec", strings.Join([]string{
		"ip address flush dev eth0 scope global",
		"ip link set eth0 up",
		"ip address add 203.0.113.1/24 dev eth0",
		"ip address add 203.0.113.3/24 dev eth0",
		"ip address add fd01::3/64 dev eth0 nodad preferred_lft 0",
		"ip address add fd01::1/64 dev eth0 nodad",
		"ip route replace 203.0.113.254 dev eth0",
		"ip route replace default via 203.0.113.254",
		"ip -6 route replace fd01::fe dev eth0",
		"ip -6 route replace default via fd01::fe",
	}, "\n"))
	if err != nil || code != 0 {
		t.Errorf("put the network of H in order: exit code %d, %v\n%s", code, err, out)
	}
}

// inH changes the network of H until the test ends; such a test is not parallel.
func inH(t *testing.T, r *rig.Rig, commands ...string) {
	t.Helper()
	t.Cleanup(func() { plugIn(t, r) })
	r.H.Run(t, "sh", "-ec", strings.Join(commands, "\n"))
}

// sourceOf sends datagrams on c until the server answers, and returns the address the last one came from.
func sourceOf(c *net.UDPConn, limit time.Duration) (string, error) {
	deadline := time.Now().Add(limit)
	buf := make([]byte, 200)
	for {
		_, werr := c.Write([]byte("from where?"))
		if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			return "", err
		}
		n, err := c.Read(buf)
		if err == nil {
			return string(buf[:n]), nil
		}
		if time.Now().After(deadline) {
			return "", errors.Join(werr, err)
		}
	}
}

// whoAmI is a server that answers with the address it was asked from.
func whoAmI(t *testing.T, n *rig.Node, a netip.Addr) netip.AddrPort {
	t.Helper()
	return listenUDP(t, n, at(a, 0), func(d datagram) []byte { return []byte(d.from.Addr().String()) }).at
}

// FT-16: the uplink of the host goes down and comes back, its addresses change, its default route moves. New flows
// work within 2 s, old UDP flows within 5 s. The uplink is down for as long as the measurement takes, not for 60 s.
func TestFT16(t *testing.T) {
	r := rig.Start(t)
	sb := r.Run(t)
	datapath := sb.Datapath(t)
	udp, tcp := map[string]*net.UDPConn{}, map[string]netip.AddrPort{}
	for _, f := range families {
		udp[f.name], tcp[f.name] = sb.DialUDP(t, whoAmI(t, r.X1, f.x1)), serveEcho(t, r.X1, f.x1)
	}
	works := func(t *testing.T, want map[string]string) {
		t.Helper()
		began := time.Now()
		for name, to := range tcp {
			rig.WaitFor(t, 2*time.Second-time.Since(began), "new connection over "+name, func() bool {
				c, err := sb.Dial(rig.Within(t, time.Second), "tcp", to)
				if err == nil {
					c.Close()
				}
				return err == nil
			})
		}
		for name, c := range udp {
			// An answer may come from before the change was noticed.
			var got string
			var err error
			rig.Eventually(t, 5*time.Second-time.Since(began), func() bool {
				got, err = sourceOf(c, 0)
				return err == nil && got == want[name]
			})
			if err != nil || got != want[name] {
				t.Errorf("old UDP flow over %s comes from %q, %v; want %s", name, got, err, want[name])
			}
		}
	}
	usual := map[string]string{"IPv4": rig.H4.String(), "IPv6": rig.H6.String()}
	works(t, usual)

	t.Run("down", func(t *testing.T) {
		inH(t, r, "ip link set eth0 down")
		for name, to := range tcp {
			began := time.Now()
			_, err := sb.Dial(rig.Within(t, rig.Patience), "tcp", to)
			if !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EHOSTUNREACH) || time.Since(began) > busy*time.Second {
				t.Errorf("connection over %s while the uplink is down: %v after %v", name, err, time.Since(began))
			}
		}
		if p := processor(t, datapath, 2*time.Second); p >= 0.02 {
			t.Errorf("datapath uses %.1f %% of a processor while the uplink is down, want less than 2", 100*p)
		}
		plugIn(t, r)
		works(t, usual)
	})
	t.Run("address", func(t *testing.T) {
		inH(t, r, "ip address flush dev eth0 scope global",
			"ip address add 203.0.113.7/24 dev eth0", "ip address add fd01::7/64 dev eth0 nodad",
			"ip route replace default via 203.0.113.254", "ip -6 route replace default via fd01::fe")
		works(t, map[string]string{"IPv4": "203.0.113.7", "IPv6": "fd01::7"})
	})
	t.Run("route", func(t *testing.T) {
		inH(t, r, "ip route replace default via 203.0.113.254 src 203.0.113.3", "ip -6 route replace default via fd01::fe src fd01::3")
		works(t, map[string]string{"IPv4": rig.H24.String(), "IPv6": rig.H26.String()})
	})
	works(t, usual)
	wantAlive(t, r, sb, datapath)
}

// FT-17: a sandbox starts on a host that has no way out, or half of one; what is inside works, and so does a route
// that comes later, without a restart.
func TestFT17(t *testing.T) {
	r := rig.Start(t)
	echo4, echo6 := serveEcho(t, r.X1, rig.X1v4), serveEcho(t, r.X1, rig.X1v6)
	for _, tt := range []struct {
		name     string
		commands []string
		out      map[netip.AddrPort]bool // what works outside
	}{
		{"only lo", []string{"ip link set eth0 down"}, map[netip.AddrPort]bool{echo4: false, echo6: false}},
		{"no default route", []string{"ip route del default", "ip -6 route del default"}, map[netip.AddrPort]bool{echo4: false, echo6: false}},
		// It keeps its link-local address, as such a host has one; and who comes next on this host wants it back.
		{"only IPv4", []string{"ip -6 address flush dev eth0 scope global", "ip -6 route del default", "ip -6 route del fd01::fe dev eth0"}, map[netip.AddrPort]bool{echo4: true, echo6: false}},
		{"only IPv6", []string{"ip -4 address flush dev eth0"}, map[netip.AddrPort]bool{echo4: false, echo6: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inH(t, r, tt.commands...)
			port, spec := publish(80, "tcp")
			sb := r.Run(t, "--add-host", "local:192.0.2.1", "--publish", spec)
			datapath := sb.Datapath(t)
			accept(t, sb.ListenTCP(t, at(rig.SandboxAddr4, 80)), func(c *net.TCPConn) { _, _ = io.WriteString(c, "inside") })
			if got := resolve(t, sb, "local"); got != "192.0.2.1" {
				t.Errorf("local name: %s", got)
			}
			sb.Run(t, "ping", "-c1", "-W2", rig.Gateway4.String())
			sb.Run(t, "ping", "-c1", "-W2", rig.Gateway6.String())
			c := r.H.DialTCP(t, at(netip.MustParseAddr("127.0.0.1"), port))
			if b, err := io.ReadAll(c); err != nil || string(b) != "inside" {
				t.Errorf("published port: %q, %v", b, err)
			}
			for to, works := range tt.out {
				c, err := sb.Dial(rig.Within(t, 5*time.Second), "tcp", to)
				if works != (err == nil) || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("connection to %v: %v", to, err)
				}
				if err == nil {
					c.Close()
				}
			}
			plugIn(t, r)
			for to := range tt.out {
				rig.WaitFor(t, 2*time.Second, "connection by the new route", func() bool {
					c, err := sb.Dial(rig.Within(t, time.Second), "tcp", to)
					if err == nil {
						c.Close()
					}
					return err == nil
				})
			}
			wantAlive(t, r, sb, datapath)
			sb.End(t)
		})
	}
}
