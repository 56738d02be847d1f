package daemon

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// systemd: its sockets are taken, by their types; it is told when the daemon is ready, reloads and ends.
func TestSystemd(t *testing.T) {
	p := home(t)
	told := notifySocket(t)
	expect := func(want string) {
		t.Helper()
		for {
			select {
			case got := <-told:
				if got == want {
					return
				}
			case <-time.After(patience):
				t.Fatalf("systemd was not told %s", want)
			}
		}
	}
	d := startCmd(t, activated(t, "unixpacket", p.Join(), "unix", p.Socket()))
	expect("READY=1")
	if err := apiClient(t, p).Ping(t.Context()); err != nil {
		t.Error(err)
	}
	joinTest(t, p).Close()
	d.signal(t, syscall.SIGHUP)
	expect("RELOADING=1")
	expect("READY=1")
	d.signal(t, syscall.SIGTERM)
	expect("STOPPING=1")
	if c := d.code(t); c != 0 {
		t.Errorf("code %d", c)
	}
	if _, err := os.Lstat(p.Socket()); err != nil {
		t.Error("systemd's socket is gone:", err)
	}
}

// Two sockets for one purpose are an error.
func TestSystemdSocketTwice(t *testing.T) {
	p := home(t)
	d := startCmd(t, activated(t, "unixpacket", p.Join(), "unixpacket", p.Join()+"2"))
	if d.code(t) == 0 || !strings.Contains(d.err.String(), "take sockets of systemd") {
		t.Errorf("a socket twice: %s", d.err.String())
	}
}

// activated is a daemon that systemd starts with sockets, each given by its network and path.
func activated(t *testing.T, sockets ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" daemon`, self(t))
	for s := range slices.Chunk(sockets, 2) {
		l, err := net.ListenUnix(s[0], &net.UnixAddr{Name: s[1], Net: s[0]})
		if err != nil {
			t.Fatal(err)
		}
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close(); f.Close() })
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	cmd.Env = append(os.Environ(), fmt.Sprint("LISTEN_FDS=", len(cmd.ExtraFiles)), "LISTEN_FDNAMES=usernet.socket:usernet.socket")
	return cmd
}

func self(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// LG2, LG3: what is logged follows the settings, at start and at SIGHUP; a file that cannot be used changes
// nothing.
func TestLG2Reload(t *testing.T) {
	p := home(t)
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(p.ConfigFile, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"log-level":"warn","userland-proxy":false}`)
	d := startReady(t, p)
	eventually(t, "the warning", func() bool { return strings.Contains(d.err.String(), "userland-proxy") })
	if strings.Contains(d.err.String(), "level=INFO") {
		t.Error("info is logged at level warn")
	}
	write(`{"debug":true,"mtu":1400}`)
	d.signal(t, syscall.SIGHUP)
	eventually(t, "the reload", func() bool { return strings.Contains(d.err.String(), "configuration reloaded\" level=debug") })
	eventually(t, "what waits", func() bool { return strings.Contains(d.err.String(), "keys=[mtu]") })
	write(`{"debug":7}`)
	d.signal(t, syscall.SIGHUP)
	eventually(t, "the complaint", func() bool { return strings.Contains(d.err.String(), "configuration not reloaded") })
	if err := apiClient(t, p).Ping(t.Context()); err != nil {
		t.Error(err)
	}
	info, err := apiClient(t, p).Info(t.Context())
	if err != nil || !info.Debug {
		t.Errorf("debug is %v, %v", info.Debug, err)
	}

	write(`{"log-format":"json"}`)
	d.signal(t, syscall.SIGTERM)
	d.code(t)
	d = startReady(t, p)
	eventually(t, "JSON", func() bool { return strings.Contains(d.err.String(), `"msg":"daemon ready"`) })
}

// A daemon that nobody uses ends after its time; a sandbox or a request keeps it.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIdleness(time.Minute)
		defer i.stop()
		expired := func() bool {
			synctest.Wait()
			select {
			case <-i.expired:
				return true
			default:
				return false
			}
		}
		i.setSandboxes(1)
		<-time.After(time.Hour)
		h := i.watch(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			i.setSandboxes(0)
			<-time.After(time.Hour)
		}))
		h.ServeHTTP(nil, nil)
		<-time.After(time.Minute - 1)
		if expired() {
			t.Error("it ends while it is used")
		}
		<-time.After(1)
		if !expired() {
			t.Error("it does not end")
		}
	})
	p := home(t)
	d := start(t, "--idle-timeout", "1ms")
	if c := d.code(t); c != 0 || !strings.Contains(d.err.String(), "nobody uses it") {
		t.Errorf("code %d", c)
	}
	if daemonPID(p) != 0 {
		t.Error("it runs")
	}
}
