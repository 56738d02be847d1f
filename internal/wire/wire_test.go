package wire

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
)

type note struct {
	N    int    `json:"n"`
	Text string `json:"text,omitempty"`
}

// pair returns two Conns that are joined, with room for maxMessage bytes.
func pair(t testing.TB, maxMessage int) (a, b *Conn) {
	t.Helper()
	fa, fb, err := sys.Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	if a, err = New(fa, maxMessage); err != nil {
		t.Fatal(err)
	}
	if b, err = New(fb, maxMessage); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func tempFile(t testing.TB, content string) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	return f
}

func openFiles(t testing.TB) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

// Messages of any length keep their borders, and descriptors their order and their message.
func TestMessagesKeepTheirFiles(t *testing.T) {
	a, b := pair(t, 0)
	var files []*os.File
	for i := range MaxFiles {
		files = append(files, tempFile(t, strings.Repeat("x", i)))
	}
	for _, n := range []int{0, 1, 2, MaxFiles} {
		if err := a.Send(note{N: n, Text: strings.Repeat("y", n*500)}, files[:n]...); err != nil {
			t.Fatal(err)
		}
		var got note
		fs, err := b.Receive(&got)
		if err != nil || got.N != n || len(got.Text) != n*500 || len(fs) != n {
			t.Fatalf("sent %d files, received %+v with %d, %v", n, got, len(fs), err)
		}
		for i, f := range fs {
			if st, err := f.Stat(); err != nil || st.Size() != int64(i) {
				t.Errorf("file %d: %v, %v", i, st, err)
			}
			f.Close()
		}
	}
	if _, err := files[0].Stat(); err != nil {
		t.Errorf("the sender's file: %v", err)
	}
}

