package sys

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func socketpair(t testing.TB) (a, b *os.File) {
	t.Helper()
	a, b, err := Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestVectors(t *testing.T) {
	a, b := socketpair(t)
	w, err := NewVecWriter(a)
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewVecReader(b, 2)
	if err != nil {
		t.Fatal(err)
	}
	head, body := make([]byte, 4), make([]byte, 100)
	r.Set(0, head)
	r.Set(1, body)
	if _, err := r.TryRead(); err != unix.EAGAIN {
		t.Errorf("TryRead of nothing: %v", err)
	}
	first, tail := []byte("head"), [][]byte{[]byte("bo"), nil, []byte("dy")}
	if n := testing.AllocsPerRun(100, func() {
		if n, err := w.Write(first, tail); n != 8 || err != nil {
			t.Fatal(n, err)
		}
		if n, err := r.Read(); n != 8 || err != nil || string(head)+string(body[:4]) != "headbody" {
			t.Fatal(n, err, head, body)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
	for err == nil { // fill the socket: Write never waits
		_, err = w.Write(first, tail)
	}
	if err != unix.EAGAIN {
		t.Errorf("Write to a full socket: %v", err)
	}
}

func TestReadEndsOnClose(t *testing.T) {
	a, b := socketpair(t)
	r, err := NewVecReader(b, 1)
	if err != nil {
		t.Fatal(err)
	}
	r.Set(0, make([]byte, 1))
	done := make(chan error)
	go func() { _, err := r.Read(); done <- err }()
	b.Close()
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
	if _, err := r.TryRead(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("TryRead after Close: %v", err)
	}
	w, err := NewVecWriter(a)
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	if _, err := w.Write([]byte("x"), nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Write after Close: %v", err)
	}
}

func TestMessagesWithDescriptors(t *testing.T) {
	a, b := socketpair(t)
	arc, _ := a.SyscallConn()
	brc, _ := b.SyscallConn()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	lf, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer lf.Close()
	if err := SendMessage(arc, []byte("two files"), f, lf); err != nil {
		t.Fatal(err)
	}
	if err := SendMessage(arc, []byte("none")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	n, files, err := RecvMessage(brc, buf)
	if err != nil || string(buf[:n]) != "two files" || len(files) != 2 {
		t.Fatalf("RecvMessage: %q, %d files, %v", buf[:n], len(files), err)
	}
	for _, r := range files {
		defer r.Close()
		flags, err := unix.FcntlInt(r.Fd(), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s: not close-on-exec (%v)", r.Name(), err)
		}
	}
	if b, err := io.ReadAll(files[0]); err != nil || string(b) != "content" {
		t.Errorf("file: %q, %v", b, err)
	}
	if l2, err := net.FileListener(files[1]); err != nil || l2.Addr().String() != l.Addr().String() {
		t.Errorf("listener: %v", err)
	} else {
		l2.Close()
	}
	if n, files, err := RecvMessage(brc, buf); err != nil || string(buf[:n]) != "none" || len(files) != 0 {
		t.Errorf("RecvMessage: %q, %d files, %v", buf[:n], len(files), err)
	}
	a.Close()
	if _, _, err := RecvMessage(brc, buf); err != io.EOF {
		t.Errorf("after the peer's end: %v, want io.EOF", err)
	}
}

// A message that is cut must not leave descriptors behind.
func TestMessagesCut(t *testing.T) {
	a, b := socketpair(t)
	arc, _ := a.SyscallConn()
	brc, _ := b.SyscallConn()
	if err := SendMessage(arc, nil); err == nil {
		t.Error("an empty message was sent")
	}
	if err := SendMessage(arc, []byte("x"), make([]*os.File, MaxFDs+1)...); err == nil {
		t.Error("too many descriptors were sent")
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before := openFDs(t)
	if err := SendMessage(arc, []byte("longer than the buffer"), f); err != nil {
		t.Fatal(err)
	}
	if _, files, err := RecvMessage(brc, make([]byte, 4)); err == nil || files != nil {
		t.Errorf("a message that was cut: %v", err)
	}
	// More descriptors than RecvMessage takes: sent by hand.
	fd := int(f.Fd())
	fds := make([]int, MaxFDs+1)
	for i := range fds {
		fds[i] = fd
	}
	var serr error
	arc.Control(func(s uintptr) { serr = unix.Sendmsg(int(s), []byte("x"), unix.UnixRights(fds...), nil, 0) })
	if serr != nil {
		t.Fatal(serr)
	}
	if _, files, err := RecvMessage(brc, make([]byte, 4)); err == nil || files != nil {
		t.Errorf("descriptors that were cut: %v", err)
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
}

func openFDs(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func TestUnsupported(t *testing.T) {
	var err error = &UnsupportedError{Feature: "USO", Need: "Linux 6.2", Err: unix.EINVAL}
	if !errors.Is(err, errors.ErrUnsupported) || !errors.Is(err, unix.EINVAL) {
		t.Errorf("%v is not ErrUnsupported", err)
	}
	if want := "USO is not supported by this kernel; it needs Linux 6.2: invalid argument"; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
}

func TestProbes(t *testing.T) {
	for _, probe := range []func() error{ProbeUDPSegment, ProbeUDPGRO} {
		if err := probe(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			t.Error(err)
		}
	}
}

// A reader that waits holds no slices: it is told before it waits and after, also when the wait ends in an error.
func TestVecReaderParks(t *testing.T) {
	a, b, err := Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	r, err := NewVecReader(a, 1)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 8)
	var order []string
	parked := make(chan struct{}, 1)
	r.Set(0, buf)
	r.OnPark(func() {
		order = append(order, "park")
		parked <- struct{}{}
	}, func() {
		order = append(order, "unpark")
		r.Set(0, buf)
	})
	write := func(s string) {
		t.Helper()
		if _, err := b.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	write("1")
	if n, err := r.Read(); n != 1 || err != nil || len(order) != 0 || r.Waited() {
		t.Fatalf("read %d, %v, %v, waited %v", n, err, order, r.Waited())
	}
	go func() { <-parked; b.WriteString("22") }()
	if n, err := r.Read(); n != 2 || err != nil || string(buf[:2]) != "22" || !r.Waited() {
		t.Fatalf("read %d, %v, waited %v", n, err, r.Waited())
	}
	if _, err := r.TryRead(); err != unix.EAGAIN {
		t.Fatalf("try: %v", err)
	}
	go func() { <-parked; a.Close() }()
	if _, err := r.Read(); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("read of a closed file: %v", err)
	}
	if got := strings.Join(order, " "); got != "park unpark park unpark" {
		t.Errorf("called %s", got)
	}
}
