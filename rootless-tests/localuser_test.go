package rootlesstests

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// LU-02: a sandbox listens nowhere until a port is published, and then there only. UDP flows to the outside have
// sockets that are bound; a sandbox that has sent nothing has none. LU-03, first half: no abstract sockets.
func TestLU02(t *testing.T) {
	r := rig.Start(t)
	before := listeners(t, r)
	sb := r.Run(t)
	sb.Datapath(t)
	if after := listeners(t, r); !slices.Equal(before, after) {
		t.Errorf("listeners before %v, with a sandbox %v", before, after)
	}
	for line := range strings.Lines(r.H.Run(t, "ss", "-Hxlp")) {
		if strings.Contains(line, "@") {
			t.Errorf("abstract socket: %s", line)
		}
	}
	tcp, udp := nextPort(), nextPort()
	r.Run(t, "--publish", fmt.Sprintf("%d:80", tcp), "--publish", fmt.Sprintf("127.0.0.1:%d:80/udp", udp))
	var added []string
	for _, l := range listeners(t, r) {
		if !slices.Contains(before, l) {
			added = append(added, l.proto+" "+l.at.String())
		}
	}
	want := []string{fmt.Sprintf("tcp 0.0.0.0:%d", tcp), fmt.Sprintf("tcp [::]:%d", tcp), fmt.Sprintf("udp 127.0.0.1:%d", udp)}
	if !slices.Equal(added, want) {
		t.Errorf("with two published ports there are also %v, want %v", added, want)
	}
}

// LU-08: a port that another user holds is an error before CMD starts, and leaves none of the other ports bound.
func TestLU08(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	for _, proto := range []string{"tcp", "udp"} {
		t.Run(proto, func(t *testing.T) {
			busy, free := nextPort(), nextPort()
			// A socket that a node makes is root's.
			if proto == "tcp" {
				r.H.ListenTCP(t, at(netip.IPv4Unspecified(), busy))
			} else {
				r.H.ListenUDP(t, at(netip.IPv4Unspecified(), busy))
			}
			p := r.Usernet(t, nil, "run", "-p", fmt.Sprintf("%d:80/%s", free, proto), "-p", fmt.Sprintf("%d:80/%s", busy, proto),
				"--", "echo", "CMD ran")
			if code := p.Exit(t); code != 125 {
				t.Errorf("exit code %d, want 125", code)
			}
			if p.Stdout.String() != "" {
				t.Errorf("CMD ran although a port was taken: %q", p.Stdout)
			}
			for _, s := range []string{fmt.Sprint(busy), "address already in use"} {
				if !strings.Contains(p.Stderr.String(), s) {
					t.Errorf("message does not say %q: %s", s, p.Stderr)
				}
			}
			if l := listenersOn(t, free); len(l) > 0 {
				t.Errorf("the other port is still bound: %v", l)
			}
		})
	}
}

// LU-08: of several sandboxes that want one port one gets it, and nobody, not even the same user with
// SO_REUSEPORT, can bind it beside.
func TestLU08Race(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	port := nextPort()
	const n = 6
	runs := make([]*rig.Process, n)
	for i := range runs {
		runs[i] = r.Usernet(t, nil, "run", "-p", fmt.Sprintf("%d:80", port), "--", "sh", "-c", "echo ready; exec sleep 1000")
	}
	var winner *rig.Process
	for _, p := range runs {
		rig.WaitFor(t, rig.Patience, "start or refusal", func() bool {
			select {
			case <-p.Done():
				return true
			default:
				return strings.Contains(p.Stdout.String(), "ready")
			}
		})
		select {
		case <-p.Done():
			if code := p.Exit(t); code != 125 || !strings.Contains(p.Stderr.String(), "address already in use") {
				t.Errorf("a loser ends with %d and says %s", code, p.Stderr)
			}
		default:
			if winner != nil {
				t.Error("two sandboxes have the same port")
			}
			winner = p
		}
	}
	if winner == nil {
		t.Fatal("no sandbox has the port")
	}
	if l := listenersOn(t, port); !slices.Equal(l, []string{"tcp 0.0.0.0", "tcp ::"}) {
		t.Errorf("listeners: %v", l)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		err := c.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return errors.Join(err, serr)
	}}
	if l, err := lc.Listen(t.Context(), "tcp4", fmt.Sprintf("0.0.0.0:%d", port)); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("bind of the published port with SO_REUSEPORT: %v", err)
		if err == nil {
			l.Close()
		}
	}
}

// LU-09: what is bound is what was asked for.
func TestLU09(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	for _, tt := range []struct {
		publish string // %d is the host port
		want    []string
	}{
		{"%d:80", []string{"tcp 0.0.0.0", "tcp ::"}},
		{"0.0.0.0:%d:80", []string{"tcp 0.0.0.0"}},
		{"[::]:%d:80", []string{"tcp ::"}},
		{"127.0.0.1:%d:80", []string{"tcp 127.0.0.1"}},
		{"[::1]:%d:80", []string{"tcp ::1"}},
		{"203.0.113.3:%d:80/udp", []string{"udp 203.0.113.3"}},
		{"%d:80/udp", []string{"udp 0.0.0.0", "udp ::"}},
		{"published=%d,target=80,protocol=tcp,mode=host", []string{"tcp 0.0.0.0", "tcp ::"}},
	} {
		t.Run(tt.publish, func(t *testing.T) {
			t.Parallel()
			port := nextPort()
			sb := r.Run(t, "--publish", fmt.Sprintf(tt.publish, port))
			if got := listenersOn(t, port); !slices.Equal(got, tt.want) {
				t.Errorf("bound %v, want %v", got, tt.want)
			}
			sb.End(t)
			if got := listenersOn(t, port); len(got) > 0 {
				t.Errorf("bound after the end: %v", got)
			}
		})
	}
}