func TestBounds(t *testing.T) {
	a, b := pair(t, 100)
	if err := a.Send(note{Text: strings.Repeat("x", 100)}); err == nil || !strings.Contains(err.Error(), "at most 100") {
		t.Errorf("too long: %v", err)
	}
	if err := a.Send(func() {}); err == nil {
		t.Error("what is no JSON was sent")
	}
	f := tempFile(t, "")
	many := make([]*os.File, MaxFiles+1)
	for i := range many {
		many[i] = f
	}
	if err := a.Send(note{}, many...); err == nil {
		t.Error("too many files were sent")
	}
	// A peer that does not keep to it: the next message is not the worse for it, and no file stays.
	before := openFiles(t)
	if err := sys.SendMessage(a.rc, []byte(`{"n":1,"text":"`+strings.Repeat("x", 100)+`"}`), f, f); err != nil {
		t.Fatal(err)
	}
	if err := sys.SendMessage(a.rc, []byte(`{"n":"no number"}`), f); err != nil {
		t.Fatal(err)
	}
	if err := a.Send(note{N: 3}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"at most 100", "decode message"} {
		if _, err := b.Receive(&note{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("received %v, want %q", err, want)
		}
	}
	var got note
	if _, err := b.Receive(&got); err != nil || got.N != 3 {
		t.Errorf("afterwards: %+v, %v", got, err)
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// What was sent before the end is read before the end, even when the other side left something unread.
func TestEnd(t *testing.T) {
	a, b := pair(t, 0)
	for _, err := range []error{b.Send(note{N: 1}), a.Send(note{N: 2}), a.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var got note
	if _, err := b.Receive(&got); err != nil || got.N != 2 {
		t.Fatalf("before the end: %+v, %v", got, err)
	}
	if _, err := b.Receive(&got); !errors.Is(err, io.EOF) || !Gone(err) {
		t.Errorf("at the end: %v", err)
	}
	if err := b.Send(note{}); !Gone(err) {
		t.Errorf("send to nobody: %v", err)
	}
	if err := a.Send(note{}); !Gone(err) {
		t.Errorf("send after close: %v", err)
	}
}

func TestCloseInterruptsReceive(t *testing.T) {
	_, b := pair(t, 0)
	done := make(chan error)
	go func() { _, err := b.Receive(&note{}); done <- err }()
	b.Close()
	if err := <-done; !Gone(err) || errors.Is(err, io.EOF) {
		t.Errorf("receive: %v", err)
	}
}

// A side that does not read, or does not write, holds nobody for longer than was said.
func TestDeadlines(t *testing.T) {
	a, b := pair(t, 0)
	if err := a.SetSendDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var err error
	for n := 0; err == nil && n < 1<<20; n++ {
		err = a.Send(note{Text: strings.Repeat("x", 1000)})
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) || Gone(err) {
		t.Errorf("send: %v", err)
	}
	if err := a.SetReceiveDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Receive(&note{}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("receive: %v", err)
	}
	if err := errors.Join(a.SetReceiveDeadline(time.Time{}), b.Send(note{N: 1})); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Receive(&note{}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// Many may send at once; each message arrives whole.
func TestConcurrentSends(t *testing.T) {
	a, b := pair(t, 0)
	const senders, each = 8, 50
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for range each {
				if err := a.Send(note{N: i, Text: strings.Repeat(string(rune('a'+i)), 3000)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range senders * each {
		var got note
		if _, err := b.Receive(&got); err != nil {
			t.Fatal(err)
		}
		if got.Text != strings.Repeat(string(rune('a'+got.N)), 3000) {
			t.Fatalf("mixed: %d %.20s", got.N, got.Text)
		}
	}
	wg.Wait()
}

// A message whose descriptors this process cannot take is there without them.
func TestFilesLost(t *testing.T) {
	a, b := pair(t, 0)
	if err := a.Send(note{N: 5}, tempFile(t, "")); err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	var got note
	files, err := b.Receive(&got)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, ErrFilesLost) || got.N != 5 || len(files) != 0 {
		t.Errorf("received %+v, %d files, %v", got, len(files), err)
	}
}

// A socket with a name serves as well as a pair.
func TestUnixConn(t *testing.T) {
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := net.DialUnix("unixpacket", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(d, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(s, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := a.Send(note{N: 1}, tempFile(t, "")); err != nil {
		t.Fatal(err)
	}
	a.Close()
	var got note
	files, err := b.Receive(&got)
	if err != nil || got.N != 1 || len(files) != 1 {
		t.Fatalf("received %+v, %d files, %v", got, len(files), err)
	}
	files[0].Close()
	if _, err := b.Receive(&got); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

// FZ-17: whatever bytes come with whatever number of descriptors, Receive never panics, takes one
// message, and leaves no descriptor open beside those it returns.
func FuzzReceive(f *testing.F) {
	f.Add([]byte(`{"n":1,"text":"x"}`), uint8(1))
	f.Add([]byte(`{"n":"x"}`), uint8(3))
	f.Add([]byte(`[[[[`), uint8(0))
	f.Add([]byte(strings.Repeat("[", 300)), uint8(64))
	f.Fuzz(func(t *testing.T, msg []byte, n uint8) {
		if len(msg) == 0 || len(msg) > DefaultMaxMessage {
			return
		}
		a, b := pair(t, 200)
		// The read end of a pipe sees when the last descriptor of the write end is closed.
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		files := make([]*os.File, n%(MaxFiles+1))
		for i := range files {
			files[i] = w
		}
		if err := sys.SendMessage(a.rc, msg, files...); err != nil {
			t.Fatal(err)
		}
		w.Close()
		var got note
		fs, err := b.Receive(&got)
		if err != nil && len(fs) > 0 || err == nil && len(fs) != len(files) {
			t.Fatalf("%d files of %d, %v", len(fs), len(files), err)
		}
		closeAll(fs)
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatalf("a descriptor is still open: %v", err)
		}
		if err := a.Send(note{N: 9}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Receive(&got); err != nil || got.N != 9 {
			t.Fatalf("the next message: %+v, %v", got, err)
		}
	})
}
