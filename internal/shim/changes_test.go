package shim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/tap"
)

// asker asks the fakeNetwork of a process for changes.
type asker struct {
	t    *testing.T
	ours *os.File
	in   *bufio.Scanner
}

// open returns the process's end.
func (a *asker) open(t *testing.T, fd int) *os.File {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	a.t, a.ours = t, os.NewFile(uintptr(fds[0]), "changes")
	a.in = bufio.NewScanner(a.ours)
	t.Cleanup(func() { a.ours.Close() })
	return os.NewFile(uintptr(fds[1]), "changes "+strconv.Itoa(fd))
}

// change asks for a change and returns the error of it, or "ok".
func (a *asker) change(c Change) string {
	a.t.Helper()
	b, err := json.Marshal(changeLine{Change: c})
	if err != nil {
		a.t.Fatal(err)
	}
	_ = a.ours.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := a.ours.Write(append(b, '\n')); err != nil {
		a.t.Fatal(err)
	}
	if !a.in.Scan() {
		a.t.Fatalf("no reply to the change: %v", a.in.Err())
	}
	s, err := strconv.Unquote(a.in.Text())
	if err != nil {
		a.t.Fatal(err)
	}
	return s
}

// changed is change for one that must succeed.
func (a *asker) changed(c Change) {
	a.t.Helper()
	if s := a.change(c); s != "ok" {
		a.t.Fatalf("change: %s", s)
	}
}

var secondLink = plumb.Link{
	EndpointID: "ep1", Name: "eth1", MTU: 1400, MAC: l2.MAC{2, 0, 0, 0, 0, 9},
	Addr4: prefix("10.9.0.2/24"), Addr6: prefix("fd09::2/64"),
}

// by leads everything through a device.
func by(dev, gw4, gw6 string) *plumb.Routes {
	r := plumb.Routes{Default4: plumb.Hop{Dev: dev, Addr: netip.MustParseAddr(gw4)}, Resolver: plumb.Hop{Dev: dev, MAC: l2.MAC{2, 1, 1, 1, 1, 1}}}
	if gw6 != "" {
		r.Default6 = plumb.Hop{Dev: dev, Addr: netip.MustParseAddr(gw6)}
	}
	return &r
}

// wantInside runs a script in the namespaces of pid and compares what it writes.
func wantInside(t *testing.T, pid int, script, want string) {
	t.Helper()
	if out := inside(t, pid, sh(script)...); out != want {
		t.Errorf("%s:\n%s\nwant:\n%s", script, out, want)
	}
}

const (
	devices  = `sed -n 's/^ *\(eth[0-9]*\):.*/\1/p' /proc/net/dev | sort | tr '\n' ' '`
	defaults = `awk '$2 == "00000000" {print $1, $3}' /proc/net/route`
)

// TestPlugWhileRunning: interfaces, routes and the resolver come and go while CMD runs, whoever CMD is, and CMD
// gets no descriptor and no capability by that (LU-14).
func TestPlugWhileRunning(t *testing.T) {
	for _, m := range []IDMap{MapRoot, MapKeep} {
		t.Run(string(m), func(t *testing.T) {
			t.Parallel()
			fifo := filepath.Join(t.TempDir(), "fifo")
			if err := syscall.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			s := start(t, testConfig{Map: m, Network: NetworkPrivate, Command: sh(
				`echo ready; read x < ` + fifo + `; ls /proc/self/fd | tr '\n' ' '; grep CapEff /proc/self/status`)})
			s.line("ready")
			checkChanges(t, &s.asker, initOf(t, s))
			if err := os.WriteFile(fifo, []byte("go\n"), 0); err != nil {
				t.Fatal(err)
			}
			got := s.line("CapEff")
			caps := "0 1 2 3 CapEff:\t0000000000000000"
			if m == MapRoot {
				caps = "0 1 2 3 CapEff:\t000001ff"
			}
			if !strings.HasPrefix(got, caps) {
				t.Errorf("CMD has %q", got)
			}
		})
	}
}

