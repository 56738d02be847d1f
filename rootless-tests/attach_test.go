package rootlesstests

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// attach runs usernet attach and waits until it says that the network works.
func attach(t *testing.T, r *rig.Rig, args ...string) *rig.Process {
	t.Helper()
	ready, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	// Standard input is the one descriptor a test hands on; that it is a pipe's other end does not matter.
	p := r.Usernet(t, w, append([]string{"attach", "--log-level", "info", "--ready-fd", "0"}, args...)...)
	w.Close()
	if err := ready.SetReadDeadline(time.Now().Add(rig.Patience)); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(ready); err != nil || string(b) != "1" {
		t.Fatalf("usernet attach %s: ready descriptor: %q, %v\n%s", strings.Join(args, " "), b, err, p.Stderr)
	}
	return p
}

// container is a sandbox without a network, as somebody else's container, and a process in it.
func container(t *testing.T, r *rig.Rig) (*rig.Sandbox, *rig.Cmd) {
	t.Helper()
	sb := r.Run(t, "--network", "none")
	c, err := sb.Start(t.Context(), nil, nil, nil, "sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	return sb, c
}

// wantNetwork uses an attached network in both directions.
func wantNetwork(t *testing.T, r *rig.Rig, sb *rig.Sandbox, port uint16) {
	t.Helper()
	for _, f := range families {
		wantEchoed(t, sb.DialTCP(t, serveEcho(t, r.X1, f.x1)), "out")
		l := sb.ListenTCP(t, at(f.own, 80))
		accept(t, l, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
		wantEchoed(t, r.X1.DialTCP(t, at(f.host, port)), "in")
		l.Close()
	}
	if got := resolve(t, sb, "local"); got != "192.0.2.1" {
		t.Errorf("local name: %s", got)
	}
}

// attach PID gives a process's namespace a network. FT-11: it ends with the process, and leaves nothing.
func TestAttachPID(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb, c := container(t, r)
	port, spec := publish(80, "tcp")
	p := attach(t, r, "--name", "attachpid", "--publish", spec, "--add-host", "local:192.0.2.1", strconv.Itoa(c.PID))
	wantNetwork(t, r, sb, port)
	pids := append(below(p.PID()), p.PID())
	if err := syscall.Kill(c.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(busy * 5 * time.Second):
		t.Fatal("attach goes on after the process was killed")
	}
	if code := p.Exit(t); code != 0 {
		t.Errorf("exit code %d: %s", code, p.Stderr)
	}
	gone(t, r, pids, port, "attachpid", 5*time.Second)
	if out := sb.Run(t, "ip", "-o", "link"); strings.Contains(out, "eth0") {
		t.Errorf("the interface stays: %s", out)
	}
	sb.End(t)
}

// SIGTERM ends attach and the network, not the container, which can be given another.
func TestAttachAgain(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb, c := container(t, r)
	for range 2 {
		port, spec := publish(80, "tcp")
		p := attach(t, r, "--publish", spec, "--add-host", "local:192.0.2.1", strconv.Itoa(c.PID))
		wantNetwork(t, r, sb, port)
		if err := p.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		p.Exit(t)
		if out := sb.Run(t, "ip", "-o", "link"); strings.Contains(out, "eth0") {
			t.Errorf("the interface stays: %s", out)
		}
	}
	c.Kill()
	sb.End(t)
}

// attach --netns PATH serves a namespace that has a file. FT-11: it ends when that is unmounted and removed.
func TestAttachNetns(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb, c := container(t, r)
	path := os.Getenv("XDG_RUNTIME_DIR") + "/netns-attach"
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	// The mount namespace is the tests'; the file of the container's network is reached by its process.
	inTests := []string{"nsenter", "-t", fmt.Sprint(os.Getpid()), "-m"}
	r.H.Run(t, append(inTests, "mount", "--bind", fmt.Sprintf("/proc/%d/ns/net", c.PID), path)...)
	port, spec := publish(80, "tcp")
	p := attach(t, r, "--name", "attachnetns", "--publish", spec, "--add-host", "local:192.0.2.1", "--netns", path)
	wantNetwork(t, r, sb, port)
	pids := append(below(p.PID()), p.PID())
	// It is busy while attach looks at it or makes a change.
	rig.WaitFor(t, rig.Patience, "umount "+path, func() bool {
		_, code, err := r.H.Exec(t.Context(), "", append(inTests, "umount", path)...)
		return err == nil && code == 0
	})
	select {
	case <-p.Done():
	case <-time.After(busy * 5 * time.Second):
		t.Fatal("attach goes on after the file was unmounted")
	}
	if code := p.Exit(t); code != 0 {
		t.Errorf("exit code %d: %s", code, p.Stderr)
	}
	gone(t, r, pids, port, "attachnetns", 5*time.Second)
	c.Kill()
	sb.End(t)
}

// What cannot be attached is refused with a reason.
func TestAttachRefused(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	for _, args := range [][]string{
		{"999999999"}, {"--netns", "/no/such/file"}, {"--netns", "/etc/passwd"}, {"--netns", "/proc/self/ns/uts"},
		{"--netns", "/dev/zero"}, {"x"}, {}, {"1"}, {strconv.Itoa(os.Getpid())}, {"--netns", "/proc/self/ns/net"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			code, _, message := usernet(t, r, append([]string{"attach"}, args...)...)
			if code == 0 || message == "" {
				t.Errorf("exit code %d: %s", code, message)
			}
		})
	}
}
