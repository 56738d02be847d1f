package shim

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Whatever dies, nothing of the sandbox stays (FT-11).

// family is a command that leaves processes in every way a process can get away: a child, a session of
// its own, a daemon that forked twice, one that ignores signals, one stopped. They carry mark. Each
// says "up", six do, before it becomes a sleep.
func family(mark string) []string {
	return sh(fmt.Sprintf(`
		echo command $$
		export %[1]s=1
		up="echo up; exec sleep 1000"
		sh -c "$up" &
		setsid sh -c "$up" &
		(setsid sh -c "sh -c '$up' & $up" &)
		(trap "" TERM HUP INT; exec sh -c "$up") &
		sh -c 'echo up; kill -STOP $$; exec sleep 1000' &
		trap "" HUP
		wait`, mark))
}

// familyUp waits until a family is there, and returns its first process.
func (s *shim) familyUp() (command int) {
	s.t.Helper()
	command, err := strconv.Atoi(strings.Fields(s.line("command"))[1])
	if err != nil {
		s.t.Fatal(err)
	}
	for range 6 {
		s.line("up")
	}
	return command
}

// marked returns the processes that have mark in their environment. One that is in the middle of an
// execve shows none (proc(5), environ): use waitMarked for those that must be there.
func marked(t *testing.T, mark string) (pids []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && bytes.Contains(b, []byte(mark)) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// waitMarked waits until n processes have mark in their environment, and returns them.
func waitMarked(t *testing.T, mark string, n int) []int {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		pids := marked(t, mark)
		if len(pids) >= n {
			return pids
		}
		if time.Now().After(deadline) {
			t.Fatalf("only processes %v", pids)
		}
	}
}

// waitGone waits for the end of processes, five seconds in all.
func waitGone(t *testing.T, pids []int) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // gone
		}
		n := 0
		for err = unix.EINTR; err == unix.EINTR; {
			left := max(0, time.Until(deadline))
			n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		}
		unix.Close(fd)
		if err != nil || n != 1 {
			t.Errorf("process %d is still there: %v", pid, err)
		}
	}
}

// initOf finds the init of a sandbox.
func initOf(t *testing.T, s *shim) int {
	t.Helper()
	// While processes come and go the kernel's lists of children may leave one out (proc(5), children).
	for range 1000 {
		for _, p := range descendants(s.Process.Pid) {
			if p.ppid == s.Process.Pid {
				return p.pid
			}
		}
		runtime.Gosched()
	}
	t.Fatal("the shim has no child")
	return 0
}

func newMark(t *testing.T) string {
	return "USERNET_MARK_" + strconv.Itoa(os.Getpid()) + "_" + strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '_'
	}, t.Name())
}

func TestNothingStays(t *testing.T) {
	tests := []struct {
		name string
		kill func(t *testing.T, s *shim, command int)
		code int // -n: the shim itself ends by signal n
	}{
		{"shim SIGKILL", func(t *testing.T, s *shim, _ int) { s.signal(syscall.SIGKILL) }, -9},
		{"shim SIGTERM", func(t *testing.T, s *shim, _ int) { s.signal(syscall.SIGTERM) }, 143},
		{"shim SIGSEGV", func(t *testing.T, s *shim, _ int) { s.signal(syscall.SIGSEGV) }, 2}, // a Go program's own end
		{"shim SIGABRT", func(t *testing.T, s *shim, _ int) { s.signal(syscall.SIGABRT) }, 2},
		{"init SIGKILL", func(t *testing.T, s *shim, _ int) { kill(t, initOf(t, s), syscall.SIGKILL) }, ExitFailure},
		{"command SIGKILL", func(t *testing.T, _ *shim, command int) { kill(t, command, syscall.SIGKILL) }, 137},
		{"both SIGKILL, init first", func(t *testing.T, s *shim, _ int) {
			// The shim cannot act on it any more: it is stopped.
			s.signal(syscall.SIGSTOP)
			kill(t, initOf(t, s), syscall.SIGTERM) // dropped
			s.signal(syscall.SIGKILL)
		}, -9},
	}
	for _, tt := range tests {
		for _, network := range []NetworkMode{NetworkNone, NetworkHost} {
			t.Run(tt.name+"/"+string(network), func(t *testing.T) {
				t.Parallel()
				mark := newMark(t)
				s := start(t, testConfig{Command: family(mark), Network: network})
				command := s.familyUp()
				pids := waitMarked(t, mark, 6)
				all := descendants(s.Process.Pid)
				tt.kill(t, s, command)
				if code := s.code(); code != tt.code {
					t.Errorf("exit code %d, want %d; %s", code, tt.code, s.stderr.String())
				}
				for _, p := range all {
					pids = append(pids, p.pid)
				}
				waitGone(t, pids)
				if left := marked(t, mark); len(left) != 0 {
					t.Errorf("processes %v stay", left)
				}
			})
		}
	}
}

// TestHangup: the shim passes SIGHUP on and lives as long as CMD does.
func TestHangup(t *testing.T) {
	mark := newMark(t)
	s := start(t, testConfig{Command: sh("export " + mark + "=1; sleep 1000 & echo ready; wait")})
	s.line("ready")
	pids := waitMarked(t, mark, 1)
	s.signal(syscall.SIGHUP)
	if code := s.code(); code != 129 {
		t.Errorf("exit code %d, want 129", code)
	}
	waitGone(t, pids)
}

// TestForking: killing wins against a command that forks as fast as it can.
func TestForking(t *testing.T) {
	mark := newMark(t)
	// Two generations at a time, each in a session of its own; bounded, should the test fail.
	script := "export " + mark + `=1
		echo 'i=$1; [ $i -gt 3000 ] && exit; setsid sh "$0" $((i+1)) & setsid sh -c "exit 0" & exit 0' > "$TMPDIR/` + mark + `"
		echo ready
		setsid sh "$TMPDIR/` + mark + `" 1 & setsid sh "$TMPDIR/` + mark + `" 1 &
		exec sleep 1000`
	s := start(t, testConfig{Command: sh(script)})
	s.line("ready")
	in := initOf(t, s)
	s.signal(syscall.SIGKILL)
	s.code()
	waitGone(t, []int{in})
	if left := marked(t, mark); len(left) != 0 {
		t.Errorf("processes %v stay", left)
	}
}

// TestKeepsOthers: a process that the caller had started before it became usernet is not the sandbox's.
func TestKeepsOthers(t *testing.T) {
	other := exec1(t, "sleep", "1000")
	// The shell starts a process and becomes the shim, whose child the process then is.
	s := startWith(t, testConfig{Command: []string{"true"}}, `sleep 1000 >/dev/null 2>&1 & echo other $!; exec "$@"`)
	pid, err := strconv.Atoi(strings.Fields(s.line("other"))[1])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(t, pid, syscall.SIGKILL) })
	if code := s.code(); code != 0 {
		t.Errorf("exit code %d: %s", code, s.stderr.String())
	}
	for _, p := range []int{pid, other} {
		if state, _, ok := readStat(p); !ok || state == 'Z' {
			t.Errorf("process %d was ended", p)
		}
	}
}

func (s *shim) signal(sig syscall.Signal) {
	s.t.Helper()
	kill(s.t, s.Process.Pid, sig)
}

func kill(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
}