// checkChanges makes all changes of interfaces in namespaces that have eth0.
func checkChanges(t *testing.T, a *asker, pid int) {
	t.Helper()
	l := secondLink
	a.changed(Change{Plug: &l})
	wantInside(t, pid, devices, "eth0 eth1 ")
	wantInside(t, pid, `cat /proc/sys/net/ipv6/conf/eth1/mtu; grep -c ^fd09.*eth1 /proc/net/if_inet6`, "1400\n1\n")
	wantInside(t, pid, defaults, "eth0 0202000A\n")
	a.changed(Change{Routes: by("eth1", "10.9.0.1", "fd09::1")})
	wantInside(t, pid, defaults, "eth1 0100090A\n")
	wantInside(t, pid, `cat /proc/sys/net/ipv4/conf/eth[01]/route_localnet`, "0\n1\n")
	a.changed(Change{Routes: by("eth0", "10.0.2.2", "")})
	wantInside(t, pid, defaults+`; grep -c '^00000000000000000000000000000000 00 .* eth' /proc/net/ipv6_route || :`, "eth0 0202000A\n0\n")
	wantInside(t, pid, `cat /proc/sys/net/ipv4/conf/eth[01]/route_localnet`, "1\n0\n")
	a.changed(Change{Routes: by("eth1", "10.9.0.1", "fd09::1")})
	a.changed(Change{Unplug: "ep1"})
	wantInside(t, pid, devices, "eth0 ")
	wantInside(t, pid, defaults, "")
	// What went with the interface is not in the way of what comes, nor is its name.
	a.changed(Change{Routes: by("eth0", "10.0.2.2", "fd00::2")})
	wantInside(t, pid, defaults, "eth0 0202000A\n")
	a.changed(Change{Plug: &l})
	a.changed(Change{Unplug: "ep1"})
	a.changed(Change{Unplug: "ep1"}) // of a plug that was given up, perhaps
	a.changed(Change{Unplug: "ep0"})
	wantInside(t, pid, devices, "")
}

// TestChangesRefused: a change that cannot be made is a clear error and leaves all as it was.
func TestChangesRefused(t *testing.T) {
	s := start(t, testConfig{Network: NetworkPrivate, Command: sh("echo ready; exec sleep 1000"), Files: ownFiles[:1]})
	s.line("ready")
	pid := initOf(t, s)
	see := devices + ";" + defaults + "; cat /proc/sys/net/ipv4/conf/eth0/route_localnet /etc/resolv.conf"
	before := inside(t, pid, sh(see)...)
	taken, twice, bad, wild := secondLink, testLink, secondLink, secondLink
	taken.Name = "eth0"
	bad.Addr4 = prefix("fd09::2/64")
	wild.Sysctls = map[string]string{"kernel.core_pattern": "|/bin/sh"}
	for want, c := range map[string]Change{
		"exists already":                 {Plug: &taken},
		"endpoint ep0 has eth0 already":  {Plug: &twice},
		"is of the other family":         {Plug: &bad},
		"its name begins with net":       {Plug: &wild},
		"find interface eth7":            {Routes: by("eth7", "10.9.0.1", "")},
		"without such a file of its own": {Files: []plumb.File{{Path: "/etc/resolv.conf", Content: "x"}, {Path: "/etc/passwd", Content: "x"}}},
		"needs a MAC address":            {Routes: &plumb.Routes{Default4: testRoutes.Default4, Resolver: plumb.Hop{Dev: "eth0"}}},
		"the change asks for nothing":    {},
	} {
		if got := s.change(c); !strings.Contains(got, want) {
			t.Errorf("%s, want %q", got, want)
		}
		if after := inside(t, pid, sh(see)...); after != before {
			t.Fatalf("after %q:\n%s\nwant:\n%s", want, after, before)
		}
	}
}

// TestPlugRefusedByNetwork: an interface that the Network does not take is removed again, and one without a TAP is
// an error.
func TestPlugRefusedByNetwork(t *testing.T) {
	for _, tt := range []struct {
		info *tap.Info
		want string
		n    int // of requests
	}{{&tap.Info{Name: "eth1"}, "no room", 2}, {nil, "no TAP came", 1}} {
		c := newChanger(newFakeNetwork("no room", ""), nil, plumb.Routes{})
		var asked []change
		var sent *os.File
		c.ask = func(_ context.Context, ch change) (m message, err error) {
			asked = append(asked, ch)
			if ch.Plug != nil {
				sent, err = os.Open(os.DevNull)
				m = message{Info: tt.info, file: sent}
			}
			return m, err
		}
		if err := c.plug(t.Context(), secondLink); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %s", err, tt.want)
		}
		if len(asked) != tt.n || tt.n == 2 && asked[1].Unplug != "eth1" || len(c.links) != 0 {
			t.Errorf("asked for %+v, has %v", asked, c.links)
		}
		if _, err := sent.Stat(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("the TAP is open: %v", err)
		}
	}
}

