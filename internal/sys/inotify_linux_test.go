package sys

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What the kernel says of a directory comes out with its names, in order.
func TestInotifyEvents(t *testing.T) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	dir := t.TempDir()
	wd, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_DELETE_SELF)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "a-name-that-is-longer-than-sixteen-bytes"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	if err != nil {
		t.Fatal(err)
	}
	var got []InotifyEvent
	for e := range InotifyEvents(buf[:n]) {
		got = append(got, e)
	}
	if len(got) != 2 || got[0].Name != "a" || got[1].Name != "a-name-that-is-longer-than-sixteen-bytes" {
		t.Fatalf("events %+v", got)
	}
	for _, e := range got {
		if e.Watch != int32(wd) || e.Mask&unix.IN_CREATE == 0 {
			t.Errorf("event %+v, want IN_CREATE of watch %d", e, wd)
		}
	}
}

// Bytes that are no events, or are cut short anywhere, end the walk and nothing else.
func FuzzInotifyEvents(f *testing.F) {
	event := make([]byte, unix.SizeofInotifyEvent+16)
	event[12] = 16
	copy(event[unix.SizeofInotifyEvent:], "name")
	f.Add(event)
	f.Add(append(event, event[:20]...))
	event[15] = 0xff
	f.Add(event)
	f.Fuzz(func(t *testing.T, b []byte) {
		taken := 0
		for e := range InotifyEvents(b) {
			taken += unix.SizeofInotifyEvent + len(e.Name)
		}
		if taken > len(b) {
			t.Fatalf("%d bytes taken of %d", taken, len(b))
		}
	})
}
