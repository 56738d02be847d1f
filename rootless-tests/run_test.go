package rootlesstests

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/rootless-tests/rig"
)

// The exit code of run is CMD's own, or says which kind of failure it was.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	notExecutable := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(notExecutable, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		code int
		args []string
	}{
		{0, []string{"--", "true"}},
		{7, []string{"--", "sh", "-c", "exit 7"}},
		{125, []string{"--", "sh", "-c", "exit 125"}},
		{128 + 15, []string{"--", "sh", "-c", "kill -TERM $$"}},
		{128 + 9, []string{"--", "sh", "-c", "kill -KILL $$"}},
		{126, []string{"--", notExecutable}},
		{126, []string{"--", "/"}},
		{127, []string{"--", "no-such-command"}},
		{127, []string{"--", "/no/such/command"}},
		{125, []string{"--no-such-flag", "--", "true"}},
		{125, []string{"--publish", "rubbish", "--", "true"}},
		{125, []string{"--network", "web", "--", "true"}},
		{125, []string{"--outbound-addr", "192.0.2.1", "--", "true"}},
		{125, []string{"--workdir", "/no/such/dir", "--", "true"}},
		{125, nil},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			t.Parallel()
			code, out, message := usernet(t, r, append([]string{"run"}, tt.args...)...)
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if ours := tt.code == 126 || tt.code == 127 || !slices.Contains(tt.args, "sh") && tt.code == 125; ours != (message != "") {
				t.Errorf("message %q", message)
			}
			if out != "" {
				t.Errorf("output %q", out)
			}
		})
	}
}

// SIGTERM to the shim reaches CMD, which decides; the code tells. SIGINT, SIGHUP and SIGUSR1 do as well.
func TestSignals(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			for _, tt := range []struct {
				script string
				code   int
			}{
				{"echo ready; exec sleep 1000", 128 + int(sig)},
				{"trap 'exit 3' HUP INT TERM USR1; echo ready; while :; do read x; done", 3},
			} {
				// A pipe, so that read waits.
				in, w, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				defer in.Close()
				defer w.Close()
				p := r.Usernet(t, in, "run", "--", "sh", "-c", tt.script)
				rig.WaitFor(t, rig.Patience, "CMD", func() bool { return strings.Contains(p.Stdout.String(), "ready") })
				pids := append(below(p.PID()), p.PID())
				if err := p.Cmd.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
				if code := p.Exit(t); code != tt.code {
					t.Errorf("%s: exit code %d, want %d", tt.script, code, tt.code)
				}
				rig.WaitFor(t, rig.Patience, "end of all processes", func() bool { return !slices.ContainsFunc(pids, alive) })
			}
		})
	}
}

// --network none has lo and nothing else; --network host is the host's, without a datapath.
func TestNetworks(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	none := r.Run(t, "--network", "none")
	if out := none.Run(t, "ip", "-o", "link"); strings.Count(out, "\n") != 1 || !strings.Contains(out, "lo:") || !strings.Contains(out, "UP") {
		t.Errorf("interfaces with --network none: %s", out)
	}
	if _, err := none.Dial(rig.Within(t, rig.Patience), "tcp", at(rig.X1v4, 80)); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("connection with --network none: %v", err)
	}
	host := r.Run(t, "--network", "host")
	for _, sb := range []*rig.Sandbox{none, host} {
		for _, pid := range below(sb.PID()) {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // gone is as well
			if strings.Contains(string(b), "__datapath") {
				t.Errorf("process %d is a datapath", pid)
			}
		}
	}
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if its := strings.TrimSpace(host.Run(t, "readlink", "/proc/self/ns/net")); its != own {
		t.Errorf("with --network host the network is %s, want %s", its, own)
	}
	l := r.H.ListenTCP(t, at(rig.H4, 0))
	accept(t, l, func(c *net.TCPConn) { _, _ = c.Write([]byte("host")) })
	host.DialTCP(t, addrOf(t, l.Addr()))
	none.End(t)
	host.End(t)
}

