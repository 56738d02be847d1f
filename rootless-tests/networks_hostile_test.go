package rootlesstests

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/rootless-tests/rig"
	"github.com/usernet/usernet/stack/l2"
)

// A hostile container among others of its network, and what a network's containers see of the daemon.

// neighbours are the MAC addresses that a node knows, by IP address.
func neighbours(t testing.TB, n *rig.Node) map[netip.Addr]l2.MAC {
	t.Helper()
	m := map[netip.Addr]l2.MAC{}
	for line := range strings.Lines(n.Run(t, "ip", "neigh", "show", "dev", rig.DevEth0)) {
		f := strings.Fields(line)
		for i, w := range f {
			if w != "lladdr" {
				continue
			}
			mac, err := l2.ParseMAC(f[i+1])
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			m[netip.MustParseAddr(f[0])] = mac
		}
	}
	return m
}

// addr6In is the IPv6 address of a sandbox in a Network, as inspect tells.
func addr6In(t testing.TB, d *rig.Daemon, sandbox, network string) netip.Addr {
	t.Helper()
	a, err := netip.ParseAddr(d.Must(t, "usernet", "inspect", "-f", fmt.Sprintf("{{(index .NetworkSettings.Networks %q).GlobalIPv6Address}}", network), sandbox))
	if err != nil {
		t.Fatalf("IPv6 address of %s in %s: %v", sandbox, network, err)
	}
	return a
}

// gatewayOf is where a node's default route leads.
func gatewayOf(t testing.TB, n *rig.Node, version string) netip.Addr {
	t.Helper()
	f := strings.Fields(n.Run(t, "ip", version, "route", "show", "default"))
	if len(f) < 3 {
		t.Fatalf("no default route: %v", f)
	}
	return netip.MustParseAddr(f[2])
}

// HC-03, HC-04, HC-05, HC-08, HC-09, HC-10: one container lies to another of its network in every way there is
// on the link. The other knows the same neighbours, routes and addresses as before, and gets what is meant for it.
func TestHostileNeighbour(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	d.Must(t, "usernet", "network", "create", "--ipv6", "n")
	bad, victim := d.Run(t, "--name", "bad", "--network", "n"), d.Run(t, "--name", "victim", "--network", "n")
	d.Run(t, "--name", "friend", "--network", "n")
	gw4, gw6 := gatewayOf(t, victim.Node, "-4"), gatewayOf(t, victim.Node, "-6")
	friend4, friend6 := addrIn(t, d, "friend", "n"), addr6In(t, d, "friend", "n")
	victim4, victim6 := addrIn(t, d, "victim", "n"), addr6In(t, d, "victim", "n")
	friends := []netip.Addr{gw4, gw6, friend4, friend6}
	reach := func() {
		for _, a := range friends {
			if !ping(t, victim.Node, a.String()) {
				t.Errorf("victim does not reach %v", a)
			}
		}
	}
	reach()
	known := neighbours(t, victim.Node)
	const state = "ip -o route; ip -o -6 route; ip -br addr show eth0"
	before := victim.Node.Run(t, "sh", "-c", state)

	link := bad.OpenPacket(t, rig.DevEth0)
	own := victim.OpenPacket(t, rig.DevEth0).MAC
	diverted := bad.Capture(t, rig.DevEth0, func(d packettest.Decoded) bool {
		// What bad sends is seen here, too.
		return (d.Src.Addr() == victim4 || d.Src.Addr() == victim6) && !d.Dst.Addr().IsMulticast() && string(d.Payload) != "stolen"
	})
	reached := victim.Capture(t, rig.DevEth0, func(d packettest.Decoded) bool {
		return string(d.Payload) == "stolen" || d.Src.Port() == 67 || d.Proto == packettest.ProtoICMP && d.Kind == 5 ||
			d.Proto == packettest.ProtoICMPv6 && (d.Kind == 134 || d.Kind == 137)
	})
	for range 3 {
		for _, f := range lies(link.MAC, own, known, gw4, gw6, friend4, friend6, victim4, victim6) {
			link.MustSend(t, packettest.Bytes(f))
		}
		reach()
	}
	// Behind all of it on the same way.
	if !ping(t, bad.Node, victim4.String()) || !ping(t, bad.Node, victim6.String()) {
		t.Error("bad does not reach victim as itself")
	}
	for a, mac := range neighbours(t, victim.Node) {
		if old := known[a]; slices.Contains(friends, a) && old != mac {
			t.Errorf("victim takes %v for %v, which is %v", mac, a, old)
		}
	}
	if after := victim.Node.Run(t, "sh", "-c", state); after != before {
		t.Errorf("victim had\n%s\nhas\n%s", before, after)
	}
	bad4, bad6 := addrIn(t, d, "bad", "n"), addr6In(t, d, "bad", "n")
	for _, p := range diverted.Seen() {
		if to := p.Dst.Addr(); to != bad4 && to != bad6 && to != packettest.LinkLocal(link.MAC) {
			t.Errorf("bad got a packet of victim's: %v", p)
		}
	}
	for _, p := range reached.Seen() {
		t.Errorf("victim got %v", p)
	}
}

