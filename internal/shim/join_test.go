package shim

import (
	"encoding/json"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/usernet/usernet/cnm/plumb"
)

// donorSandbox starts a sandbox that waits, and returns its init.
func donorSandbox(t *testing.T, tc testConfig) (s *shim, pid int) {
	t.Helper()
	if tc.Command == nil {
		tc.Command = sh("echo ready; exec sleep 1000")
	}
	s = start(t, tc)
	s.line("ready")
	return s, initOf(t, s)
}

// TestDC1JoinNetwork: a sandbox in another one's network has its interfaces and addresses, and shares its ports
// (DC1); its mounts and processes are its own (DC2); the two meet on localhost (DC3).
func TestDC1JoinNetwork(t *testing.T) {
	for _, m := range []IDMap{MapRoot, MapKeep} {
		t.Run(string(m), func(t *testing.T) {
			t.Parallel()
			files := []plumb.File{{Path: "/etc/hosts", Content: "10.0.2.100\tdonor\n"}, {Path: "/etc/resolv.conf", Content: "nameserver 10.0.2.3\n"}}
			_, donor := donorSandbox(t, testConfig{Network: NetworkPrivate, Map: m, Hostname: "donor", Files: files})
			code, out, stderr := run(t, testConfig{Join: &Target{PID: donor}, Map: m, Command: sh(`
				readlink /proc/self/ns/net /proc/self/ns/uts /proc/self/ns/mnt
				cat /proc/sys/kernel/hostname /etc/hosts /etc/resolv.conf
				grep -o eth0 /proc/net/dev; ls /proc/self/fd | tr '\n' ' '; id -u; echo mine > /etc/hosts; exit 7`)})
			if code != 7 {
				t.Fatalf("exit code %d: %s", code, stderr)
			}
			lines := strings.Split(out, "\n")
			for i, ns := range []string{"net", "uts"} {
				its, err := os.Readlink("/proc/" + strconv.Itoa(donor) + "/ns/" + ns)
				if err != nil || lines[i] != its {
					t.Errorf("%s namespace %s, want the donor's %s, %v", ns, lines[i], its, err)
				}
			}
			for _, pid := range []string{strconv.Itoa(donor), "self"} {
				if its, err := os.Readlink("/proc/" + pid + "/ns/mnt"); err != nil || lines[2] == its {
					t.Errorf("mount namespace is that of %s, %v", pid, err)
				}
			}
			uid := "0"
			if m == MapKeep {
				uid = strconv.Itoa(os.Getuid())
			}
			if rest := strings.Join(lines[3:], "\n"); rest != "donor\n10.0.2.100\tdonor\nnameserver 10.0.2.3\neth0\n0 1 2 3 "+uid+"\n" {
				t.Errorf("inside:\n%s", rest)
			}
			if b, err := os.ReadFile("/proc/" + strconv.Itoa(donor) + "/root/etc/hosts"); err != nil || string(b) != files[0].Content {
				t.Errorf("the donor's file is now %q, %v", b, err)
			}
		})
	}
}

// TestDC3JoinLocalhost: what one listens on at localhost the other reaches, and a port is taken for both.
func TestDC3JoinLocalhost(t *testing.T) {
	exe := self(t)
	_, donor := donorSandbox(t, testConfig{Network: NetworkNone, Command: []string{exe, listenRole, "127.0.0.1:8080"}})
	code, out, stderr := run(t, testConfig{Join: &Target{PID: donor}, Command: []string{exe, dialRole, "127.0.0.1:8080"}})
	if code != 0 || out != "hello\n" {
		t.Errorf("dial: code %d, %q, %s", code, out, stderr)
	}
	code, out, stderr = run(t, testConfig{Join: &Target{PID: donor}, Command: []string{exe, listenRole, "127.0.0.1:8080"}})
	if code == 0 || !strings.Contains(out+stderr, "address already in use") {
		t.Errorf("listen: code %d, %q, %s", code, out, stderr)
	}
}

// TestJoinEnds: nothing of a sandbox that joined another stays, and the other one stays as it is.
func TestJoinEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		kill func(t *testing.T, s *shim)
		code int
	}{
		"shim SIGKILL": {func(t *testing.T, s *shim) { s.signal(syscall.SIGKILL) }, -9},
		"shim SIGTERM": {func(t *testing.T, s *shim) { s.signal(syscall.SIGTERM) }, 143},
		"init SIGKILL": {func(t *testing.T, s *shim) { kill(t, initOf(t, s), syscall.SIGKILL) }, ExitFailure},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, donor := donorSandbox(t, testConfig{})
			mark := newMark(t)
			s := start(t, testConfig{Join: &Target{PID: donor}, Command: family(mark)})
			s.familyUp()
			pids := waitMarked(t, mark, 6)
			tt.kill(t, s)
			if code := s.code(); code != tt.code {
				t.Errorf("exit code %d, want %d; %s", code, tt.code, s.stderr.String())
			}
			waitGone(t, pids)
			if left := marked(t, mark); len(left) != 0 {
				t.Errorf("processes %v stay", left)
			}
			if state, _, ok := readStat(donor); !ok || state == 'Z' {
				t.Error("the donor has ended, too")
			}
		})
	}
}

