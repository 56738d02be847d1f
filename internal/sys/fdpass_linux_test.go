package sys

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// A message whose descriptors do not fit into the process is there all the same.
func TestDescriptorsLost(t *testing.T) {
	a, b, err := Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer b.Close()
	send, err := a.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	receive, err := b.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for range 2 {
		if err := SendMessage(send, []byte("hello"), null); err != nil {
			t.Fatal(err)
		}
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, files, err := RecvMessage(receive, buf)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, ErrDescriptorsLost) || string(buf[:n]) != "hello" || len(files) != 0 {
		t.Errorf("without room: %q, %d files, %v; want the message and ErrDescriptorsLost", buf[:n], len(files), err)
	}
	n, files, err = RecvMessage(receive, buf)
	if err != nil || string(buf[:n]) != "hello" || len(files) != 1 {
		t.Fatalf("with room again: %q, %d files, %v", buf[:n], len(files), err)
	}
	files[0].Close()
}
