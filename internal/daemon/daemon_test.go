package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/usernet/usernet/api/client"
	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/internal/control"
	"github.com/usernet/usernet/internal/control/registry"
	"github.com/usernet/usernet/internal/join"
	"github.com/usernet/usernet/tap"
)

// LU-05: the second daemon says who is the first and ends; what a dead one has left is replaced.
func TestLU05SecondDaemon(t *testing.T) {
	p := home(t)
	first := startReady(t, p)
	second := start(t)
	if c := second.code(t); c == 0 || !strings.Contains(second.err.String(), fmt.Sprintf("a daemon runs already, process %d", first.Process.Pid)) {
		t.Errorf("the second daemon: code %d, %s", c, second.err.String())
	}
	for name, want := range map[string]fs.FileMode{p.Socket(): fs.ModeSocket | 0o600, p.Join(): fs.ModeSocket | 0o600, p.pid(): 0o600, p.Runtime: fs.ModeDir | 0o700} {
		if fi, err := os.Lstat(name); err != nil || fi.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", name, fi.Mode(), err, want)
		}
	}
	first.signal(t, syscall.SIGKILL)
	first.code(t)
	if _, err := os.Lstat(p.Socket()); err != nil {
		t.Error("a killed daemon leaves its socket:", err)
	}
	third := startReady(t, p)
	third.signal(t, syscall.SIGTERM)
	if c := third.code(t); c != 0 {
		t.Errorf("told to end: code %d", c)
	}
	for _, name := range []string{p.Socket(), p.Join()} {
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
}

// LU-04: a directory that others could put things in is refused, and nothing is started.
func TestLU04Directories(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, p Paths) error{
		"runtime directory is a link": func(t *testing.T, p Paths) error {
			if err := os.Rename(p.Runtime, p.Runtime+".real"); err != nil {
				return err
			}
			return os.Symlink(p.Runtime+".real", p.Runtime)
		},
		"runtime directory is everybody's":   func(_ *testing.T, p Paths) error { return os.Chmod(p.Runtime, 0o777) },
		"its parent is everybody's":          func(_ *testing.T, p Paths) error { return os.Chmod(filepath.Dir(p.Runtime), 0o777) },
		"state directory is everybody's":     func(_ *testing.T, p Paths) error { return os.Chmod(p.State, 0o777) },
		"runtime directory is somebody's":    func(t *testing.T, _ Paths) error { t.Setenv("XDG_RUNTIME_DIR", "/"); return nil },
		"runtime directory is not absolute":  func(t *testing.T, _ Paths) error { t.Setenv("XDG_RUNTIME_DIR", "run"); return nil },
		"state directory is not absolute":    func(t *testing.T, _ Paths) error { t.Setenv("XDG_STATE_HOME", "state"); return nil },
		"a file stands where the socket was": func(_ *testing.T, p Paths) error { return os.WriteFile(p.Socket(), nil, 0o600) },
		"a link stands where the lock was":   func(_ *testing.T, p Paths) error { return os.Symlink("/etc/passwd", p.pid()) },
	} {
		t.Run(name, func(t *testing.T) {
			p := home(t)
			if err := spoil(t, p); err != nil {
				t.Fatal(err)
			}
			d := start(t)
			if c := d.code(t); c != 1 || d.err.String() == "" {
				t.Errorf("code %d, %q", c, d.err.String())
			}
		})
	}
}

// LU-15: nobody but root looks into the daemon, and it leaves no core; its datapath is isolated all the same.
func TestLU15Memory(t *testing.T) {
	p := home(t)
	d := startReady(t, p)
	for _, file := range []string{"mem", "maps", "environ"} {
		out, err := exec.Command("/proc/self/exe", peekRole, fmt.Sprintf("/proc/%d/%s", d.Process.Pid, file)).Output()
		if err != nil || !strings.Contains(string(out), "permission denied") {
			t.Errorf("another process opens %s: %s, %v", file, out, err)
		}
	}
	eventually(t, "the datapath", func() bool { return len(children(t, d.Process.Pid)) == 1 })
	d.signal(t, syscall.SIGTERM)
	d.code(t)
	// With the race detector it is isolated by nothing else.
	if s := d.err.String(); !strings.Contains(s, "weakened=") || strings.Contains(s, "refused user namespaces") {
		t.Error("the datapath is not isolated")
	}
	d = startReady(t, p)
	d.signal(t, syscall.SIGSEGV)
	d.code(t)
	if ws := d.ProcessState.Sys().(syscall.WaitStatus); ws.CoreDump() {
		t.Error("it left a core")
	}
}