// lies are frames of a station with one MAC that claim what is another's.
func lies(bad, victim l2.MAC, known map[netip.Addr]l2.MAC, gw4, gw6, friend4, friend6, victim4, victim6 netip.Addr) (all []l2.Frame) {
	stolen := []byte("stolen")
	for _, a := range []netip.Addr{gw4, friend4} {
		all = append(all,
			packettest.ARP(packettest.ARPReply, bad, a, victim, victim4),
			packettest.ARP(packettest.ARPReply, bad, a, l2.MAC{}, a),
			packettest.ARP(packettest.ARPRequest, bad, a, l2.MAC{}, victim4),
			packettest.ARP(packettest.ARPRequest, known[a], a, l2.MAC{}, victim4),
			packettest.Frame(known[a], victim, packettest.UDP(at(a, 9), at(victim4, 9), stolen)),
			packettest.Frame(bad, victim, packettest.UDP(at(a, 9), at(victim4, 9), stolen)),
			packettest.Frame(bad, victim, packettest.ICMP(a, victim4, 5, 1, binary.BigEndian.Uint32(friend4.AsSlice()), packettest.Echo(victim4, rig.X1v4, 1, 1, nil))),
			packettest.Frame(bad, l2.Broadcast, packettest.UDP(at(a, 67), at(netip.AddrFrom4([4]byte{255, 255, 255, 255}), 68), make([]byte, 300))),
			packettest.Frame(bad, victim, packettest.UDP(at(a, 67), at(victim4, 68), make([]byte, 300))))
	}
	for _, a := range []netip.Addr{gw6, friend6} {
		all = append(all,
			packettest.NA(bad, a),
			packettest.NA(known[a], a),
			packettest.NS(bad, a, victim6),
			packettest.RA(bad, packettest.LinkLocal(bad), netip.MustParsePrefix("fd99::/64")),
			packettest.RA(known[a], a, netip.MustParsePrefix("fd99::/64")),
			packettest.Redirect6(bad, victim, a, victim6, packettest.LinkLocal(bad), rig.X1v6),
			packettest.Frame(bad, victim, packettest.UDP(at(a, 9), at(victim6, 9), stolen)))
	}
	// The MAC of the victim itself.
	all = append(all, packettest.ARP(packettest.ARPRequest, victim, victim4, l2.MAC{}, gw4),
		packettest.Frame(victim, known[gw4], packettest.Echo(victim4, gw4, 9, 9, stolen)))
	for i := range 1000 { // HC-10: a pool of leases, if there were one
		all = append(all, packettest.DHCPDiscover(l2.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}, uint32(i)))
	}
	return all
}

// HC-18: the gateway of a named network answers to DNS and nothing else, and the API is nowhere but in its socket.
func TestHC18Networks(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	d.Must(t, "usernet", "network", "create", "n")
	sb := d.Run(t, "--name", "a", "--network", "n")
	gw, own := gatewayOf(t, sb.Node, "-4"), addrIn(t, d, "a", "n")
	ping(t, sb.Node, gw.String())
	link, mac := sb.OpenPacket(t, rig.DevEth0), neighbours(t, sb.Node)[gw]
	for a, last := range map[netip.Addr]int{gw: 1<<16 - 1, netip.MustParseAddr("127.0.0.11"): 1024} {
		open := sb.Capture(t, rig.DevEth0, func(d packettest.Decoded) bool {
			const synAck = packettest.SYN | packettest.ACK
			return d.Proto == packettest.ProtoTCP && d.Src.Addr() == a && d.Flags&synAck == synAck
		})
		for port := 1; port <= last; port++ {
			link.SendPacket(t, mac, packettest.TCP(at(own, uint16(30000+port%20000)), at(a, uint16(port)), packettest.SYN, 1, 0, nil))
			if port%300 == 0 {
				paceIn(t, link, mac, own, gw)
			}
		}
		rig.WaitFor(t, rig.Patience, "DNS over TCP", func() bool { return len(open.Seen()) > 0 })
		paceIn(t, link, mac, own, gw)
		for _, p := range open.Seen() {
			if p.Src.Port() != 53 {
				t.Errorf("port %v is open", p.Src)
			}
		}
	}
	for _, pid := range []int{d.PID(), d.Datapath(t)} {
		for line := range strings.Lines(r.H.Run(t, "ss", "-Hltunp")) {
			if strings.Contains(line, fmt.Sprintf("pid=%d,", pid)) {
				t.Errorf("process %d of the daemon listens: %s", pid, line)
			}
		}
	}
}

