package stack_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap/netns"
)

// TestSocket: with two sockets of the container's namespace, which this one stands for, a client on the host's loopback
// is connected from inside; anything else is refused and closed.
func TestSocket(t *testing.T) {
	n, _ := guestOf(t, func(*spec.Network) {})
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Socket("g", null); err == nil || null.Close() == nil {
		t.Errorf("a file that is no socket: %v", err)
	}
	files, err := netns.OpenSockets([]plumb.Socket{{Network: plumb.TCP4}, {Network: plumb.TCP4}, {Network: plumb.TCP4}})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Socket("nobody", files[2]); err == nil || files[2].Close() == nil {
		t.Errorf("a socket of no endpoint: %v", err)
	}
	for _, f := range files[:2] {
		if err := n.Socket("g", polled(t, f)); err != nil {
			t.Fatal(err)
		}
	}
	service, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	ls, err := portfwd.Listen([]portfwd.Spec{{
		Proto: portfwd.TCP, HostIP: netip.MustParseAddr("127.0.0.1"), Loopback: true,
		Port: service.Addr().(*net.TCPAddr).AddrPort().Port(),
	}}, false)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(ls[0].Spec.HostIP, ls[0].Spec.HostPort).String()
	if err := n.Publish("p", ls[0].Spec, ls[0].File, "g"); err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp4", at)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_ = service.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Second))
	server, err := service.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(client, "hello"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(server, b); err != nil || string(b) != "hello" {
		t.Errorf("got %q, %v", b, err)
	}
	server.Close()
}

// polled is the socket as it comes out of a message: on this process's poller.
func polled(t *testing.T, f *os.File) *os.File {
	t.Helper()
	defer f.Close()
	fd, err := dup(f)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "received")
}

func dup(f *os.File) (fd int, err error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	cerr := rc.Control(func(s uintptr) { fd, err = syscall.Dup(int(s)) })
	return fd, errors.Join(cerr, err)
}