// Two who need a daemon at once start one, which is nobody's child and holds nothing of theirs (LU-14).
func TestEnsure(t *testing.T) {
	p := home(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			c := exec.Command("/proc/self/exe", ensureRole)
			c.ExtraFiles = []*os.File{w, w}
			if out, err := c.CombinedOutput(); err != nil || string(out) != "<nil>\n" {
				t.Errorf("ensure: %s, %v", out, err)
			}
		})
	}
	wg.Wait()
	w.Close()
	if !answers(t.Context(), p) {
		t.Fatal("no daemon")
	}
	r.SetReadDeadline(time.Now().Add(patience))
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Error("the daemon holds a pipe of the command that needed it:", err)
	}
	b, err := os.ReadFile(p.Log())
	if err != nil || strings.Count(string(b), "daemon ready") != 1 {
		t.Errorf("%v, log:\n%s", err, b)
	}
	pid := daemonPID(p)
	if slices.Contains(children(t, os.Getpid()), pid) {
		t.Error("the daemon is a child of who needed it")
	}
	if err := Ensure(t.Context(), Start{}); err != nil || daemonPID(p) != pid {
		t.Error("a second time:", err)
	}
	// One that is told to end is followed by another, also while it is ending.
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another daemon", func() bool {
		if err := Ensure(t.Context(), Start{}); err != nil {
			t.Fatal(err)
		}
		now := daemonPID(p)
		return now != 0 && now != pid
	})
}

