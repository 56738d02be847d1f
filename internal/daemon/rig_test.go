package daemon

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/dnsproxy"
	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/internal/proctest"
	"github.com/usernet/usernet/internal/shim/shimtest"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// Roles of the test binary.
const (
	daemonRole   = "daemon" // as in usernet, so that Ensure starts it
	datapathRole = "__datapath"
	ensureRole   = "__ensure"
	peekRole     = "__peek"
)

// TestMain runs the tests as an ordinary user, and is also the processes that they start.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case daemonRole:
			os.Exit(daemonMain(os.Args[2:]))
		case datapathRole:
			os.Exit(datapath.Main(os.Args[2:], func(*slog.Logger) datapath.Host { return fakeHost{} }))
		case ensureRole:
			fmt.Println(Ensure(context.Background(), Start{}))
			os.Exit(0)
		case peekRole:
			_, err := os.Open(os.Args[2])
			fmt.Println(err)
			os.Exit(0)
		}
	}
	os.Exit(shimtest.Main(m))
}

// daemonMain is `usernet daemon [--idle-timeout D] [--config-file F]`.
func daemonMain(args []string) int {
	o := Options{Datapath: datapath.Config{Args: []string{"usernet", datapathRole}}, Version: "1.2.3"}
	for len(args) > 1 {
		switch args[0] {
		case "--idle-timeout":
			o.IdleTimeout, _ = time.ParseDuration(args[1])
		case "--config-file":
			o.Source = Source{File: args[1], Explicit: true}
		}
		args = args[2:]
	}
	if err := Run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// fakeHost is a datapath that takes everything and moves nothing.
type fakeHost struct{}

func (fakeHost) New(spec.Network, datapath.Options) (datapath.Backend, error) {
	return &fakeBackend{files: map[string]*os.File{}}, nil
}
func (fakeHost) Reserve(...netip.Prefix) error { return nil }
func (fakeHost) Release(...netip.Prefix) error { return nil }

type fakeBackend struct{ files map[string]*os.File }

func (b *fakeBackend) Attach(ep spec.Endpoint, f *os.File, _ tap.Info) error {
	b.files[ep.ID] = f
	return nil
}
func (b *fakeBackend) Update(spec.Endpoint) error { return nil }
func (b *fakeBackend) Detach(id string) error     { return b.files[id].Close() }
func (b *fakeBackend) Publish(id string, _ portfwd.Spec, f *os.File, _ string) error {
	b.files[id] = f
	return nil
}
func (*fakeBackend) Socket(_ string, f *os.File) error { return f.Close() }
func (b *fakeBackend) Unpublish(id string) error       { return b.files[id].Close() }
func (b *fakeBackend) SetDNS(dnsproxy.Config)          {}
func (b *fakeBackend) HostChanged()                    {}
func (b *fakeBackend) Stats() spec.Stats               { return spec.Stats{Endpoints: len(b.files)} }
func (b *fakeBackend) Close() error                    { return nil }

// patience is how long a test waits for what should be there at once.
const patience = 20 * time.Second

// home makes directories of the test's own the user's, and returns their Paths.
func home(t *testing.T) Paths {
	t.Helper()
	// Not t.TempDir, whose name may be too long for the address of a socket.
	dir, err := os.MkdirTemp("", "d")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, v := range []string{"XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME"} {
		d := filepath.Join(dir, v)
		if err := os.MkdirAll(filepath.Join(d, "usernet"), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Setenv(v, d)
	}
	p, err := FindPaths()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { endDaemon(t, p) })
	return p
}

// endDaemon ends whatever daemon has been left.
func endDaemon(t *testing.T, p Paths) {
	pid := daemonPID(p)
	if pid == 0 || syscall.Kill(pid, syscall.SIGKILL) != nil {
		return
	}
	eventually(t, "the daemon's end", func() bool { return !answers(context.Background(), p) })
}

// daemonPID is the process that the lock names, 0 when it is gone.
func daemonPID(p Paths) int {
	b, err := os.ReadFile(p.pid())
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || syscall.Kill(pid, 0) != nil {
		return 0
	}
	return pid
}

// process is a daemon started by the test itself.
type process struct {
	*exec.Cmd
	err  proctest.Output // its log
	done chan struct{}   // closed when it has ended
}

// start starts a daemon and does not wait for it.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	return startCmd(t, exec.Command("/proc/self/exe", append([]string{daemonRole}, args...)...))
}

func startCmd(t *testing.T, c *exec.Cmd) *process {
	t.Helper()
	p := &process{Cmd: c, done: make(chan struct{})}
	p.Stderr = &p.err
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = c.Wait() // the tests look at its state
	}()
	t.Cleanup(func() {
		_ = c.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("daemon %d:\n%s", c.Process.Pid, p.err.String())
		}
	})
	return p
}

// code waits for the end of the process.
func (p *process) code(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatal("the daemon does not end")
	}
	return p.ProcessState.ExitCode()
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// startReady starts a daemon and waits until it answers.
func startReady(t *testing.T, p Paths, args ...string) *process {
	t.Helper()
	d := start(t, args...)
	eventually(t, "a daemon that answers", func() bool {
		select {
		case <-d.done:
			t.Fatal("the daemon has ended")
		default:
		}
		return answers(t.Context(), p)
	})
	return d
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("waited for %s", what)
		}
		<-tick.C
	}
}

// children are the processes whose parent is pid.
func children(t *testing.T, pid int) (all []int) {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // ended meanwhile
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(pid) {
			c, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			all = append(all, c)
		}
	}
	return all
}

// notifySocket is where systemd would listen; it returns what it is told, line by line.
func notifySocket(t *testing.T) <-chan string {
	t.Helper()
	path := filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", path)
	told := make(chan string, 100)
	go func() {
		defer close(told)
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			s := bufio.NewScanner(bytes.NewReader(b[:n]))
			for s.Scan() {
				told <- s.Text()
			}
		}
	}()
	t.Cleanup(func() { c.Close() })
	return told
}

// stream is what $JOURNAL_STREAM would say of a file.
func stream(fi os.FileInfo) string {
	st := fi.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}
