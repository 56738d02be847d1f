package pasta

import (
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/usernet/usernet/compat/pesto"
)

// startConf serves a configuration socket for a made-up namespace.
func startConf(t *testing.T, args string) (*portsRig, string) {
	t.Helper()
	r := newPortsRig()
	if err := r.start(t, args); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "pasta.sock")
	l, err := listenConf(path)
	if err != nil {
		t.Fatal(err)
	}
	s := serveConf(l, r.p, slog.New(slog.DiscardHandler))
	t.Cleanup(s.close)
	return r, path
}

// pestoRun runs the client and returns what it prints.
func pestoRun(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	code = pesto.Main(append([]string{"pesto"}, args...), nil, [3]*os.File{nil, f, f})
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return code, string(b)
}

// TestPesto: ports change while the client waits, in both directions, by podman's words.
func TestPesto(t *testing.T) {
	r, path := startConf(t, "-t 22 -T 23")
	r.want(t, "22:22/tcp, reverse 127.0.0.1:23:23/tcp, reverse [::1]:23:23/tcp")
	if code, out := pestoRun(t, "--add", "-t", "0.0.0.0/8080:10.89.0.2/80", "-u", "[::]/53:[fd00::2]/5353", path); code != 0 || out != "" {
		t.Errorf("code %d: %s", code, out)
	}
	r.want(t, "0.0.0.0:8080:80/tcp to 10.89.0.2, 22:22/tcp, [::]:53:5353/udp to fd00::2, reverse 127.0.0.1:23:23/tcp, reverse [::1]:23:23/tcp")
	if code, out := pestoRun(t, "--delete", "-t", "0.0.0.0/8080:10.89.0.2/80", "-t", "22", "-T", "23", path); code != 0 || out != "" {
		t.Errorf("code %d: %s", code, out)
	}
	r.want(t, "[::]:53:5353/udp to fd00::2")
	if code, out := pestoRun(t, path); code != 0 || !strings.Contains(out, "  HOST\n    UDP [::]:53  =>  fd00::2:5353 \n  SPLICE\n") {
		t.Errorf("code %d: %s", code, out)
	}
}

// TestPestoBusy: what cannot be is refused with the reason, and all is as it was.
func TestPestoBusy(t *testing.T) {
	r, path := startConf(t, "-t 22")
	r.net.busy[80] = true
	code, out := pestoRun(t, "--add", "-t", "81", "-t", "80", path)
	if code != 1 || !strings.HasPrefix(out, "Failed to bind port 80 (Address already in use)") {
		t.Errorf("code %d: %s", code, out)
	}
	r.want(t, "22:22/tcp")
}

// TestConfHostile: clients that say nonsense, nothing or too little do not keep others out.
func TestConfHostile(t *testing.T) {
	r, path := startConf(t, "-t 22")
	for _, nonsense := range []string{"", "\x01", "\x07\x00\x00\x00\x01", "\x01\xff\xff\xff\xff", "\x01\x00\x00\x00\x01" + strings.Repeat("x", 56), strings.Repeat("\x00", 1000)} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, nonsense); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, c) // to the end, or a reset where not all was read
		c.Close()
	}
	if code, out := pestoRun(t, path); code != 0 || !strings.Contains(out, "TCP [*]:22  =>  22") {
		t.Errorf("code %d: %s", code, out)
	}
	r.want(t, "22:22/tcp")
}

func TestListenConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pasta.sock")
	l, err := listenConf(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	if _, err := listenConf(path); err == nil || !strings.Contains(err.Error(), "already in use") {
		t.Errorf("a second one: %v", err)
	}
	// As one leaves it that was killed.
	l.SetUnlinkOnClose(false)
	l.Close()
	if l, err = listenConf(path); err != nil {
		t.Errorf("after one that was killed: %v", err)
	} else {
		l.Close()
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenConf(file); err == nil {
		t.Error("a file was taken for a socket")
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "mine" {
		t.Errorf("the file is %q, %v", b, err)
	}
}
