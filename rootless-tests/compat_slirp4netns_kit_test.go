package rootlesstests

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/proctest"
	"github.com/usernet/usernet/rootless-tests/rig"
)

// slirp4netnsOf is the program of a maker. Ours is a link to usernet.
func slirp4netnsOf(t testing.TB, m maker) string {
	t.Helper()
	if m == original {
		path, err := exec.LookPath("slirp4netns")
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := filepath.Join(t.TempDir(), "slirp4netns")
	if err := os.Symlink(rig.Usernet, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// slirp is a running slirp4netns.
type slirp struct {
	cmd            *exec.Cmd
	stdout, stderr *proctest.Output
	ready, exit    *os.File // our ends of descriptors 3 and 4
	done           chan struct{}
}

// startSlirp starts a program with its ready descriptor at 3 and its exit descriptor at 4; both are inherited
// whether the command line speaks of them or not. more are descriptors from 5 up. It is killed with the test.
func startSlirp(t testing.TB, program string, more []*os.File, args ...string) *slirp {
	t.Helper()
	s := &slirp{cmd: exec.Command(program, args...), stdout: &proctest.Output{}, stderr: &proctest.Output{}, done: make(chan struct{})}
	pipe := func() (r, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(); w.Close() })
		return r, w
	}
	var readyEnd, exitEnd *os.File
	s.ready, readyEnd = pipe()
	exitEnd, s.exit = pipe()
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = "/", s.stdout, s.stderr
	s.cmd.ExtraFiles = append([]*os.File{readyEnd, exitEnd}, more...)
	s.cmd.WaitDelay = rig.Patience
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	readyEnd.Close()
	exitEnd.Close()
	go func() { defer close(s.done); _ = s.cmd.Wait() }() // exitCode looks at the state
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill() // it may have ended
		<-s.done
		if t.Failed() {
			t.Logf("%s %s\n%s%s", program, strings.Join(args, " "), s.stdout, s.stderr)
		}
	})
	return s
}

// wantReady waits until it says that the network works.
func (s *slirp) wantReady(t testing.TB) {
	t.Helper()
	if err := s.ready.SetReadDeadline(time.Now().Add(rig.Patience)); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(s.ready); err != nil || string(b) != "1" {
		t.Fatalf("ready descriptor: %q, %v\n%s", b, err, s.stderr)
	}
}

// exitCode waits for the end; -n stands for signal n.
func (s *slirp) exitCode(t testing.TB) int {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(rig.Patience):
		t.Fatalf("%s has not ended within %v", strings.Join(s.cmd.Args, " "), rig.Patience)
	}
	ws := s.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return -int(ws.Signal())
	}
	return ws.ExitStatus()
}

// served is a namespace with a slirp4netns of each maker in turn.
type served struct {
	*rig.Node
	slirp *slirp
	pid   int // of a process in the namespace
}

// serveNamespace starts a program for a namespace of its own and waits until it is ready. "PID" in args stands for
// the process.
func serveNamespace(t *testing.T, r *rig.Rig, m maker, prepare func(*rig.Node), args ...string) *served {
	t.Helper()
	sb, c := container(t, r)
	t.Cleanup(c.Kill)
	if prepare != nil {
		prepare(sb.Node)
	}
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "PID", strconv.Itoa(c.PID))
	}
	s := startSlirp(t, slirp4netnsOf(t, m), nil, args...)
	s.wantReady(t)
	return &served{sb.Node, s, c.PID}
}

// askAPI sends a request and returns the answer.
func askAPI(t testing.TB, path, request string) string {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(rig.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, request); err != nil {
		return err.Error()
	}
	if err := c.CloseWrite(); err != nil {
		return err.Error()
	}
	b, err := io.ReadAll(c)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