// LU-11: publishing a port does not open a service on the sandbox's own loopback.
func TestLU11(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	port, spec := publish(8000, "tcp")
	sb := r.Run(t, "--publish", spec)
	for _, a := range []string{"127.0.0.1", "::1"} {
		accept(t, sb.ListenTCP(t, at(netip.MustParseAddr(a), 8000)), func(c *net.TCPConn) { _, _ = c.Write([]byte("secret")) })
	}
	for _, to := range []netip.Addr{rig.H4, rig.H6, netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
		from := r.H
		if !to.IsLoopback() {
			from = r.X1
		}
		c, err := from.Dial(rig.Within(t, rig.Patience), "tcp", at(to, port))
		if err != nil {
			if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("connection to %v: %v", to, err)
			}
			continue
		}
		if err := c.SetDeadline(time.Now().Add(rig.Patience)); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); len(b) > 0 || err == nil {
			t.Errorf("connection to %v: got %q, %v; want it refused", to, b, err)
		}
		c.Close()
	}
}

// LU-12: a remote client is seen as itself, and a local one as the gateway, itself or (TestSplice) the sandbox; never as
// loopback.
func TestLU12(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	bothFamilies(t, func(t *testing.T, f family) {
		port, spec := publish(80, "tcp")
		uport, uspec := publish(80, "udp")
		sb := r.Run(t, "--publish", spec, "--publish", uspec)
		accept(t, sb.ListenTCP(t, at(f.any, 80)), func(c *net.TCPConn) {
			_, _ = fmt.Fprint(c, addrOf(t, c.RemoteAddr())) // the client sees what goes wrong
		})
		listenUDP(t, sb.Node, at(f.own, 80), func(d datagram) []byte { return []byte(d.from.String()) })
		for _, tt := range []struct {
			from *rig.Node
			to   netip.Addr
			want []netip.Addr
		}{
			{r.X1, f.host, []netip.Addr{f.x1}},
			{r.X2, f.host2, []netip.Addr{f.x2}},
			{r.H, f.host, []netip.Addr{f.host, f.gateway}},
			{r.H, f.loopback, []netip.Addr{f.gateway, f.own}},
		} {
			c := tt.from.DialTCP(t, at(tt.to, port))
			b, err := io.ReadAll(c)
			if err != nil {
				t.Errorf("%s to %v: %v", tt.from.Name, tt.to, err)
			}
			u := exchange(t, tt.from.DialUDP(t, at(tt.to, uport)), []byte("who am I?"))
			for proto, seen := range map[string]string{"tcp": string(b), "udp": string(u)} {
				ap, err := netip.ParseAddrPort(seen)
				if err != nil || !slices.Contains(tt.want, ap.Addr()) {
					t.Errorf("%s, %s to %v: seen as %q, want one of %v", proto, tt.from.Name, tt.to, seen, tt.want)
				}
			}
		}
	})
}

// LU-17: every thread of the datapath is without capabilities, cannot get any, and has a filter; its root is empty,
// and it shares with the host the network and nothing else.
func TestLU17(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t, "--publish", ":80")
	datapath := sb.Datapath(t)
	none := strings.Repeat("0", 16)
	want := map[string]string{"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none, "NoNewPrivs": "1", "Seccomp": "2"}
	threads := strings.Fields(r.H.Run(t, "ls", fmt.Sprintf("/proc/%d/task", datapath)))
	for _, tid := range threads {
		status := r.H.ReadFile(t, fmt.Sprintf("/proc/%d/task/%s/status", datapath, tid))
		for k, v := range want {
			if !strings.Contains(status, k+":\t"+v+"\n") {
				t.Errorf("thread %s: %s is not %s", tid, k, v)
			}
		}
	}
	if len(threads) == 0 {
		t.Error("no threads")
	}
	if root := r.H.Run(t, "ls", "-A", fmt.Sprintf("/proc/%d/root", datapath)); root != "" {
		t.Errorf("its root has %q", root)
	}
	for _, ns := range []string{"user", "mnt", "ipc", "uts", "pid", "net"} {
		own := r.H.Run(t, "readlink", fmt.Sprintf("/proc/%d/ns/%s", datapath, ns))
		shared := own == r.H.Run(t, "readlink", fmt.Sprintf("/proc/%d/ns/%s", sb.PID(), ns))
		if shared != (ns == "net") {
			t.Errorf("shares the host's %s namespace: %v", ns, shared)
		}
	}
	for _, file := range strings.Fields(r.H.Run(t, "sh", "-c", fmt.Sprintf("readlink /proc/%d/fd/*", datapath))) {
		if !strings.HasPrefix(file, "socket:") && !strings.HasPrefix(file, "pipe:") && !strings.HasPrefix(file, "anon_inode:") &&
			file != "/dev/null" && file != "/dev/net/tun" {
			t.Errorf("it has %s open", file)
		}
	}
}
