package registry

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/control"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
)

const (
	shimRole  = "__shim"
	otherRole = "__other"
	nobody    = 65534
)

// TestMain is also a shim that is killed, and a client of another user.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case shimRole:
			shimMain(os.Args[2])
		case otherRole:
			otherMain(os.Args[2])
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// shimMain registers a sandbox, says so and waits to be killed.
func shimMain(id string) {
	d, err := Open()
	if err == nil {
		var r *Registration
		if r, err = d.Reserve(id); err == nil {
			err = r.Serve(Entry{ShimPID: os.Getpid(), PID: 1}, newSandbox(), nil)
		}
	}
	fmt.Println("registered", err)
	select {}
}

// otherMain asks a sandbox something as another user and prints the first line of the answer.
func otherMain(socket string) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Fprint(c, "GET /v1/sandbox HTTP/1.1\r\nHost: sandbox\r\nConnection: close\r\n\r\n")
	line, err := bufio.NewReader(c).ReadString('\n')
	fmt.Print(line)
	if err != nil {
		fmt.Println(err)
	}
}

// fakeSandbox publishes in a list.
type fakeSandbox struct {
	mu    sync.Mutex
	ports []portfwd.Spec
}

func newSandbox() *fakeSandbox { return &fakeSandbox{} }

func (s *fakeSandbox) Ports() []portfwd.Spec {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]portfwd.Spec(nil), s.ports...)
}

func (s *fakeSandbox) Publish(specs []portfwd.Spec) ([]portfwd.Spec, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range specs {
		if p.HostPort == 1 {
			return nil, fmt.Errorf("listen: %w", syscall.EADDRINUSE)
		}
	}
	s.ports = append(s.ports, specs...)
	return specs, nil
}

func (s *fakeSandbox) Unpublish(specs []portfwd.Spec) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ports) == 0 {
		return control.ErrNotPublished
	}
	s.ports = nil
	return nil
}

func (s *fakeSandbox) Stats(context.Context) (spec.Stats, error) { return spec.Stats{TCPFlows: 3}, nil }
func (s *fakeSandbox) Status() control.Status {
	return control.Status{State: control.Running, PID: 42}
}

// openTest opens a runtime directory of the test's own.
func openTest(t *testing.T) *Dir {
	t.Helper()
	base := t.TempDir()
	if err := os.Chmod(base, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", base)
	d, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func serve(t *testing.T, d *Dir, id string) (*Registration, *fakeSandbox) {
	t.Helper()
	r, err := d.Reserve(id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	s := newSandbox()
	e := Entry{
		Kind: "run", ShimPID: os.Getpid(), PID: 4242, Created: time.Unix(1000, 0).UTC(),
		Addrs: []netip.Addr{netip.MustParseAddr("10.0.2.100")}, Command: []string{"sleep", "1"},
	}
	if err := r.Serve(e, s, nil); err != nil {
		t.Fatal(err)
	}
	return r, s
}

// startShim starts a process with a registered sandbox.
func startShim(t *testing.T, id string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", shimRole, id)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "registered <nil>\n" {
		t.Fatalf("shim: %q, %v", line, err)
	}
	return cmd
}

func ids(t *testing.T, d *Dir) []string {
	t.Helper()
	list, err := d.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list {
		out = append(out, e.Name)
	}
	return out
}

func exists(d *Dir, id string) bool {
	_, err := os.Lstat(filepath.Join(d.Path(), sandboxesDir, id))
	return !errors.Is(err, os.ErrNotExist)
}