// --pcap writes what tcpdump reads, also when the datapath was replaced meanwhile.
func TestPcap(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	file := filepath.Join(t.TempDir(), "frames.pcap")
	sb := r.Run(t, "--pcap", file)
	echo := serveEcho(t, r.X1, rig.X1v4)
	wantEchoed(t, sb.DialTCP(t, echo), "first")
	old := sb.Datapath(t)
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	newDatapath(t, sb.Process, old, time.Second)
	wantEchoed(t, sb.DialTCP(t, echo), "second")
	sb.End(t)
	frames, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out, code, err := r.H.Exec(t.Context(), string(frames), "tcpdump", "-nn", "-r", "-", "tcp[tcpflags] & tcp-syn != 0")
	if err != nil || code != 0 {
		t.Fatalf("tcpdump: exit code %d, %v\n%s", code, err, out)
	}
	from, to := "IP "+rig.SandboxAddr4.String()+".", fmt.Sprintf("> %s.%d: Flags [S],", echo.Addr(), echo.Port())
	if n := strings.Count(out, to); n < 2 || !strings.Contains(out, from) {
		t.Errorf("tcpdump shows %d SYNs, want that of both connections:\n%s", n, out)
	}
}

// Whatever H's resolv.conf is, CMD has one of its own that names the network's server, and H's stays.
func TestResolvConf(t *testing.T) {
	r := rig.Start(t)
	for _, tt := range []struct{ name, link, file string }{
		{"file", "", ""},
		{"absolute link", "/run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve/stub-resolv.conf"},
		{"relative link", "../run/resolvconf/resolv.conf", "/run/resolvconf/resolv.conf"},
		{"two links", "/etc/static/resolv.conf", "/etc/static/resolv.conf"},
		{"dangling link", "/no/such/file", ""},
		{"missing", "", "-"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			keepResolvConf(t)
			const text = "nameserver 198.51.100.10\nsearch corp.example\n"
			switch {
			case tt.file == "" && tt.link == "":
				writeResolvConf(t, text)
			default:
				if err := os.Remove(rig.ResolvConf); err != nil {
					t.Fatal(err)
				}
			}
			if tt.link != "" {
				if err := os.Symlink(tt.link, rig.ResolvConf); err != nil {
					t.Fatal(err)
				}
			}
			if strings.HasPrefix(tt.file, "/") {
				putFile(t, r, tt.file, text)
			}
			sb := r.Run(t)
			got := sb.Run(t, "cat", "/etc/resolv.conf")
			if !strings.Contains(got, "nameserver 10.0.2.3\n") || strings.Contains(got, "198.51.100.10") {
				t.Errorf("inside: %q", got)
			}
			if hasSearch := tt.name != "dangling link" && tt.name != "missing"; hasSearch != strings.Contains(got, "corp.example") {
				t.Errorf("inside: %q; the host's search domain is there: %v, want %v", got, !hasSearch, hasSearch)
			}
			sb.End(t)
			if b, err := os.ReadFile(rig.ResolvConf); err == nil && string(b) != text {
				t.Errorf("H's own is now %q", b)
			}
		})
	}
}

// putFile makes a file in the tests' own view of the machine, where only root may.
func putFile(t *testing.T, r *rig.Rig, path, text string) {
	t.Helper()
	inTests := []string{"nsenter", "-t", fmt.Sprint(os.Getpid()), "-m", "sh", "-ec"}
	script := fmt.Sprintf("mkdir -p %s && cat > %s && chmod a+r %s", filepath.Dir(path), path, path)
	if out, code, err := r.H.Exec(t.Context(), text, append(inTests, script)...); err != nil || code != 0 {
		t.Fatalf("make %s: exit code %d, %v\n%s", path, code, err, out)
	}
}
