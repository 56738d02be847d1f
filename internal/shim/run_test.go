package shim

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestExitCodes(t *testing.T) {
	script := filepath.Join(t.TempDir(), "noshebang")
	if err := os.WriteFile(script, []byte("echo no\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	badInterp := filepath.Join(t.TempDir(), "badinterp")
	if err := os.WriteFile(badInterp, []byte("#!/no/such\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		command []string
		code    int
		stderr  string
	}{
		{"success", []string{"true"}, 0, ""},
		{"own code", sh("exit 7"), 7, ""},
		{"own 125", sh("exit 125"), 125, ""},
		{"signal", sh("kill -9 $$"), 137, ""},
		{"term", sh("kill -15 $$"), 143, ""},
		{"not in PATH", []string{"no-such-command"}, 127, "not found in PATH"},
		{"no such file", []string{"/no/such"}, 127, "no such file"},
		{"empty", []string{""}, 127, "no such file"},
		{"not executable", []string{"/etc/passwd"}, 126, "permission denied"},
		{"directory", []string{"/etc"}, 126, "permission denied"},
		{"no interpreter", []string{badInterp}, 126, "interpreter is missing"},
		{"no first line", []string{script}, 126, "#!/bin/sh"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			code, _, stderr := run(t, testConfig{Command: tt.command})
			if code != tt.code || !strings.Contains(stderr, tt.stderr) || tt.stderr == "" && stderr != "" {
				t.Errorf("code %d, stderr %q; want %d, %q", code, stderr, tt.code, tt.stderr)
			}
		})
	}
}

func TestUsersInside(t *testing.T) {
	const caps = `; grep -E "CapEff|CapAmb|CapInh" /proc/self/status`
	own := strconv.Itoa(os.Getuid())
	tests := []struct {
		m    IDMap
		want []string
	}{
		{MapRoot, []string{"uid=0", "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000", "CapEff:\t000001ff"}},
		{MapKeep, []string{"uid=" + own, "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000", "CapEff:\t0000000000000000"}},
	}
	for _, tt := range tests {
		for _, network := range []NetworkMode{NetworkPrivate, NetworkNone, NetworkHost} {
			t.Run(string(tt.m)+"/"+string(network), func(t *testing.T) {
				t.Parallel()
				code, out, stderr := run(t, testConfig{Command: sh("id" + caps), Map: tt.m, Network: network})
				if code != 0 {
					t.Fatalf("code %d: %s", code, stderr)
				}
				for _, w := range tt.want {
					if !strings.Contains(out, w) {
						t.Errorf("no %q in:\n%s", w, out)
					}
				}
			})
		}
	}
}

// TestNoRange is what a user without subordinate ids, as the tests' one, is told.
func TestNoRange(t *testing.T) {
	code, _, stderr := run(t, testConfig{Command: []string{"true"}, Map: MapAuto})
	if code != ExitFailure || !strings.Contains(stderr, "/etc/subuid has no range for") || !strings.Contains(stderr, "usermod --add-subuids") {
		t.Errorf("code %d, stderr %q", code, stderr)
	}
}

func TestNetworks(t *testing.T) {
	const script = `for i in /sys/class/net/*; do :; done; cat /proc/net/dev | grep -c :; cat /proc/net/dev`
	_, host, _ := run(t, testConfig{Command: sh(script), Network: NetworkHost})
	own, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(own), ":"); !strings.HasPrefix(host, strconv.Itoa(n)+"\n") {
		t.Errorf("host: want %d interfaces:\n%s", n, host)
	}
	_, none, _ := run(t, testConfig{Command: sh(script), Network: NetworkNone})
	if !strings.HasPrefix(none, "1\n") || !strings.Contains(none, "lo:") {
		t.Errorf("none: want lo only:\n%s", none)
	}
	log := filepath.Join(t.TempDir(), "log")
	code, private, stderr := run(t, testConfig{Command: sh(script + "; cat /proc/net/route"), Network: NetworkPrivate, NetworkLog: log})
	if code != 0 || !strings.HasPrefix(private, "2\n") || !strings.Contains(private, "eth0:") {
		t.Errorf("private: want lo and eth0, code %d, %s:\n%s", code, stderr, private)
	}
	if !strings.Contains(private, "0202000A") {
		t.Errorf("private: no route by 10.0.2.2:\n%s", private)
	}
	noted, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(string(noted)); strings.Join(got, " ") != "attach eth0 started close" {
		t.Errorf("the network saw %q", got)
	}
}

// TestLC7Vanishes: when a sandbox has ended, however, nothing has its network namespace any more, and with that its
// interfaces are gone.
func TestLC7Vanishes(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"CMD ends": 0, "shim SIGKILL": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			// By a mark, because the kernel uses ids of namespaces again at once.
			mark := newMark(t)
			t.Setenv(mark, "1")
			s := start(t, testConfig{Network: NetworkPrivate, Command: sh("echo ready; [ " + strconv.Itoa(int(sig)) + " = 0 ] || exec sleep 1000")})
			s.line("ready")
			pids := marked(t, mark)
			if sig != 0 {
				s.signal(sig)
			}
			s.code()
			waitGone(t, pids)
			if left := marked(t, mark); len(left) != 0 {
				t.Errorf("processes %v stay", left)
			}
		})
	}
}

