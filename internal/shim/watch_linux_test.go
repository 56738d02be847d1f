package shim

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestConcerns: what happens to others in the directory is no reason to look at the path; what happens to it or to the directory is.
func TestConcerns(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	ns, other := filepath.Join(dir, "ns"), filepath.Join(dir, "ns-2")
	touch := func(path string) error { return os.WriteFile(path, nil, 0o600) }
	for _, step := range []struct {
		name string
		do   func() error
		want bool
	}{
		{"another is made", func() error { return touch(other) }, false},
		{"another is removed", func() error { return os.Remove(other) }, false},
		{"it is replaced", func() error { return os.Rename(other, ns) }, true},
		{"it is moved away", func() error { return os.Rename(ns, other) }, true},
		{"it is removed", func() error { return os.Remove(ns) }, true},
		{"the directory is removed", func() error { return os.RemoveAll(dir) }, true},
	} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := touch(ns); err != nil {
			t.Fatal(err)
		}
		if step.name != "another is made" {
			if err := touch(other); err != nil {
				t.Fatal(err)
			}
		}
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.InotifyAddWatch(fd, dir, watchedEvents); err != nil {
			t.Fatal(err)
		}
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		n, err := unix.Read(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		if got := concerns(buf[:n], filepath.Base(ns)); got != step.want {
			t.Errorf("%s: looked at again: %v", step.name, got)
		}
		unix.Close(fd)
	}
}
