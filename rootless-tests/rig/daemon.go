package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Daemon is a `usernet daemon` with directories of its own, and the place to run things that use it.
type Daemon struct {
	*Process
	// Runtime and State are its directories: XDG_RUNTIME_DIR and XDG_STATE_HOME. Config is XDG_CONFIG_HOME.
	Runtime, State, Config string
	flags                  []string
}

// NewDaemon makes the directories and starts nothing: the first command that needs a daemon will. What runs with
// the test's end, because commands or sandboxes started it, is ended then.
func (r *Rig) NewDaemon(t testing.TB, flags ...string) *Daemon {
	t.Helper()
	// Not t.TempDir, whose name may be too long for the address of a socket.
	dir, err := os.MkdirTemp("", "d")
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{Runtime: filepath.Join(dir, "run"), State: filepath.Join(dir, "state"), Config: filepath.Join(dir, "config"), flags: flags}
	for _, p := range []string{d.Runtime, d.State, d.Config} {
		if err := os.Mkdir(p, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		d.endOther(t)
		os.RemoveAll(dir)
	})
	return d
}

// Running is the process of the daemon, whoever started it; 0 when there is none.
func (d *Daemon) Running() int { return runningDaemon(d.Runtime) }

// endOther ends the daemon that runs, which is nobody's child.
func (d *Daemon) endOther(t testing.TB) {
	t.Helper()
	if err := endDaemon(d.Runtime); err != nil {
		t.Error(err)
	}
}

// runningDaemon is the process of the daemon of a runtime directory, or 0.
func runningDaemon(dir string) int {
	b, err := os.ReadFile(filepath.Join(dir, "usernet", "daemon.pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	// The file outlives a daemon that was killed, and the number may be another process's by now.
	if err != nil || !slices.Contains(commandLine(pid), "daemon") {
		return 0
	}
	return pid
}

// endDaemon ends the daemon of a runtime directory when there is one, and waits for it. It needs no test, whose
// context has ended when it cleans up.
func endDaemon(dir string) error {
	pid := runningDaemon(dir)
	if pid == 0 {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end daemon: %w", err)
	}
	tick, deadline := time.NewTicker(10*time.Millisecond), time.NewTimer(Patience)
	defer tick.Stop()
	defer deadline.Stop()
	for runningDaemon(dir) == pid {
		select {
		case <-tick.C:
		case <-deadline.C:
			_ = syscall.Kill(pid, syscall.SIGKILL) // it is one of these tests'
			return fmt.Errorf("end daemon: process %d goes on %v after SIGTERM", pid, Patience)
		}
	}
	return nil
}

// Daemon starts one and waits until its API answers. It is ended with the test.
func (r *Rig) Daemon(t testing.TB, flags ...string) *Daemon {
	t.Helper()
	d := r.NewDaemon(t, flags...)
	d.Start(t)
	return d
}

// Start starts the daemon, the first or after a Kill, and waits until its API answers. Sandboxes that outlived the
// last one start one, too: when theirs is first, it is told to end, after which they wait for this one.
func (d *Daemon) Start(t testing.TB) {
	t.Helper()
	d.Process = startUsernet(t, d.Env(), nil, append([]string{"daemon"}, d.flags...)...)
	WaitFor(t, Patience, "daemon answers", func() bool {
		select {
		case <-d.Done():
			if d.Running() == 0 {
				t.Fatalf("the daemon has ended:\n%s", d.Stderr)
			}
			d.endOther(t)
			d.Process = startUsernet(t, d.Env(), nil, append([]string{"daemon"}, d.flags...)...)
			return false
		default:
		}
		c, err := net.Dial("unix", d.Socket())
		if err != nil {
			return false
		}
		c.Close()
		return d.Running() == d.PID()
	})
}

// Kill ends the daemon with -9 and waits for it; not with Exit, since its datapath goes on and holds its outputs.
func (d *Daemon) Kill(t testing.TB) {
	t.Helper()
	if err := d.Cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	WaitFor(t, Patience, "end of the daemon", func() bool {
		return errors.Is(d.Cmd.Process.Signal(syscall.Signal(0)), os.ErrProcessDone)
	})
}

// Socket is where its API is.
func (d *Daemon) Socket() string { return filepath.Join(d.Runtime, "usernet", "usernet.sock") }

// Env is what makes a command use this daemon, and docker too.
func (d *Daemon) Env() []string {
	return []string{"XDG_RUNTIME_DIR=" + d.Runtime, "XDG_STATE_HOME=" + d.State, "XDG_CONFIG_HOME=" + d.Config,
		"DOCKER_HOST=unix://" + d.Socket(), "DOCKER_CONFIG=" + d.Config}
}

// Run starts `usernet run FLAGS` and waits until its command, a node, runs.
func (d *Daemon) Run(t testing.TB, flags ...string) *Sandbox {
	t.Helper()
	return runNode(t, d.Env(), flags...)
}

// Usernet starts usernet with args.
func (d *Daemon) Usernet(t testing.TB, args ...string) *Process {
	t.Helper()
	return startUsernet(t, d.Env(), nil, args...)
}

// Result is what a command said.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Command is a program, usernet or docker, that uses this daemon.
func (d *Daemon) Command(ctx context.Context, argv ...string) *exec.Cmd {
	if argv[0] == "usernet" {
		argv = slices.Concat([]string{Usernet}, argv[1:])
	}
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Dir = "/"
	c.Env = append(os.Environ(), d.Env()...)
	c.WaitDelay = 2 * time.Second
	return c
}

// Try runs a program, usernet or docker, to its end.
func (d *Daemon) Try(t testing.TB, argv ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*Patience)
	defer cancel()
	c := d.Command(ctx, argv...)
	var out, errs strings.Builder
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", strings.Join(argv, " "), err)
	}
	return Result{out.String(), errs.String(), c.ProcessState.ExitCode()}
}

// Must is Try of what must succeed; it returns the output without the last line's end.
func (d *Daemon) Must(t testing.TB, argv ...string) string {
	t.Helper()
	r := d.Try(t, argv...)
	if r.Code != 0 {
		t.Fatalf("%s: exit code %d\n%s%s", strings.Join(argv, " "), r.Code, r.Stdout, r.Stderr)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}
