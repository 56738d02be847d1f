//go:build !cgo

package confine

import (
	"fmt"
	"net"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// status reads fields of /proc/PID/status for the main thread and all others.
func status(t *testing.T, pid int) []map[string]string {
	t.Helper()
	files := []string{fmt.Sprintf("/proc/%d/status", pid)}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range tasks {
		files = append(files, fmt.Sprintf("/proc/%d/task/%s/status", pid, e.Name()))
	}
	var out []map[string]string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		m := make(map[string]string)
		for line := range strings.Lines(string(b)) {
			k, v, _ := strings.Cut(line, ":")
			m[k] = strings.TrimSpace(v)
		}
		out = append(out, m)
	}
	return out
}

// LU-17: every thread is without capabilities and filtered, and the root is empty.
func TestEnterShowsInProc(t *testing.T) {
	c := startConfined(t)
	if off := c.Report.Weakened(); off != nil {
		t.Fatalf("layers off: %q", off)
	}
	for _, s := range status(t, c.Pid) {
		for field, want := range map[string]string{
			"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
			"NoNewPrivs": "1", "Seccomp": "2",
		} {
			if s[field] != want {
				t.Errorf("thread %s: %s is %s, want %s", s["Pid"], field, s[field], want)
			}
		}
	}
	root, err := os.ReadDir(fmt.Sprintf("/proc/%d/root", c.Pid))
	if err != nil || len(root) != 0 {
		t.Errorf("root holds %v, %v; want nothing", root, err)
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", c.Pid))
	if n := strings.Count(string(mounts), "\n"); err != nil || n != 1 {
		t.Errorf("%d mounts, %v; want the root alone:\n%s", n, err, mounts)
	}
	if c.Report.NoFile == 0 {
		t.Error("no limit of open files reported")
	}
	for _, ns := range []string{"user", "mnt", "ipc", "uts", "pid"} {
		if ours, theirs := namespace(t, os.Getpid(), ns), namespace(t, c.Pid, ns); ours == theirs {
			t.Errorf("%s namespace is shared: %s", ns, ours)
		}
	}
	if ours, theirs := namespace(t, os.Getpid(), "net"), namespace(t, c.Pid, "net"); ours != theirs {
		t.Errorf("net namespace is %s, want the host's %s", theirs, ours)
	}
}

const none = "0000000000000000"

func namespace(t *testing.T, pid int, name string) string {
	t.Helper()
	s, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// LU-18: break-out calls fail, with and without namespaces around them.
func TestEnterDenies(t *testing.T) {
	for _, flags := range [][]string{nil, {"plain"}} {
		for name, got := range startConfined(t, flags...).do(t, "denied") {
			if got != "EPERM" {
				t.Errorf("%v: %s gives %s, want EPERM", flags, name, got)
			}
		}
	}
}

// With the kill switch the same call ends the process, so that tests of a datapath notice what the list lacks.
func TestKillOnDenied(t *testing.T) {
	c := startConfined(t, "kill")
	fmt.Fprintln(c.ask, "exec")
	state, err := c.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if ws := state.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGSYS {
		t.Errorf("the process: %v, want killed by SIGSYS", state)
	}
}

// What a datapath does works, and needs no call outside the list.
func TestEnterAllowsWork(t *testing.T) {
	for _, flags := range [][]string{{"kill"}, {"plain", "kill"}} {
		for name, got := range startConfined(t, flags...).do(t, "work") {
			if strings.HasPrefix(name, "ping") && got == "EACCES" {
				continue // ping_group_range; the filter would have killed
			}
			if got != "ok" {
				t.Errorf("%v: %s: %s", flags, name, got)
			}
		}
	}
}

// LU-14: nothing but what was intended is open, and what the runtime has opened for itself.
func TestEnterClosesInherited(t *testing.T) {
	c := startConfined(t)
	if !slices.Contains(c.Report.Closed, keepFDs) {
		t.Errorf("closed %v, want the stray descriptor %d among them", c.Report.Closed, keepFDs)
	}
	dir := fmt.Sprintf("/proc/%d/fd", c.Pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fd, _ := strconv.Atoi(e.Name())
		to, err := os.Readlink(dir + "/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		// The poller, and the limits of its cgroup, whose path has lost its beginning with the old root.
		runtimes := strings.HasPrefix(to, "anon_inode:[event") || strings.HasPrefix(path.Base(to), "cpu.")
		if fd >= keepFDs && !runtimes {
			t.Errorf("descriptor %d is open: %s", fd, to)
		}
	}
}

// LU-03: a foreign abstract socket cannot be reached. A confined process cannot make a unix socket in the
// first place (TestEnterDenies), so this is seen from a process that Landlock alone restricts.
func TestLandlockScopesAbstractSockets(t *testing.T) {
	l, err := net.Listen("unix", fmt.Sprintf("@usernet-test-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := runRestricted(t, l.Addr().String()); got != "EPERM" {
		t.Errorf("connect to a foreign abstract socket gives %s, want EPERM", got)
	}
}

// Without namespaces the rest is on, and the Report says what is not.
func TestEnterWithoutNamespaces(t *testing.T) {
	c := startConfined(t, "plain")
	r := c.Report
	if r.Namespaces.On || r.Root.On || r.Namespaces.Why == "" {
		t.Errorf("namespaces %+v, root %+v; want both off with a reason", r.Namespaces, r.Root)
	}
	if !r.NoNewPrivs.On || !r.Seccomp.On || !r.Landlock.On || !r.NotDumpable.On {
		t.Errorf("want the rest on: %q", r.Weakened())
	}
	for _, s := range status(t, c.Pid) {
		if s["CapEff"] != none || s["CapPrm"] != none || s["NoNewPrivs"] != "1" || s["Seccomp"] != "2" {
			t.Errorf("thread %s: CapEff %s CapPrm %s NoNewPrivs %s Seccomp %s", s["Pid"], s["CapEff"], s["CapPrm"], s["NoNewPrivs"], s["Seccomp"])
		}
	}
}

// BenchmarkStart is clone, exec and Enter until the process has reported; enter-us is Enter alone.
func BenchmarkStart(b *testing.B) {
	var enter time.Duration
	for b.Loop() {
		c := startConfined(b)
		enter += c.Report.Took
		c.Kill()
		c.Wait()
	}
	b.ReportMetric(float64(enter.Microseconds())/float64(b.N), "enter-us")
}
