package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestRegisterListClose(t *testing.T) {
	d := openTest(t)
	r, _ := serve(t, d, "web")
	e, err := d.Find(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	if e.PID != 4242 || e.Command[0] != "sleep" || !e.Created.Equal(time.Unix(1000, 0)) {
		t.Errorf("entry %+v", e)
	}
	for _, pid := range []int{4242, os.Getpid()} {
		if by, err := d.Find(t.Context(), fmt.Sprint(pid)); err != nil || by.Name != "web" {
			t.Errorf("by pid %d: %+v, %v", pid, by, err)
		}
	}
	// A short number could be how the id begins, which is random.
	for _, unknown := range []string{"other", "4242424242424242", "", "../web"} {
		if _, err := d.Find(t.Context(), unknown); !errors.Is(err, ErrNotFound) {
			t.Errorf("find %q: %v", unknown, err)
		}
	}
	for name, want := range map[string]fs.FileMode{"": fs.ModeDir | 0o700, "control.sock": fs.ModeSocket | 0o600, "state.json": 0o600, "lock": 0o600} {
		if fi, err := os.Lstat(filepath.Join(d.Path(), sandboxesDir, "web", name)); err != nil || fi.Mode() != want {
			t.Errorf("%q: %v, %v, want %v", name, fi.Mode(), err, want)
		}
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if exists(d, "web") || ids(t, d) != nil {
		t.Errorf("left: %v", ids(t, d))
	}
}

// A name has one holder, whoever comes at the same time, and a reserved one is not yet listed.
func TestReserveIsExclusive(t *testing.T) {
	d := openTest(t)
	var won atomic.Int32
	var wg sync.WaitGroup
	var kept *Registration
	for range 20 {
		wg.Go(func() {
			r, err := d.Reserve("web")
			switch {
			case err == nil:
				won.Add(1)
				kept = r
			case !errors.Is(err, ErrExists):
				t.Error(err)
			}
			// A lister must not get in the way.
			if _, err := d.List(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d won", won.Load())
	}
	if got := ids(t, d); got != nil {
		t.Errorf("listed before it serves: %v", got)
	}
	kept.Close()
	r, err := d.Reserve("web")
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
}

// What a shim killed with -9 leaves is removed by whoever looks, and its name is free.
func TestDeadAreCleaned(t *testing.T) {
	d := openTest(t)
	first, second := startShim(t, "one"), startShim(t, "two")
	if got := ids(t, d); len(got) != 2 {
		t.Fatalf("listed %v", got)
	}
	if l, err := d.Sandbox(t.Context(), "one"); err != nil || l.State != "running" || l.DatapathPID != 42 {
		t.Errorf("%+v, %v", l, err)
	}
	first.Process.Kill()
	first.Wait()
	if got := ids(t, d); !slices.Equal(got, []string{"two"}) {
		t.Errorf("listed %v", got)
	}
	if exists(d, "one") {
		t.Error("what the dead one left is still there")
	}
	second.Process.Kill()
	second.Wait()
	serve(t, d, "two") // over the remains
	if got := ids(t, d); !slices.Equal(got, []string{"two"}) {
		t.Errorf("listed %v", got)
	}
}

// What is in the directory and is no sandbox does no harm.
func TestListIgnoresStrangers(t *testing.T) {
	d := openTest(t)
	serve(t, d, "web")
	r, err := d.Reserve("broken")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for name, content := range map[string]string{"broken/state.json": `{"name":"../web"}`, ".hidden": "x", "file": "x"} {
		if err := os.WriteFile(filepath.Join(d.Path(), sandboxesDir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := ids(t, d); !slices.Equal(got, []string{"web"}) {
		t.Errorf("listed %v", got)
	}
	// A symlink out of the directory is removed, not followed.
	outside := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(d.Path(), sandboxesDir, "link")); err != nil {
		t.Fatal(err)
	}
	ids(t, d)
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("a file outside is gone: %v", err)
	}
}

// LU-07: an id that could be a path or confuse a terminal never touches the file system.
func TestCheckName(t *testing.T) {
	d := openTest(t)
	before, _ := os.ReadDir(d.Path())
	for _, id := range []string{"", ".", "..", "../../x", "a/b", "%2e%2e", "a\x00b", "a\nb", "-x", ".x", "é", strings.Repeat("x", 300)} {
		if _, err := d.Reserve(id); err == nil {
			t.Errorf("reserved %q", id)
		}
		if _, err := d.Ports(t.Context(), id); err == nil {
			t.Errorf("asked %q", id)
		}
	}
	after, _ := os.ReadDir(d.Path())
	if len(before) != len(after) {
		t.Errorf("files appeared: %v", after)
	}
	for _, id := range []string{"a", "web-1", "A_b.c", strings.Repeat("x", 64)} {
		if err := CheckName(id); err != nil {
			t.Error(err)
		}
	}
}

// LU-04: a runtime directory in which others can put things is refused and left as it is.
func TestHostileDirectories(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, base string) string{
		"relative": func(*testing.T, string) string { return "run" },
		"symlink": func(t *testing.T, base string) string {
			must(t, os.Mkdir(base+"/real", 0o700))
			must(t, os.Symlink(base+"/real", base+"/link"))
			return base + "/link"
		},
		"world-writable": func(t *testing.T, base string) string {
			must(t, os.Mkdir(base+"/d", 0o700))
			must(t, os.Chmod(base+"/d", 0o777))
			return base + "/d"
		},
		"a file": func(t *testing.T, base string) string {
			must(t, os.WriteFile(base+"/f", nil, 0o600))
			return base + "/f"
		},
		"ours is a symlink": func(t *testing.T, base string) string {
			must(t, os.Mkdir(base+"/real", 0o700))
			must(t, os.Mkdir(base+"/d", 0o700))
			must(t, os.Symlink(base+"/real", base+"/d/usernet"))
			return base + "/d"
		},
		"ours is group-writable": func(t *testing.T, base string) string {
			must(t, os.MkdirAll(base+"/d/usernet", 0o700))
			must(t, os.Chmod(base+"/d/usernet", 0o770))
			return base + "/d"
		},
		"foreign": func(t *testing.T, base string) string {
			if os.Geteuid() != 0 {
				return "/" // root's, as every other user sees it
			}
			must(t, os.Mkdir(base+"/d", 0o700))
			must(t, os.Chown(base+"/d", nobody, nobody))
			return base + "/d"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("XDG_RUNTIME_DIR", prepare(t, t.TempDir()))
			if d, err := Open(); !errors.Is(err, ErrUnsafe) {
				t.Errorf("opened %v, %v", d, err)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Without XDG_RUNTIME_DIR, or with one that is not there, the next place is taken.
func TestFallback(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(t.TempDir(), "gone"))
	d, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	defer os.Remove(d.Path())
	defer os.Remove(filepath.Join(d.Path(), sandboxesDir)) // stays when there is something in it
	uid := os.Geteuid()
	if want := []string{fmt.Sprintf("/run/user/%d/usernet", uid), fmt.Sprintf("/tmp/usernet-%d", uid)}; !slices.Contains(want, d.Path()) {
		t.Errorf("opened %s, want one of %v", d.Path(), want)
	}
}

// LU-01 with a real other user, whom only root can be beside itself: nothing, not even when the modes are opened up.
func TestOtherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		return // localhttp has the decision, and every test of this file the peer's credentials
	}
	d := openTest(t)
	serve(t, d, "web")
	socket := filepath.Join(d.Path(), sandboxesDir, "web", socketName)
	ask := func() string {
		cmd := exec.Command("/proc/self/exe", otherRole, socket)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if got := ask(); !strings.Contains(got, "permission denied") {
		t.Errorf("with the right modes: %s", got)
	}
	for p := filepath.Dir(socket); p != "/" && p != os.TempDir(); p = filepath.Dir(p) {
		must(t, os.Chmod(p, 0o755))
	}
	must(t, os.Chmod(socket, 0o666))
	if got := ask(); got != "HTTP/1.1 403 Forbidden" {
		t.Errorf("with open modes: %s", got)
	}
}

// A runtime directory deeper than a socket's address is long.
func TestLongPath(t *testing.T) {
	base := filepath.Join(t.TempDir(), strings.Repeat("x", 100))
	must(t, os.Mkdir(base, 0o700))
	t.Setenv("XDG_RUNTIME_DIR", base)
	d, err := Open()
	must(t, err)
	defer d.Close()
	r, _ := serve(t, d, "web")
	if _, err := d.Sandbox(t.Context(), "web"); err != nil {
		t.Error(err)
	}
	must(t, r.Close())
	if exists(d, "web") {
		t.Error("it is still there")
	}
}

func TestEntryRoundTrip(t *testing.T) {
	d := openTest(t)
	serve(t, d, "web")
	l, err := d.Sandbox(t.Context(), "web")
	must(t, err)
	e, err := d.Find(t.Context(), "web")
	must(t, err)
	if diff := cmp.Diff(e, l.Entry, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}