// TestMN1NoNetwork: a sandbox without a network has lo alone (MN1); by its pid (MN2), which leads to its namespace (MN3),
// whoever owns it gives it a pair of interfaces (MN5) with an address and a route (MN6), and runs commands there (MN8).
func TestMN1NoNetwork(t *testing.T) {
	s, pid := donorSandbox(t, testConfig{})
	wantInside(t, pid, `ip -o link | wc -l`, "1\n")
	wantInside(t, pid, `ip link add A type veth peer name B; ip link set B name eth0; ip link set A up; ip link set eth0 up
		ip address add 172.17.42.99/16 dev eth0; ip route add default via 172.17.42.1; ip -o route get 192.0.2.1 | grep -o 'via 172.17.42.1 dev eth0'`,
		"via 172.17.42.1 dev eth0\n")
	ns := fmt.Sprintf("/proc/%d/ns/net", pid)
	if code, out := execIn(t, ExecConfig{PID: pid, Command: sh("readlink /proc/self/ns/net; grep -c eth0 /proc/net/dev")}); code != 0 || !strings.HasSuffix(out, "\n1\n") {
		t.Errorf("code %d: %s", code, out)
	}
	// MN7: all of it ends with the sandbox.
	_ = s.Process.Kill()
	waitGone(t, []int{pid})
	if _, err := os.Stat(ns); err == nil {
		t.Errorf("%s is still there", ns)
	}
}

func TestNetworkFailure(t *testing.T) {
	for _, tc := range []testConfig{{FailStart: "no datapath today"}, {FailAttach: "no room today"}} {
		witness := filepath.Join(t.TempDir(), "ran")
		tc.Network, tc.Command = NetworkPrivate, []string{"touch", witness}
		code, _, stderr := run(t, tc)
		if code != ExitFailure || !strings.Contains(stderr, tc.FailStart+tc.FailAttach) {
			t.Errorf("code %d, stderr %q", code, stderr)
		}
		if _, err := os.Stat(witness); err == nil {
			t.Error("the command ran all the same")
		}
	}
}

func TestWorkdirAndHostname(t *testing.T) {
	code, out, stderr := run(t, testConfig{Command: sh("pwd; cat /proc/sys/kernel/hostname"), Dir: "/usr", Hostname: "box"})
	if code != 0 || out != "/usr\nbox\n" {
		t.Errorf("code %d, %q, %q", code, out, stderr)
	}
	if h, _ := os.Hostname(); h == "box" {
		t.Error("the host was renamed")
	}
	if code, _, stderr := run(t, testConfig{Command: []string{"true"}, Dir: "/no/such"}); code != ExitFailure || !strings.Contains(stderr, "--workdir") {
		t.Errorf("no such directory: code %d, %q", code, stderr)
	}
}

// TestDescriptors: CMD has the three of the caller and no other (LU-14).
func TestDescriptors(t *testing.T) {
	// Left open by the caller without close-on-exec, as a shell does with 5<file.
	f, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// ls adds the directory it reads.
	cmd := exec.Command("/proc/self/exe", shimRole, `{"Command":["ls","/proc/self/fd"],"Network":"private"}`)
	cmd.ExtraFiles = []*os.File{f, f, f}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Join(strings.Fields(string(out)), " ") != "0 1 2 3" {
		t.Errorf("%v: descriptors %q", err, out)
	}
}

// TestLimits: Go raises the limit of open files for itself; CMD has the caller's.
func TestLimits(t *testing.T) {
	code, out, _ := run(t, testConfig{Command: sh("ulimit -n; ulimit -c")})
	want, err := exec.Command("/bin/sh", "-c", "ulimit -n; ulimit -c").Output()
	if code != 0 || err != nil || out != string(want) {
		t.Errorf("limits %q, want %q", out, want)
	}
}

func TestEnvironmentPasses(t *testing.T) {
	t.Setenv("USERNET_TEST_WORD", "a=b c")
	_, out, _ := run(t, testConfig{Command: sh(`printf %s "$USERNET_TEST_WORD"`)})
	if out != "a=b c" {
		t.Errorf("got %q", out)
	}
}

// TestJoinOnce: what a Network broke down for is told once, though closing it says so again.
func TestJoinOnce(t *testing.T) {
	down, other := errors.New("down"), errors.New("other")
	added := fmt.Errorf("add network: %w", down)
	for _, tt := range []struct {
		err, further error
		want         string
	}{{added, down, "add network: down"}, {added, other, "add network: down\nother"}, {added, nil, "add network: down"}, {nil, other, "other"}} {
		if got := joinOnce(tt.err, tt.further); got == nil || got.Error() != tt.want {
			t.Errorf("%v and %v: %v, want %q", tt.err, tt.further, got, tt.want)
		}
	}
	if err := joinOnce(nil, nil); err != nil {
		t.Error(err)
	}
}
