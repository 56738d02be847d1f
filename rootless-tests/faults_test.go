package rootlesstests

import (
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// gone waits until nothing of a sandbox is left: no process, no listener on port, no file.
func gone(t *testing.T, r *rig.Rig, pids []int, port uint16, name string, limit time.Duration) {
	t.Helper()
	rig.WaitFor(t, limit, "end of all processes", func() bool { return !slices.ContainsFunc(pids, alive) })
	rig.WaitFor(t, limit, "end of the listeners", func() bool { return len(listenersOn(t, port)) == 0 })
	rig.WaitFor(t, limit, "end of the files of "+name, func() bool {
		return !slices.ContainsFunc(runtimeFiles(t), func(f string) bool { return strings.Contains(f, name) })
	})
}

// everyone are the processes of a sandbox.
func everyone(sb *rig.Sandbox) []int { return append(below(sb.PID()), sb.PID()) }

// daemon starts a process in a sandbox that nobody there waits for, in a session of its own.
func daemon(t *testing.T, sb *rig.Sandbox) {
	t.Helper()
	// Its word through the pipe says that it has its session, and so outlives the shell.
	sb.Run(t, "sh", "-c", "{ setsid sh -c 'echo up; exec sleep 1000 >/dev/null 2>&1' & } | read x")
}

// FT-11: init is killed. Its sandbox ends with it, ports and all, also what made itself a daemon.
func TestFT11(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	port, spec := publish(80, "tcp")
	sb := r.Run(t, "--name", "ft11", "--publish", spec)
	daemon(t, sb)
	init, pids := initOf(t, sb.Process), everyone(sb)
	if err := syscall.Kill(init, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := sb.Exit(t); code != 125 {
		t.Errorf("exit code %d, want 125", code)
	}
	gone(t, r, pids, port, "ft11", 5*time.Second)
	// The port is free, and the name too.
	r.Run(t, "--name", "ft11", "--publish", spec).End(t)
}

// Nothing is left when the shim itself is killed, which can clean up no more.
func TestKillShim(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	port, spec := publish(80, "tcp")
	sb := r.Run(t, "--name", "killshim", "--publish", spec)
	daemon(t, sb)
	pids := everyone(sb)
	if len(pids) < 4 {
		t.Fatalf("processes %v, want shim, init, datapath and CMD at least", pids)
	}
	if err := sb.Cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	rig.WaitFor(t, 5*time.Second, "end of all processes", func() bool { return !slices.ContainsFunc(pids, alive) })
	rig.WaitFor(t, 5*time.Second, "end of the listeners", func() bool { return len(listenersOn(t, port)) == 0 })
	// A file may be left, which nothing could have removed; it is in nobody's way.
	next := r.Run(t, "--name", "killshim", "--publish", spec)
	next.End(t)
	gone(t, r, pids, port, "killshim", 5*time.Second)
}

// crash ends the datapath by a signal and checks everything that FT-20 asks for.
func crash(t *testing.T, sig syscall.Signal) (r *rig.Rig, sb *rig.Sandbox) {
	t.Helper()
	r = rig.Start(t)
	port, spec := publish(80, "tcp")
	uport, uspec := publish(80, "udp")
	sb = r.Run(t, "--publish", spec, "--publish", uspec, "--add-host", "local:192.0.2.1")
	echo, uecho := serveEcho(t, r.X1, rig.X1v4), serveUDP(t, r.X1, rig.X1v6)
	accept(t, sb.ListenTCP(t, at(rig.SandboxAddr4, 80)), func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	listenUDP(t, sb.Node, at(rig.SandboxAddr4, 80), sendBack)

	old := sb.Datapath(t)
	out, in := sb.DialTCP(t, echo), r.X1.DialTCP(t, at(rig.H4, port))
	udp, pub := sb.DialUDP(t, uecho), r.X1.DialUDP(t, at(rig.H4, uport))
	for _, c := range []*net.TCPConn{out, in} {
		wantEchoed(t, c, "before")
	}
	for _, c := range []*net.UDPConn{udp, pub} {
		exchange(t, c, []byte("before"))
	}
	if err := syscall.Kill(old, sig); err != nil {
		t.Fatal(err)
	}
	newDatapath(t, sb.Process, old, time.Second)
	began := time.Now()
	wantEchoed(t, sb.DialTCP(t, echo), "out again")
	wantEchoed(t, r.X1.DialTCP(t, at(rig.H4, port)), "in again")
	if d := time.Since(began); d > busy*time.Second {
		t.Errorf("new connections needed %v", d)
	}
	// A UDP flow of the container goes on as a new one.
	exchange(t, udp, []byte("after"))
	exchange(t, pub, []byte("after"))
	if got := resolve(t, sb, "local"); got != "192.0.2.1" {
		t.Errorf("local name: %s", got)
	}
	// The client outside was told by the kernel when the process ended; the one inside is when it sends.
	for who, c := range map[string]*net.TCPConn{"outside": in, "inside": out} {
		_, werr := c.Write([]byte("still there?"))
		_, rerr := c.Read(make([]byte, 1))
		if err := errors.Join(werr, rerr); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			if who == "inside" || !errors.Is(err, io.EOF) {
				t.Errorf("old connection, client %s: %v, want a reset", who, err)
			}
		}
	}
	return r, sb
}

func wantEchoed(t *testing.T, c *net.TCPConn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != text {
		t.Fatalf("echo %q, %v; want %q", b, err, text)
	}
}

// FT-20: the datapath is killed. Another one works within a second; five times a minute at once, then later.
func TestFT20(t *testing.T) {
	t.Parallel()
	r, sb := crash(t, syscall.SIGKILL)
	pid := sb.Datapath(t)
	for range 4 {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		pid = newDatapath(t, sb.Process, pid, time.Second)
		wantAlive(t, r, sb, pid)
	}
	began := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	pid = newDatapath(t, sb.Process, pid, 5*time.Second)
	if d := time.Since(began); d < 900*time.Millisecond {
		t.Errorf("the sixth datapath within a minute came after %v, want about a second", d)
	}
	wantAlive(t, r, sb, pid)
	sb.End(t)
}

// FT-25: a datapath that dies of a fault of its own is replaced as well, and the log has the stacks of its goroutines.
// There is no way to make the real one panic; SIGSEGV and SIGABRT are what its runtime ends it with.
func TestFT25(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGSEGV, syscall.SIGABRT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			_, sb := crash(t, sig)
			for _, s := range []string{"goroutine ", "datapath ended"} {
				if !strings.Contains(sb.Stderr.String(), s) {
					t.Errorf("log has no %q", s)
				}
			}
			sb.End(t)
		})
	}
}
