package store

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/proctest"
)

// FT-09: the disk fills up for one change and is there again for the next.
func TestFT09WriteFails(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	put(t, s, Networks, "a", "web")
	for i, device := range []string{"/dev/full", "/dev/zero"} { // the one fails to write, the other to fsync
		f, err := os.OpenFile(device, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := unix.Dup3(int(f.Fd()), int(s.db.file.Fd()), unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		if err := s.Put(Networks, "b", record{Name: "refused"}); err == nil || !strings.Contains(err.Error(), p.path) {
			t.Errorf("%s: %v", device, err)
		}
		want(t, s, Networks, map[string]string{"a": "web"})
		put(t, s, "other", "e", fmt.Sprint("after ", i))
		s = p.reopen(t, s)
		want(t, s, Networks, map[string]string{"a": "web"})
		want(t, s, "other", map[string]string{"e": fmt.Sprint("after ", i)})
	}
}

// FT-09: an fsync that fails may have written. What was refused must not come back, whether the file can be put right
// at once or not.
func TestFT09WrittenButRefused(t *testing.T) {
	p := newPlace(t)
	s := p.open(t)
	put(t, s, Networks, "a", "web")
	s.write.Lock()
	next := s.state
	raw := []byte(`{"Name":"refused"}`)
	next.digest.toggle(Networks, "b", raw)
	next.advance()
	if err := s.db.commit(image{Networks: {"b": raw}}, next.header); err != nil {
		t.Fatal(err)
	}
	s.dropLocked() // as after an error of that commit
	s.write.Unlock()
	want(t, s, Networks, map[string]string{"a": "web"})
	put(t, s, Networks, "c", "db")
	s = p.reopen(t, s)
	want(t, s, Networks, map[string]string{"a": "web", "c": "db"})
}

// FT-09 on a file system of its own: full for a long time, larger again, read-only.
func TestFT09SmallDisk(t *testing.T) {
	if !proctest.Inside(t, proctest.Mounts) {
		return
	}
	p := newPlace(t)
	dir := strings.TrimSuffix(p.path, "/state/networks.db")
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s := p.open(t)
	has := map[string]string{}
	fill := func(n int) (err error) {
		for i := 0; i < n && err == nil; i++ {
			key := fmt.Sprintf("%03d", len(has))
			name := strings.Repeat("x", 4000)
			if err = s.Put(Networks, key, record{Name: name}); err == nil {
				has[key] = name
			}
		}
		return err
	}
	if err := fill(100); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("full: %v after %d records", err, len(has))
	}
	for range 3 {
		if err := s.Put(Networks, "more", record{}); err != nil && !errors.Is(err, unix.ENOSPC) {
			t.Errorf("still full: %v", err)
		} else if err == nil {
			has["more"] = ""
		}
		want(t, s, Networks, has)
	}
	s = p.reopen(t, s)
	want(t, s, Networks, has)

	if err := unix.Mount("none", dir, "tmpfs", unix.MS_REMOUNT, "size=4m"); err != nil {
		t.Fatal(err)
	}
	if err := fill(20); err != nil {
		t.Errorf("with room again: %v", err)
	}
	s = p.reopen(t, s)
	want(t, s, Networks, has)

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(p.path, nil); !errors.Is(err, unix.EROFS) {
		t.Errorf("read-only: %v", err)
	}
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	want(t, p.open(t), Networks, has)
}
