package sys

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A descriptor that is kept is the same open file, outlives the first, is not on the poller and closes like any other.
func TestKeep(t *testing.T) {
	a, b, err := Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	kept, err := Keep(a)
	if err != nil {
		t.Fatal(err)
	}
	if err := kept.SetReadDeadline(time.Time{}); err == nil {
		t.Error("it is on the poller")
	}
	if err := a.SetReadDeadline(time.Time{}); err != nil {
		t.Errorf("the first is not any more: %v", err)
	}
	a.Close()
	if _, err := b.Write([]byte("x")); err != nil {
		t.Errorf("after the first was closed: %v", err)
	}
	if err := controlFD(kept, func(fd int) {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("flags %#x, %v; want close-on-exec", flags, err)
		}
	}); err != nil {
		t.Error(err)
	}
	kept.Close()
	if _, err := b.Write([]byte("x")); err == nil {
		t.Error("it is still open")
	}
	if _, err := Keep(a); err == nil {
		t.Error("kept a closed file")
	}
}