// TestSignalsByNetwork: what the Network's side asks for reaches CMD, and SIGKILL ends the sandbox even when
// something inside has stopped its init.
func TestSignalsByNetwork(t *testing.T) {
	for name, tt := range map[string]struct {
		sig  syscall.Signal
		stop bool
		code int
	}{
		"TERM":               {syscall.SIGTERM, false, 143},
		"KILL":               {syscall.SIGKILL, false, 137},
		"init stopped, KILL": {syscall.SIGKILL, true, ExitFailure},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mark := newMark(t)
			s := start(t, testConfig{Network: NetworkPrivate, Command: sh("export " + mark + "=1; sleep 1000 & echo ready; wait")})
			s.line("ready")
			pids := waitMarked(t, mark, 1)
			if tt.stop {
				kill(t, initOf(t, s), syscall.SIGSTOP)
			}
			s.changed(Change{Signal: tt.sig})
			if code := s.code(); code != tt.code {
				t.Errorf("exit code %d, want %d; %s", code, tt.code, s.stderr.String())
			}
			waitGone(t, pids)
		})
	}
}

// TestFilesWhileRunning: a file's new content is seen by who has it open or mounted elsewhere, be it shorter or longer.
func TestFilesWhileRunning(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, testConfig{Network: NetworkPrivate, Files: ownFiles, Command: sh(
		`f="$TMPDIR/elsewhere"; touch "$f"; mount --bind /etc/hosts "$f"; exec 5< /etc/hosts
			while echo ready; do read x < ` + fifo + `; cat /etc/hosts "$f" /proc/self/fd/5 /etc/resolv.conf; done`)})
	s.line("ready")
	for _, content := range []string{"a much longer line than before\n", "b\n", strings.Repeat("c", 5000) + "\n"} {
		s.changed(Change{Files: []plumb.File{{Path: "/etc/hosts", Content: content}}})
		if err := os.WriteFile(fifo, []byte("go\n"), 0); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if got := s.line(""); got+"\n" != content {
				t.Errorf("got %q, want %q", got, content)
			}
		}
		s.line("ours resolv")
		s.line("ready")
	}
}

// TestAnswers: an answer to a change that was given up is not taken for one to the next, and its TAP is closed.
func TestAnswers(t *testing.T) {
	c, its, err := socket()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	defer its.Close()
	a := &answers{conn: c, from: make(chan message, 1)}
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	if _, err := a.ask(ctx, change{Unplug: "eth1"}); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("%v, want that it does not answer", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	a.deliver(message{ID: 1, file: w})
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		// Its end comes when the late answer has been dropped.
		_, _ = r.Read(make([]byte, 1))
		a.deliver(message{ID: 2, Error: "no such thing"})
	}()
	if _, err := a.ask(t.Context(), change{Unplug: "eth1"}); err == nil || err.Error() != "no such thing" {
		t.Errorf("%v, want the answer to the second", err)
	}
	<-answered
	if _, err := w.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the TAP of a late answer is open: %v", err)
	}
}

// TestChangeAtTheEnd: however the end of a sandbox is found out, a change that comes too late is told the same.
func TestChangeAtTheEnd(t *testing.T) {
	for name, end := range map[string]error{
		"init is gone when it is asked":       fmt.Errorf("send change: %w", syscall.EPIPE),
		"init is gone before it has answered": io.EOF,
	} {
		t.Run(name, func(t *testing.T) {
			n := &changingNetwork{quietNetwork: newQuietNetwork(), changes: make(chan Change, 1)}
			c := newChanger(n, nil, plumb.Routes{})
			c.ask = func(context.Context, change) (message, error) { return message{}, end }
			reply := make(chan error, 1)
			n.changes <- Change{Sockets: insideSockets, Reply: reply}
			close(n.changes)
			c.run(t.Context())
			if err := <-reply; !errors.Is(err, ErrEnded) {
				t.Errorf("the change: %v, want %v", err, ErrEnded)
			}
		})
	}
}

// TestChangeThatEnds: a change that was made is told so, even if it was the end of the sandbox.
func TestChangeThatEnds(t *testing.T) {
	n := &changingNetwork{quietNetwork: newQuietNetwork(), changes: make(chan Change, 1)}
	c := newChanger(n, nil, plumb.Routes{})
	ctx, cancel := context.WithCancel(t.Context())
	c.signal = func(syscall.Signal) error {
		cancel()
		return nil
	}
	reply := make(chan error, 1)
	n.changes <- Change{Signal: syscall.SIGKILL, Reply: reply}
	c.run(ctx)
	if err := <-reply; err != nil {
		t.Errorf("the signal: %v", err)
	}
}

// changingNetwork is a quietNetwork that asks for changes.
type changingNetwork struct {
	*quietNetwork
	changes chan Change
}

func (n *changingNetwork) Changes() <-chan Change { return n.changes }
