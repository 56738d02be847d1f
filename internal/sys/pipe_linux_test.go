package sys

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// pairFD is two joined sockets that do not block.
func pairFD(t *testing.T) (a, b int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return fds[0], fds[1]
}

// TestPipe: what is filled in is drained, nothing is EAGAIN, the end is 0, and no room is EAGAIN with what is left.
func TestPipe(t *testing.T) {
	near, src := pairFD(t)
	dst, far := pairFD(t)
	p, err := GetPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Put()
	if n, err := p.Fill(uintptr(src)); n != 0 || err != unix.EAGAIN {
		t.Errorf("Fill of nothing: %d, %v", n, err)
	}
	if _, err := unix.Write(near, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if n, err := p.Fill(uintptr(src)); n != 5 || err != nil {
		t.Fatalf("Fill: %d, %v", n, err)
	}
	if left, err := p.Drain(uintptr(dst)); left != 0 || err != nil {
		t.Fatalf("Drain: %d left, %v", left, err)
	}
	b := make([]byte, 10)
	if n, err := unix.Read(far, b); err != nil || string(b[:n]) != "hello" {
		t.Errorf("read %q, %v", b[:n], err)
	}
	for _, err = unix.Write(dst, make([]byte, 64<<10)); err == nil; {
		_, err = unix.Write(dst, make([]byte, 64<<10))
	}
	if _, err := unix.Write(near, []byte("more")); err != nil {
		t.Fatal(err)
	}
	if n, err := p.Fill(uintptr(src)); n != 4 || err != nil {
		t.Fatalf("Fill: %d, %v", n, err)
	}
	if left, err := p.Drain(uintptr(dst)); left != 4 || err != unix.EAGAIN {
		t.Errorf("Drain without room: %d left, %v", left, err)
	}
	var got bytes.Buffer
	for left := 4; left > 0; {
		n, err := unix.Read(far, make([]byte, 1<<20))
		if err != nil {
			t.Fatalf("read after %d bytes: %v", got.Len(), err)
		}
		got.Write(make([]byte, n))
		if left, err = p.Drain(uintptr(dst)); err != nil && err != unix.EAGAIN {
			t.Fatal(err)
		}
	}
	if err := unix.Shutdown(near, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	if n, err := p.Fill(uintptr(src)); n != 0 || err != nil {
		t.Errorf("Fill at the end: %d, %v", n, err)
	}
}

// TestPipePut: an empty pipe is used again; one with bytes inside is not, so that nobody finds another's.
func TestPipePut(t *testing.T) {
	near, src := pairFD(t)
	p, err := GetPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(near, []byte("secret")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Fill(uintptr(src)); err != nil {
		t.Fatal(err)
	}
	p.Put()
	idlePipes.mu.Lock()
	kept := slices.Contains(idlePipes.list, p)
	idlePipes.mu.Unlock()
	if kept {
		t.Error("a pipe with bytes inside is kept")
	}
	empty, err := GetPipe()
	if err != nil {
		t.Fatal(err)
	}
	empty.Put()
	again, err := GetPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer again.Put()
	if again != empty {
		t.Error("an empty pipe is not used again")
	}
}

// TestDisconnect: a listening and a connected socket are fresh ones after it, and the peer is reset.
func TestDisconnect(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: l.Addr().(*net.TCPAddr).Port}
	for range 2 { // the second time shows that the first left a socket that can connect
		if err := unix.Connect(fd, to); err != nil {
			t.Fatal(err)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := Disconnect(fd); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Getpeername(fd); err != unix.ENOTCONN {
			t.Errorf("connected to somebody: %v", err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("the peer reads %v, want a reset", err)
		}
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	if err := Disconnect(fd); err != nil {
		t.Fatal(err)
	}
	if v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || v != 0 {
		t.Errorf("it listens: %d, %v", v, err)
	}
}
