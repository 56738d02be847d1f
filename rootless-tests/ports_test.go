package rootlesstests

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// usernet runs a command of usernet that is done at once, and returns its exit code and both outputs.
func usernet(t *testing.T, r *rig.Rig, args ...string) (int, string, string) {
	t.Helper()
	p := r.Usernet(t, nil, args...)
	return p.Exit(t), p.Stdout.String(), p.Stderr.String()
}

// mustUsernet is usernet for what must succeed.
func mustUsernet(t *testing.T, r *rig.Rig, args ...string) string {
	t.Helper()
	code, out, message := usernet(t, r, args...)
	if code != 0 {
		t.Fatalf("usernet %s: exit code %d: %s", strings.Join(args, " "), code, message)
	}
	return out
}

// Ports come and go while the sandbox runs, all of a command or none, and survive the datapath.
func TestPorts(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t, "--name", "ports")
	datapath := sb.Datapath(t)
	accept(t, sb.ListenTCP(t, at(rig.SandboxAddr4, 80)), func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	listenUDP(t, sb.Node, at(rig.SandboxAddr4, 80), sendBack)
	if out := mustUsernet(t, r, "port", "ls", "ports"); out != "" {
		t.Errorf("ports at first: %q", out)
	}

	tcp, udp, busy := nextPort(), nextPort(), nextPort()
	r.H.ListenTCP(t, at(rig.H4, busy))
	code, _, message := usernet(t, r, "port", "add", "ports", fmt.Sprintf("%d:80", tcp), fmt.Sprintf("203.0.113.1:%d:80", busy))
	if code != 1 || !strings.Contains(message, "address already in use") || !strings.Contains(message, fmt.Sprint(busy)) {
		t.Errorf("add a port that is taken: exit code %d: %s", code, message)
	}
	if l := listenersOn(t, tcp); len(l) > 0 {
		t.Errorf("the other port of a refused command is bound: %v", l)
	}

	mustUsernet(t, r, "port", "add", "ports", fmt.Sprintf("%d:80", tcp), fmt.Sprintf("203.0.113.1:%d:80/udp", udp))
	want := fmt.Sprintf("80/tcp -> 0.0.0.0:%d\n80/tcp -> [::]:%d\n80/udp -> 203.0.113.1:%d\n", tcp, tcp, udp)
	if out := mustUsernet(t, r, "port", "ls", "ports"); out != want {
		t.Errorf("port ls shows %q, want %q", out, want)
	}
	works := func() {
		t.Helper()
		wantEchoed(t, r.X1.DialTCP(t, at(rig.H4, tcp)), "tcp")
		if got := exchange(t, r.X1.DialUDP(t, at(rig.H4, udp)), []byte("udp")); string(got) != "udp" {
			t.Errorf("udp: %q", got)
		}
	}
	works()
	if now := sb.Datapath(t); now != datapath {
		t.Error("adding ports cost the datapath")
	}
	if err := syscall.Kill(datapath, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	datapath = newDatapath(t, sb.Process, datapath, time.Second)
	works()

	open := r.X1.DialTCP(t, at(rig.H4, tcp))
	wantEchoed(t, open, "open")
	if code, _, message := usernet(t, r, "port", "rm", "ports", fmt.Sprint(tcp), "1:80"); code != 1 || !strings.Contains(message, "not published") {
		t.Errorf("remove a port that is not published: exit code %d: %s", code, message)
	}
	wantEchoed(t, open, "still open")
	mustUsernet(t, r, "port", "rm", "ports", fmt.Sprint(tcp))
	if l := listenersOn(t, tcp); len(l) > 0 {
		t.Errorf("removed, but bound: %v", l)
	}
	if _, err := open.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("connection through a removed port: %v, want a reset", err)
	}
	exchange(t, r.X1.DialUDP(t, at(rig.H4, udp)), []byte("udp"))
	if now := sb.Datapath(t); now != datapath {
		t.Error("removing a port cost the datapath")
	}
	sb.End(t)
	if code, _, message := usernet(t, r, "port", "ls", "ports"); code != 1 || !strings.Contains(message, "ports") {
		t.Errorf("ports of a sandbox that has ended: exit code %d: %s", code, message)
	}
}

// Two sandboxes cannot have one name; the second says so and runs nothing. The name is free again at once.
func TestSameName(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	first := r.Run(t, "--name", "twins")
	p := r.Usernet(t, nil, "run", "--name", "twins", "--", "echo", "CMD ran")
	if code := p.Exit(t); code != 125 || p.Stdout.String() != "" || !strings.Contains(p.Stderr.String(), "twins") {
		t.Errorf("second of the name: exit code %d, %q: %s", code, p.Stdout, p.Stderr)
	}
	if out := mustUsernet(t, r, "ps", "--format", "{{.Name}} {{.ShimPID}} {{.State}}"); !strings.Contains(out, fmt.Sprintf("twins %d running\n", first.PID())) {
		t.Errorf("ps shows %q", out)
	}
	first.End(t)
	if out := mustUsernet(t, r, "ps", "--format", "{{.Name}}"); slices.Contains(strings.Fields(out), "twins") {
		t.Errorf("ps shows one that has ended: %q", out)
	}
	r.Run(t, "--name", "twins").End(t)
}