// Why a daemon cannot be started is in the error, not only in its log.
func TestEnsureFails(t *testing.T) {
	p := home(t)
	if err := os.WriteFile(p.ConfigFile, []byte(`{"colour":"red"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	err := Ensure(t.Context(), Start{})
	want := fmt.Sprintf("start daemon: unable to configure the daemon with file %s: the following directives don't match any configuration option: colour; see %s", p.ConfigFile, p.Log())
	if err == nil || err.Error() != want {
		t.Errorf("%v, want\n%s", err, want)
	}
	if err := os.Remove(p.ConfigFile); err != nil {
		t.Fatal(err)
	}
	// A state that cannot be opened, of which the daemon says by itself what it was about.
	if err := os.MkdirAll(filepath.Join(p.State, "networks.db"), 0o700); err != nil {
		t.Fatal(err)
	}
	err = Ensure(t.Context(), Start{})
	if err == nil || !strings.HasPrefix(err.Error(), "start daemon: open state: ") {
		t.Errorf("%v, want one start daemon, and open state", err)
	}
	if err := Ensure(t.Context(), Start{Args: []string{"-test.run=^$"}}); err == nil {
		t.Error("a program that is no daemon:", err)
	}
	if err := Ensure(t.Context(), Start{Exe: "/nonexistent"}); err == nil {
		t.Error("no program:", err)
	}
}

// api is a client of the daemon.
func apiClient(t *testing.T, p Paths) *client.Client {
	c := client.New(p.Socket())
	t.Cleanup(c.Close)
	return c
}

// joinTest joins a sandbox whose interface is a pipe.
func joinTest(t *testing.T, p Paths, nets ...string) *join.Client {
	t.Helper()
	cfg := cnm.SandboxConfig{ID: registry.NewID(), Name: "web", Kind: "run", ShimPID: os.Getpid(), Created: time.Now()}
	for _, n := range nets {
		cfg.Networks = append(cfg.Networks, cnm.EndpointConfig{Network: n})
	}
	c, joined, err := join.Dial(t.Context(), p.Join(), cfg, join.Options{
		Start: func(ctx context.Context) error { return Ensure(ctx, Start{}) },
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case ch := <-c.Changes():
				ch.Reply <- nil
			case <-c.Done():
				return
			}
		}
	})
	t.Cleanup(func() { c.Close(); wg.Wait() })
	for _, l := range joined.Links {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		err = c.Attach(l.EndpointID, r, tap.Info{Name: l.Name, MTU: l.MTU})
		r.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	c.Started(os.Getpid())
	return c
}

// FT-02 with everything real but the packets: the daemon is killed, the sandbox starts another and is in its networks
// again with its addresses; and FT-12: without sandboxes the networks stay and the leases do not.
func TestFT02Killed(t *testing.T) {
	p := home(t)
	c := joinTestNetwork(t, p)
	a := apiClient(t, p)
	before, _, err := a.NetworkInspect(t.Context(), "back", false)
	if err != nil || len(before.Containers) != 1 {
		t.Fatalf("%+v, %v", before.Containers, err)
	}
	pid := daemonPID(p)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, "another daemon", func() bool { s := c.Status(); return s.Restarts > 0 && s.State == control.Running })
	t.Log("back after", time.Since(began))
	a = apiClient(t, p)
	after, _, err := a.NetworkInspect(t.Context(), "back", false)
	if err != nil || fmt.Sprint(after.Containers) != fmt.Sprint(before.Containers) {
		t.Errorf("%v\nwas\n%v (%v)", after.Containers, before.Containers, err)
	}
	if daemonPID(p) == pid {
		t.Error("the same daemon")
	}
	// A reboot: neither daemon nor sandboxes.
	endDaemon(t, p)
	c.Close()
	endDaemon(t, p)
	if err := os.RemoveAll(p.Runtime); err != nil {
		t.Fatal(err)
	}
	if err := Ensure(t.Context(), Start{}); err != nil {
		t.Fatal(err)
	}
	last, _, err := apiClient(t, p).NetworkInspect(t.Context(), "back", false)
	if err != nil || len(last.Containers) != 0 {
		t.Errorf("after a reboot: %v, %v", last.Containers, err)
	}
}

// joinTestNetwork makes the network back and a sandbox in it, with a daemon started on demand.
func joinTestNetwork(t *testing.T, p Paths) *join.Client {
	t.Helper()
	if err := Ensure(t.Context(), Start{}); err != nil {
		t.Fatal(err)
	}
	if _, err := apiClient(t, p).NetworkCreate(t.Context(), network.CreateRequest{Name: "back", Driver: "bridge"}); err != nil {
		t.Fatal(err)
	}
	return joinTest(t, p, "back")
}

// A daemon that is told to end is not brought back by its sandboxes; they join the next one.
func TestToldToEnd(t *testing.T) {
	p := home(t)
	c := joinTestNetwork(t, p)
	pid := daemonPID(p)
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end", func() bool { return c.Status().State == control.Restarting && daemonPID(p) == 0 })
	if b, _ := os.ReadFile(p.Log()); strings.Count(string(b), "daemon ready") != 1 {
		t.Errorf("log:\n%s", b)
	}
	startReady(t, p)
	eventually(t, "the sandbox", func() bool { return c.Status().State == control.Running })
	n, _, err := apiClient(t, p).NetworkInspect(t.Context(), "back", false)
	if err != nil || len(n.Containers) != 1 {
		t.Errorf("%v, %v", n.Containers, err)
	}
}

// Sandboxes' ids are hexadecimal; the Controller checks.
func TestJoinRefused(t *testing.T) {
	p := home(t)
	startReady(t, p)
	_, _, err := join.Dial(t.Context(), p.Join(), cnm.SandboxConfig{ID: hex.EncodeToString([]byte("short"))}, join.Options{})
	if _, refused := errors.AsType[*join.RefusedError](err); !refused {
		t.Error(err)
	}
}
