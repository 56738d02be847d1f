package rig

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/proctest"
	"github.com/usernet/usernet/internal/sys"
)

// Process is a usernet process that a test started.
type Process struct {
	Cmd    *exec.Cmd
	Stdout *proctest.Output
	Stderr *proctest.Output

	done chan struct{}
	err  error
}

// Usernet starts usernet with args as the ordinary user, in H. stdin may be nil. It is killed with the test
// when it has not ended by then, and its log is in the test's when the test fails.
func (r *Rig) Usernet(t testing.TB, stdin *os.File, args ...string) *Process {
	t.Helper()
	return startUsernet(t, nil, stdin, args...)
}

// startUsernet is Usernet with an environment, in addition to the tests' own.
func startUsernet(t testing.TB, env []string, stdin *os.File, args ...string) *Process {
	t.Helper()
	p := &Process{Cmd: exec.Command(Usernet, args...), Stdout: &proctest.Output{}, Stderr: &proctest.Output{}, done: make(chan struct{})}
	p.Cmd.Dir = "/"
	p.Cmd.Env = append(os.Environ(), env...)
	if stdin != nil {
		p.Cmd.Stdin = stdin
	}
	p.Cmd.Stdout, p.Cmd.Stderr = p.Stdout, p.Stderr
	p.Cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A sandbox may leave a process that holds the outputs; that is for the test to find, not to hang on.
	p.Cmd.WaitDelay = 2 * time.Second
	if err := p.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(p.done); p.err = p.Cmd.Wait() }()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("usernet %s\n%s%s", strings.Join(args, " "), p.Stdout, p.Stderr)
		}
	})
	return p
}

// stop asks the process to end, and makes it.
func (p *Process) stop() {
	for _, sig := range []syscall.Signal{0, syscall.SIGTERM, syscall.SIGKILL} {
		limit := Patience / 4
		if sig == 0 { // it may be about to end by itself
			limit = 100 * time.Millisecond
		} else {
			_ = p.Cmd.Process.Signal(sig) // it may have ended
		}
		select {
		case <-p.done:
			return
		case <-time.After(limit):
		}
	}
	<-p.done
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit waits for the end and returns the exit code, 128+n when signal n ended the process.
func (p *Process) Exit(t testing.TB) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(Patience):
		t.Fatalf("%s has not ended within %v", strings.Join(p.Cmd.Args, " "), Patience)
	}
	ws := p.Cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// PID is that of the usernet process, the shim of a sandbox.
func (p *Process) PID() int { return p.Cmd.Process.Pid }

// Datapath waits for the datapath process of a sandbox and returns its pid.
func (p *Process) Datapath(t testing.TB) int {
	t.Helper()
	pid := 0
	WaitFor(t, Patience, "find datapath process", func() bool {
		for _, c := range children(p.PID()) {
			if slices.Contains(commandLine(c), "__datapath") {
				pid = c
			}
		}
		return pid != 0
	})
	return pid
}

// children are the processes whose parent is pid.
func children(pid int) (all []int) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil { // gone
			continue
		}
		// The name, in parentheses, may hold anything.
		_, rest, _ := strings.Cut(string(b[strings.LastIndexByte(string(b), ')')+1:]), " ")
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(pid) {
			if c, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				all = append(all, c)
			}
		}
	}
	return all
}

func commandLine(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
}

// Descriptors is how many files a process has open.
func (r *Rig) Descriptors(t testing.TB, pid int) int {
	t.Helper()
	return len(strings.Fields(r.H.Run(t, "ls", fmt.Sprintf("/proc/%d/fd", pid))))
}

// Sandbox is a running `usernet run` whose command is a node: sockets and commands of the test can live in it.
type Sandbox struct {
	*Node
	*Process
}

// The addresses of a sandbox with default flags.
var (
	SandboxAddr4 = netip.MustParseAddr("10.0.2.100")
	SandboxAddr6 = netip.MustParseAddr("fd00::100")
	Gateway4     = netip.MustParseAddr("10.0.2.2")
	Gateway6     = netip.MustParseAddr("fd00::2")
	DNS4         = netip.MustParseAddr("10.0.2.3")
	DNS6         = netip.MustParseAddr("fd00::3")
)

// Run starts `usernet run FLAGS` and waits until its command runs. It is ended with the test.
func (r *Rig) Run(t testing.TB, flags ...string) *Sandbox {
	t.Helper()
	return runNode(t, nil, flags...)
}

func runNode(t testing.TB, env []string, flags ...string) *Sandbox {
	t.Helper()
	mine, theirs, err := sys.Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	args := slices.Concat([]string{"run"}, flags, []string{"--", nodeExe, nodeRole, "0"})
	p := startUsernet(t, env, theirs, args...)
	theirs.Close()
	sb := &Sandbox{newNode("sandbox", mine), p}
	t.Cleanup(func() { sb.Node.Close() })
	if err := sb.answers(); err != nil {
		t.Fatalf("usernet %s: its command does not answer: %v\n%s", strings.Join(args, " "), err, p.Stderr)
	}
	return sb
}

// End closes the sandbox from inside, as a command that returns, and waits.
func (sb *Sandbox) End(t testing.TB) {
	t.Helper()
	if err := sb.Node.Close(); err != nil {
		t.Error(err)
	}
	if code := sb.Exit(t); code != 0 {
		t.Errorf("sandbox ended with code %d\n%s", code, sb.Stderr)
	}
}

// Within is a context that ends with the test or after d.
func Within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
