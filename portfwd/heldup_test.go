package portfwd

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/cnm/plumb"
)

// heldSockets are an Inside and the descriptors by which its container holds the two sockets too.
func heldSockets(t *testing.T) (in *Inside, fds []int) {
	t.Helper()
	in = &Inside{patience: 10 * time.Millisecond}
	for range 2 {
		f := socket(t, plumb.Socket{Network: plumb.TCP4})
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
		if err := in.Add(f); err != nil {
			t.Fatal(err)
		}
	}
	return in, fds
}

// TestInsideHeldUp: a container that makes calls with its sockets block holds up neither a connection nor Close for long.
func TestInsideHeldUp(t *testing.T) {
	in, fds := heldSockets(t)
	for _, fd := range fds {
		defer unix.Close(fd)
		if err := unix.SetNonblock(fd, false); err != nil {
			t.Fatal(err)
		}
	}
	// There is nothing to accept before there are data, which nobody sends.
	if err := unix.SetsockoptInt(fds[0], unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 3600); err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 2)
	for range cap(errs) {
		go func() {
			_, err := in.Dial(context.Background(), netip.AddrPortFrom(loopback4, 9))
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err == nil {
			t.Error("connected")
		}
	}
	in.Close() // what it says depends on how far the wait is
}

// TestInsideSlowToClose: nor does one whose socket, when it is closed, waits for what was sent to be read.
func TestInsideSlowToClose(t *testing.T) {
	in, fds := heldSockets(t)
	over := make(chan struct{})
	port := tcpService(t, "127.0.0.1", func(*net.TCPConn) { <-over })
	defer close(over)
	if err := ignoreInProgress(unix.Connect(fds[1], sockaddr(netip.AddrPortFrom(loopback4, port)))); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptLinger(fds[1], unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 3600}); err != nil {
		t.Fatal(err)
	}
	for b, err := make([]byte, 64<<10), error(nil); err != unix.EAGAIN; {
		if _, err = unix.Write(fds[1], b); err != nil && err != unix.EAGAIN {
			t.Fatal(err)
		}
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	in.makers[0].patience = time.Hour
	if err := in.Close(); err != nil {
		t.Error(err)
	}
}