// LU-10: the same port of two loopback addresses is two containers', and loopback addresses are the host's own:
// a packet from outside that names one gets no answer.
func TestLU10(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	d.Must(t, "usernet", "network", "create", "n")
	port := nextPort()
	hosts := map[string]netip.Addr{"a": netip.MustParseAddr("127.0.0.1"), "b": netip.MustParseAddr("127.0.0.2")}
	for name, host := range hosts {
		sb := d.Run(t, "--name", name, "--network", "n", "-p", fmt.Sprintf("%v:%d:80", host, port))
		accept(t, sb.ListenTCP(t, at(netip.IPv4Unspecified(), 80)), func(c *net.TCPConn) { _, _ = io.WriteString(c, name) })
	}
	for name, host := range hosts {
		if b, err := io.ReadAll(r.H.DialTCP(t, at(host, port))); err != nil || string(b) != name {
			t.Errorf("%v leads to %q, %v; want %s", host, b, err, name)
		}
	}
	unreachable(t, r.X1, at(rig.H4, port))
	// The frame comes from the last router, which would not send it: the worst that a neighbour could do.
	answers := r.H.Capture(t, rig.DevEth0, func(d packettest.Decoded) bool {
		return d.Src.Port() == port || d.Dst.Port() == port && d.Src.Port() == 4
	})
	link, host := r.R.OpenPacket(t, rig.DevToH), r.H.OpenPacket(t, rig.DevEth0).MAC
	for _, to := range hosts {
		link.SendPacket(t, host, packettest.TCP(at(rig.X1v4, 3), at(to, port), packettest.SYN, 1, 0, nil))
	}
	link.SendPacket(t, host, packettest.UDP(at(rig.X1v4, 4), at(rig.H4, port), nil))
	rig.WaitFor(t, rig.Patience, "what was sent last", func() bool {
		for _, p := range answers.Seen() {
			if p.Src.Port() == 4 {
				return true
			}
		}
		return false
	})
	for _, p := range answers.Seen() {
		if p.Src.Port() == port {
			t.Errorf("an answer to a forged packet: %v", p)
		}
	}
}

// LU-01: nobody but its user gets to the daemon: not into its directory, and were that open, not past its sockets.
func TestLU01(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	// Another user, in the tests' mount namespace.
	as := func(argv ...string) (string, int) {
		t.Helper()
		out, code, err := r.H.Exec(rig.Within(t, rig.Patience), "", append([]string{"nsenter", "-t", fmt.Sprint(os.Getpid()), "-m",
			"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}, argv...)...)
		if err != nil {
			t.Fatal(err)
		}
		return out, code
	}
	dir := d.Runtime + "/usernet"
	join := dir + "/join.sock"
	for path, want := range map[string]os.FileMode{dir: 0o700, d.Socket(): 0o600, join: 0o600} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != want {
			t.Errorf("mode of %s: %v, %v; want %v", path, fi.Mode(), err, want)
		}
	}
	curl := []string{"curl", "-sS", "-w", "%{http_code}", "--unix-socket", d.Socket(), "http://usernet/_ping"}
	connect := []string{"socat", "-t", "5", "-,ignoreeof", "UNIX-CONNECT:" + join + ",type=5"}
	for range 2 {
		if out, code := as(curl...); code == 0 {
			t.Errorf("another user gets an answer of the API: %s", out)
		}
		if out, code := as(connect...); code == 0 {
			t.Errorf("another user connects to %s: %s", join, out)
		}
		// The directories are open: the sockets' own modes hold.
		for _, p := range []string{d.Runtime, d.Runtime + "/..", dir} {
			if err := os.Chmod(p, 0o711); err != nil {
				t.Fatal(err)
			}
		}
	}
	// The sockets are open: the daemon asks who it is.
	for _, p := range []string{d.Socket(), join} {
		if err := os.Chmod(p, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if out, _ := as(curl...); !strings.HasSuffix(out, "403") {
		t.Errorf("another user past the modes gets %q, want 403", out)
	}
	start := time.Now()
	if out, code := as(connect...); code != 0 || out != "" || time.Since(start) > 10*time.Second {
		t.Errorf("another user at %s: %q, code %d after %v; want it closed", join, out, code, time.Since(start))
	}
	d.Must(t, "usernet", "network", "ls")
}
