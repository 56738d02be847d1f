package rootlesstests

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// The daemon dies and comes back; sandboxes live on.

// killBoth ends a daemon with -9, and its datapath, which would wait for the next one.
func killBoth(t *testing.T, d *rig.Daemon) {
	t.Helper()
	datapath := d.Datapath(t)
	d.Kill(t)
	if err := syscall.Kill(datapath, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// waitPing waits until a node reaches another by ping.
func waitPing(t *testing.T, from *rig.Node, to string, limit time.Duration) {
	t.Helper()
	rig.WaitFor(t, limit, from.Name+" reaches "+to, func() bool { return ping(t, from, to) })
}

// FT-02, FT-03, FT-04: the daemon and its datapath are killed with containers running. They keep interfaces, addresses
// and names, old TCP flows are reset, published ports are back.
func TestDaemonKilled(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	d.Must(t, "usernet", "network", "create", "n")
	port, spec := publish(7, "tcp")
	a, b := d.Run(t, "--name", "a", "--network", "n"), d.Run(t, "--name", "b", "--network", "n", "-p", spec)
	accept(t, b.ListenTCP(t, at(netip.IPv4Unspecified(), 7)), func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	before := a.Node.Run(t, "ip", "-o", "addr", "show", "eth0")
	flow := a.DialTCP(t, serveEcho(t, r.X1, rig.X1v4))
	wantEchoed(t, flow, "before")
	// Connections that have ended leave the port in TIME_WAIT.
	for range 3 {
		c := r.X1.DialTCP(t, at(rig.H4, port))
		wantEchoed(t, c, "through the port")
		c.Close()
	}

	killBoth(t, d)
	d.Start(t)
	waitPing(t, a.Node, "b", 5*time.Second)
	if after := a.Node.Run(t, "ip", "-o", "addr", "show", "eth0"); after != before {
		t.Errorf("eth0 was\n%sis\n%s", before, after)
	}
	rig.WaitFor(t, 5*time.Second, "the published port is back", func() bool {
		c, err := r.X1.Dial(t.Context(), "tcp", at(rig.H4, port))
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
	if _, err := flow.Write([]byte("x")); err == nil {
		_, err = flow.Read(make([]byte, 1))
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the old flow: %v, want a reset", err)
		}
	}
	c := a.DialTCP(t, serveEcho(t, r.X1, rig.X1v4))
	wantEchoed(t, c, "after")
	c.Close()
	if got := d.Must(t, "usernet", "ps", "-q"); len(strings.Fields(got)) != 2 {
		t.Errorf("ps after the restart: %q", got)
	}
	// Nobody gets an address that is in use.
	e := d.Run(t, "--name", "e", "--network", "n")
	if x := addrIn(t, d, "e", "n"); x == addrIn(t, d, "a", "n") || x == addrIn(t, d, "b", "n") {
		t.Errorf("the address %v is given twice", x)
	}
	waitPing(t, e.Node, "a", time.Second)
}

// FT-21: the daemon is killed, twice, and nobody in a sandbox notices: no echo request is lost, every query is answered,
// a TCP flow and a published port go on. Somebody who dies meanwhile leaves nothing behind.
func TestFT21(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	d.Must(t, "usernet", "network", "create", "n")
	port, spec := publish(7, "tcp")
	a, b := d.Run(t, "--name", "a", "--network", "n"), d.Run(t, "--name", "b", "--network", "n", "-p", spec)
	accept(t, b.ListenTCP(t, at(netip.IPv4Unspecified(), 7)), func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	out, in := a.DialTCP(t, serveEcho(t, r.X1, rig.X1v4)), r.X1.DialTCP(t, at(rig.H4, port))
	datapath := d.Datapath(t)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for _, to := range []string{"b", rig.X1v4.String()} {
		wg.Go(func() {
			text, code, err := a.Node.Exec(ctx, "", "ping", "-n", "-i", "0.05", "-c", "240", "-W", "2", to)
			if err != nil || code != 0 || !strings.Contains(text, " 0% packet loss") {
				t.Errorf("ping %s: code %d, %v\n%s", to, code, err, text[max(0, len(text)-300):])
			}
		})
	}
	pings := make(chan struct{})
	go func() { wg.Wait(); close(pings) }()
	var dns sync.WaitGroup
	dns.Go(func() { askUntil(t, a.Node, "b", pings) })

	for i := range 2 {
		c := d.Run(t, "--name", "c"+strconv.Itoa(i), "--network", "n")
		was := addrIn(t, d, "c"+strconv.Itoa(i), "n")
		pid := d.Running()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := c.Cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		c.Exit(t)
		wantEchoed(t, out, "nobody is in control")
		rig.WaitFor(t, 10*time.Second, "another daemon", func() bool {
			p := d.Running()
			return p != 0 && p != pid
		})
		wantEchoed(t, in, "there is a daemon")
		rig.WaitFor(t, 5*time.Second, "both sandboxes are back", func() bool {
			return d.Try(t, "usernet", "network", "inspect", "-f", "{{len .Containers}}", "n").Stdout == "2\n"
		})
		e := d.Run(t, "--name", "e"+strconv.Itoa(i), "--network", "n", "--ip", was.String())
		waitPing(t, e.Node, "b", time.Second)
		e.End(t)
	}
	select {
	case <-pings:
		t.Error("the pings ended before the last daemon was there")
	default:
	}
	<-pings
	dns.Wait()
	wantEchoed(t, out, "two daemons later")
	wantEchoed(t, in, "two daemons later")
	if !alive(datapath) {
		t.Error("the datapath was replaced")
	}
	// What was adopted is supervised as before.
	if err := syscall.Kill(datapath, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	rig.WaitFor(t, rig.Patience, "end of the datapath", func() bool { return !alive(datapath) })
	waitPing(t, a.Node, "b", 5*time.Second)
}

// A sandbox whose shim had started the daemon ends after that daemon died: the datapath, by then the shim's child, goes on
// for the others.
func TestDatapathOutlivesShim(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	d.Must(t, "usernet", "network", "create", "n")
	var all []*rig.Sandbox
	for _, name := range []string{"a", "b", "c"} {
		all = append(all, d.Run(t, "--name", name, "--network", "n"))
	}
	c := all[2]
	next := func(old int) (pid int) {
		rig.WaitFor(t, 10*time.Second, "a daemon that a shim started", func() bool {
			pid = d.Running()
			return pid != 0 && pid != old
		})
		rig.WaitFor(t, 10*time.Second, "all sandboxes are back", func() bool {
			return d.Try(t, "usernet", "network", "inspect", "-f", "{{len .Containers}}", "n").Stdout == "3\n"
		})
		return pid
	}
	first := d.PID()
	killBoth(t, d)
	second := next(first)
	waitPing(t, c.Node, "a", 5*time.Second)
	flow := c.DialTCP(t, serveEcho(t, r.X1, rig.X1v4))
	wantEchoed(t, flow, "before")
	if err := syscall.Kill(second, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	next(second)
	for _, sb := range all[:2] {
		sb.End(t)
	}
	wantEchoed(t, flow, "after")
}

// askUntil asks the resolver of a sandbox for a name, 20 times a second, until done is closed; each query is to be answered.
func askUntil(t *testing.T, n *rig.Node, name string, done <-chan struct{}) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		a, err := ask(ctx, n, "udp", netip.MustParseAddrPort("127.0.0.11:53"), question(name))
		cancel()
		if err != nil || len(a.Answer) == 0 {
			t.Errorf("query for %s: %v, %v", name, a, err)
			return
		}
	}
}

// FT-21: a sandbox's names, addresses and ports are there again when nobody starts the daemon but the sandboxes.
func TestDaemonComesBack(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.NewDaemon(t)
	d.Must(t, "usernet", "network", "create", "n")
	a, _ := d.Run(t, "--name", "a", "--network", "n"), d.Run(t, "--name", "b", "--network", "n")
	pid := d.Running()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	rig.WaitFor(t, 10*time.Second, "another daemon", func() bool {
		p := d.Running()
		return p != 0 && p != pid
	})
	waitPing(t, a.Node, "b", 5*time.Second)
	if got := d.Must(t, "usernet", "network", "inspect", "-f", "{{len .Containers}}", "n"); got != "2" {
		t.Errorf("sandboxes in the network: %s", got)
	}
	// The second daemon is a child of the shim that started it, which is a subreaper: it leaves no zombie.
	pid = d.Running()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	rig.WaitFor(t, 10*time.Second, "end of the second daemon", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
	waitPing(t, a.Node, "b", 10*time.Second)
}

// FT-12: after a reboot there is the state and no sandbox; nothing stale remains.
func TestReboot(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	id := d.Must(t, "usernet", "network", "create", "n")
	a := d.Run(t, "--name", "a", "--network", "n")
	was := addrIn(t, d, "a", "n")
	d.Kill(t)
	if err := a.Cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	a.Exit(t)
	if err := os.RemoveAll(filepath.Join(d.Runtime, "usernet")); err != nil {
		t.Fatal(err)
	}
	d.Start(t)
	if got := d.Must(t, "usernet", "network", "inspect", "-f", "{{.Id}} {{len .Containers}}", "n"); got != id+" 0" {
		t.Errorf("the network is %q, want %s without containers", got, id)
	}
	d.Run(t, "--name", "a", "--network", "n")
	if now := addrIn(t, d, "a", "n"); now != was {
		t.Errorf("the address is %v, and %v was not freed", now, was)
	}
}

// A sandbox that is killed frees its address, names and ports within 5 s (FT-11, DN-18).
func TestSandboxKilled(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	d.Must(t, "usernet", "network", "create", "n")
	port, spec := publish(80, "tcp")
	a := d.Run(t, "--name", "a", "--network", "n")
	b := d.Run(t, "--name", "b", "--network", "n", "-p", spec)
	was := addrIn(t, d, "b", "n")
	if err := b.Cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	b.Exit(t)
	rig.WaitFor(t, time.Second, "the end of the name", func() bool { return !ping(t, a.Node, "b") })
	rig.WaitFor(t, 5*time.Second, "the end of the listener", func() bool { return len(listenersOn(t, port)) == 0 })
	d.Run(t, "--name", "b", "--network", "n", "-p", spec)
	if now := addrIn(t, d, "b", "n"); now != was {
		t.Errorf("the address is %v, and %v was not freed", now, was)
	}
}

// LU-05: a second daemon ends at once and says why; a socket that a dead one left is replaced.
func TestSecondDaemon(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	second := d.Usernet(t, "daemon")
	if code := second.Exit(t); code == 0 || !strings.Contains(second.Stderr.String(), "already") {
		t.Errorf("the second daemon: code %d, %s", code, second.Stderr)
	}
	d.Kill(t) // leaves its sockets
	d.Start(t)
	d.Must(t, "usernet", "network", "ls")
}

// The datapath is killed: another one within a second, for all networks at once (FT-20).
func TestDatapathOfDaemonKilled(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	d := r.Daemon(t)
	for _, n := range []string{"n1", "n2"} {
		d.Must(t, "usernet", "network", "create", n)
	}
	a, _ := d.Run(t, "--name", "a", "--network", "n1"), d.Run(t, "--name", "b", "--network", "n1")
	c, _ := d.Run(t, "--name", "c", "--network", "n2"), d.Run(t, "--name", "e", "--network", "n2")
	waitPing(t, a.Node, "b", time.Second)
	waitPing(t, c.Node, "e", time.Second)
	old := d.Datapath(t)
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	newDatapath(t, d.Process, old, 2*time.Second)
	waitPing(t, a.Node, "b", 5*time.Second)
	waitPing(t, c.Node, "e", 5*time.Second)
}