// TestJoinRefused: a donor that is not there, or not ours, is a clear error.
func TestJoinRefused(t *testing.T) {
	s, gone := donorSandbox(t, testConfig{})
	_ = s.Process.Kill()
	waitGone(t, []int{gone})
	for want, pid := range map[string]int{"has its sandbox ended?": gone, "permission denied": 1} {
		code, _, stderr := run(t, testConfig{Join: &Target{PID: pid}, Command: []string{"true"}})
		if code != ExitFailure || !strings.Contains(stderr, want) || !strings.Contains(stderr, "process "+strconv.Itoa(pid)) {
			t.Errorf("process %d: code %d, %q, want %q", pid, code, stderr, want)
		}
	}
}

// TestJoinExitCodes: CMD that cannot be run has the exit codes it has anywhere.
func TestJoinExitCodes(t *testing.T) {
	_, donor := donorSandbox(t, testConfig{})
	for command, want := range map[string]int{"no-such-command": 127, "/etc/passwd": 126, "false": 1} {
		if code, _, stderr := run(t, testConfig{Join: &Target{PID: donor}, Command: []string{command}}); code != want {
			t.Errorf("%s: code %d, want %d; %s", command, code, want, stderr)
		}
	}
}

// execIn runs a command in a sandbox by Exec.
func execIn(t *testing.T, cfg ExecConfig) (code int, out string) {
	t.Helper()
	if cfg.Env == nil {
		cfg.Env = os.Environ()
	}
	b, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self(t), execTestRole, string(b))
	f, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd.ExtraFiles = []*os.File{f}
	o, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(o)
}

// TestExec: another command in a sandbox sees what its CMD sees and is the same process from beginning to end.
func TestExec(t *testing.T) {
	for _, m := range []IDMap{MapRoot, MapKeep} {
		t.Run(string(m), func(t *testing.T) {
			t.Parallel()
			_, pid := donorSandbox(t, testConfig{Map: m, Network: NetworkPrivate, Hostname: "box", Dir: "/usr",
				Files: []plumb.File{{Path: "/etc/hosts", Content: "ours\n"}}})
			code, out := execIn(t, ExecConfig{PID: pid, Env: []string{"PATH=" + os.Getenv("PATH"), "A=b"}, Command: sh(
				`cat /proc/sys/kernel/hostname /etc/hosts; pwd; ls /proc/self/fd | tr '\n' ' '; grep -o eth0 /proc/net/dev; echo $A; grep CapEff /proc/self/status; exit 3`)})
			caps := "CapEff:\t0000000000000000\n"
			if m == MapRoot {
				caps = "CapEff:\t000001ff"
			}
			if code != 3 || !strings.HasPrefix(out, "box\nours\n/usr\n0 1 2 3 eth0\nb\n"+caps) {
				t.Errorf("code %d:\n%s", code, out)
			}
		})
	}
}

// TestExecExitCodes are those of docker exec.
func TestExecExitCodes(t *testing.T) {
	s, pid := donorSandbox(t, testConfig{})
	tests := []struct {
		name string
		cfg  ExecConfig
		code int
		want string
	}{
		{"own code", ExecConfig{PID: pid, Command: sh("exit 5")}, 5, ""},
		{"not found", ExecConfig{PID: pid, Command: []string{"no-such-command"}}, 127, "not found in PATH"},
		{"no such file", ExecConfig{PID: pid, Command: []string{"/no/such"}}, 127, "no such file"},
		{"not executable", ExecConfig{PID: pid, Command: []string{"/etc/passwd"}}, 126, "permission denied"},
		{"no directory", ExecConfig{PID: pid, Dir: "/no/such", Command: []string{"true"}}, ExitFailure, "--workdir"},
		{"not ours", ExecConfig{PID: 1, Command: []string{"true"}}, ExitFailure, "permission denied"},
	}
	for _, tt := range tests {
		if code, out := execIn(t, tt.cfg); code != tt.code || !strings.Contains(out, tt.want) {
			t.Errorf("%s: code %d, want %d; %s", tt.name, code, tt.code, out)
		}
	}
	_ = s.Process.Kill()
	waitGone(t, []int{pid})
	if code, out := execIn(t, ExecConfig{PID: pid, Command: []string{"true"}}); code != ExitFailure || !strings.Contains(out, "has its sandbox ended?") {
		t.Errorf("after the end: code %d, %s", code, out)
	}
}
