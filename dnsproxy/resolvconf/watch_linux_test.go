package resolvconf

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const missing = "(missing)"

// watched runs Watch on path and returns the contents it reports, in order.
func watched(t *testing.T, path string) <-chan string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan string, 100)
	var wg sync.WaitGroup
	wg.Go(func() {
		err := Watch(ctx, path, func(b []byte) {
			if b == nil {
				got <- missing
			} else {
				got <- string(b)
			}
		})
		if err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return got
}

// expect waits until the content reported is want. It is patient with a busy machine; TestPatience holds the
// promise of a second.
func expect(t *testing.T, got <-chan string, want string) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case s := <-got:
			if s == want {
				return
			}
		case <-timeout:
			t.Fatalf("%q was not reported", want)
		}
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestPatience: what Watch waits for on purpose leaves half of the promised second.
func TestPatience(t *testing.T) {
	if settle+patience > 600*time.Millisecond {
		t.Errorf("settle %v and patience %v, want 600 ms together at most", settle, patience)
	}
}

// TestWatchFile is DN-17 for a plain file.
func TestWatchFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "resolv.conf")
	got := watched(t, path)
	expect(t, got, missing)

	write(t, path, "created")
	expect(t, got, "created")
	write(t, path, "in place")
	expect(t, got, "in place")
	write(t, path+".new", "renamed over")
	do(t, os.Rename(path+".new", path))
	expect(t, got, "renamed over")
	do(t, os.Truncate(path, 0))
	expect(t, got, "")
	do(t, os.Remove(path))
	expect(t, got, missing)
	write(t, path, "back")
	expect(t, got, "back")
	do(t, os.Rename(path, path+".old"))
	expect(t, got, missing)
	do(t, os.Mkdir(path, 0o755))
	do(t, os.Remove(path))
	write(t, path, "after a directory")
	expect(t, got, "after a directory")
}

// TestWatchSymlink is DN-17 for the layouts of systemd-resolved and NixOS.
func TestWatchSymlink(t *testing.T) {
	root := t.TempDir()
	etc, run := filepath.Join(root, "etc"), filepath.Join(root, "run")
	do(t, os.Mkdir(etc, 0o755))
	do(t, os.Mkdir(run, 0o755))
	path := filepath.Join(etc, "resolv.conf")
	do(t, os.Symlink("../run/resolve/stub.conf", path))
	got := watched(t, path)
	expect(t, got, missing)

	// The daemon starts: its directory appears, then its file.
	do(t, os.Mkdir(filepath.Join(run, "resolve"), 0o755))
	target := filepath.Join(run, "resolve", "stub.conf")
	write(t, target, "daemon started")
	expect(t, got, "daemon started")
	write(t, target+".tmp", "target renamed over")
	do(t, os.Rename(target+".tmp", target))
	expect(t, got, "target renamed over")
	write(t, target, "target in place")
	expect(t, got, "target in place")

	// The symlink is swapped for another, which itself leads through a symlink to a directory.
	do(t, os.Mkdir(filepath.Join(root, "nm1"), 0o755))
	do(t, os.Mkdir(filepath.Join(root, "nm2"), 0o755))
	write(t, filepath.Join(root, "nm1", "c"), "first")
	write(t, filepath.Join(root, "nm2", "c"), "second")
	do(t, os.Symlink("nm1", filepath.Join(root, "nm")))
	do(t, os.Symlink(filepath.Join(root, "nm", "c"), path+".new"))
	do(t, os.Rename(path+".new", path))
	expect(t, got, "first")
	do(t, os.Symlink("nm2", filepath.Join(root, "nm.new")))
	do(t, os.Rename(filepath.Join(root, "nm.new"), filepath.Join(root, "nm")))
	expect(t, got, "second")
	write(t, filepath.Join(root, "nm2", "c"), "second changed")
	expect(t, got, "second changed")

	// A loop is a missing file, and not the end.
	do(t, os.Symlink(path, path+".new"))
	do(t, os.Rename(path+".new", path))
	expect(t, got, missing)
	write(t, path+".new", "plain")
	do(t, os.Rename(path+".new", path))
	expect(t, got, "plain")
}

// TestWatchBurst: a hundred changes end in the last one, and in few reports.
func TestWatchBurst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write(t, path, "old")
	got := watched(t, path)
	expect(t, got, "old")
	for i := range 100 {
		write(t, path, strconv.Itoa(i))
	}
	expect(t, got, "99")
}

// TestWatchSameContent: an event that changes nothing is not reported.
func TestWatchSameContent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write(t, path, "same")
	got := watched(t, path)
	expect(t, got, "same")
	write(t, path+".new", "same")
	do(t, os.Rename(path+".new", path))
	write(t, path+".x", "neighbour")
	write(t, path, "other")
	if s := <-got; s != "other" {
		t.Errorf("reported %q, want %q", s, "other")
	}
}

func TestWatchNoDirectory(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b", "resolv.conf")
	got := watched(t, path)
	expect(t, got, missing)
	do(t, os.MkdirAll(filepath.Dir(path), 0o755))
	write(t, path, "made")
	expect(t, got, "made")
}
