package control

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
)

// socketPath is where an adoptable datapath is. Not in t.TempDir, whose name may be too long for an address.
func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "datapath.sock")
}

func at(socket string) func(*Config) {
	return func(c *Config) { c.Datapath.Socket, c.claimGrace = socket, time.Hour }
}

// left is a datapath that a Control has left, and what was in it.
type left struct {
	socket string
	pid    int
	dev    *os.File // the TAP of Endpoint e in Network n
	other  *os.File
	ls     []portfwd.Listener
}

var adoptedPrefix = netip.MustParsePrefix("10.0.0.0/24")

func leave(t *testing.T, change ...func(*Config)) *left {
	t.Helper()
	l := &left{socket: socketPath(t), ls: listen(t, 80)}
	l.dev, l.other = newTAP(t)
	t.Cleanup(func() { // after the last Control has left it again
		if p, _, err := datapath.Adopt(context.Background(), datapath.Config{Socket: l.socket}); err == nil {
			p.Kill()
		}
	})
	r := newRig(t, append(change, at(l.socket))...)
	r.running()
	l.want(r)
	r.event("publish") // nothing that it tells of is left to be told to the next Control
	l.pid = r.Status().PID
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return l
}

// want asks a Control for what is there.
func (l *left) want(r *rig) {
	r.t.Helper()
	err := r.Reserve(adoptedPrefix)
	if err == nil {
		r.add("n")
		err = r.Attach("n", spec.Endpoint{ID: "e", Names: []string{"web"}}, l.dev, tapInfo)
	}
	if err == nil {
		err = r.Publish("n", "e", l.ls)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (l *left) adopt(t *testing.T, change ...func(*Config)) *rig {
	t.Helper()
	r := newRig(t, append([]func(*Config){at(l.socket)}, change...)...)
	r.running()
	if pid := r.Status().PID; pid != l.pid {
		t.Fatalf("process %d runs, %d was left", pid, l.pid)
	}
	return r
}

// FT-21: what the next Control wants and the process has costs nothing; what it wants beside comes to it; and what is
// adopted is replaced like any other process when it dies.
func TestFT21Adopt(t *testing.T) {
	l := leave(t)
	fetched, err := fetch(l.ls[0].Spec)
	if fetched != "n" || err != nil {
		t.Errorf("the port without a control says %q, %v", fetched, err)
	}
	r := l.adopt(t)
	l.want(r)
	r.attach("n", "f")
	if _, id := r.event("attach"); id != "f" {
		t.Errorf("endpoint %s is attached again", id)
	}
	if err := r.do(func(s *supervisor) error { s.dropUnclaimed(); return nil }); err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{"reserved " + adoptedPrefix.String(): 1, "endpoint e [web]": 1, "endpoint f []": 1,
		"port " + portID(l.ls[0].Spec) + " to e": 1}
	for range 2 {
		if got := r.holds("n"); !equal(got, want) {
			t.Errorf("it holds %v, want %v", got, want)
		}
		syscall.Kill(r.Status().PID, syscall.SIGKILL)
		r.state(Restarting)
		r.state(Running)
	}
	if st := r.Status(); st.Restarts != 2 || st.PID == l.pid {
		t.Errorf("status after two deaths: %+v", st)
	}
}

func equal(a, b map[string]uint64) bool {
	for k := range a {
		if a[k] != b[k] {
			return false
		}
	}
	return len(a) == len(b)
}

// An Endpoint that is wanted otherwise is replaced.
func TestAdoptedEndpointDiffers(t *testing.T) {
	l := leave(t)
	r := l.adopt(t)
	r.add("n")
	if err := r.Attach("n", spec.Endpoint{ID: "e", Strict: true}, l.dev, tapInfo); err != nil {
		t.Fatal(err)
	}
	for _, cause := range []string{"unpublish", "detach", "attach"} {
		r.event(cause)
	}
}

// What nobody claims is removed after a while.
func TestAdoptedLeftovers(t *testing.T) {
	l := leave(t)
	r := l.adopt(t, func(c *Config) { c.claimGrace = time.Millisecond })
	r.event("unpublish")
	r.event("detach")
	closeListeners(l.ls) // whose socket it was
	if _, err := fetch(l.ls[0].Spec); err == nil {
		t.Error("the port is still published")
	}
}

// An Endpoint whose interface is gone is removed at once, with its ports, when nobody has claimed it.
func TestAdoptedInterfaceGone(t *testing.T) {
	l := leave(t)
	if _, err := l.other.WriteString("e"); err != nil {
		t.Fatal(err)
	}
	r := l.adopt(t)
	r.event("unpublish")
	if _, id := r.event("detach"); id != "e" {
		t.Errorf("endpoint %s is detached", id)
	}
}

// A process of another binary is replaced by one of this.
func TestOtherBinaryIsReplaced(t *testing.T) {
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(t.TempDir(), "old")
	if err := os.WriteFile(exe, b, 0o700); err != nil {
		t.Fatal(err)
	}
	l := leave(t, func(c *Config) { c.Datapath.Exe = exe })
	r := newRig(t, at(l.socket))
	r.running()
	if r.Status().PID == l.pid {
		t.Error("it was adopted")
	}
	l.want(r)
	r.wantFetch(l.ls[0].Spec, "n")
}

// LU-02: without Endpoints nothing outlives a Control, neither process nor socket.
func TestNothingToMiss(t *testing.T) {
	socket := socketPath(t)
	r := newRig(t, at(socket))
	r.running()
	r.add("n")
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket: %v", err)
	}
}
