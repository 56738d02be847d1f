package portfwd

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/cnm/plumb"
)

// unread is more than a receiver's first window and less than what a sender's kernel takes.
const unread = 256 << 10

// slowToClose is f, whose connections wait, when they are closed, until what was sent has been read.
func slowToClose(t *testing.T, f *os.File) *os.File {
	t.Helper()
	rc, err := f.SyscallConn()
	if err == nil {
		err = control(rc, func(fd int) error {
			return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 3600})
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestSlowToClose: a container that makes its sockets slow to close, and whose service does not read, keeps nobody waiting.
func TestSlowToClose(t *testing.T) {
	in := new(Inside)
	defer in.Close()
	for range 2 {
		if err := in.Add(slowToClose(t, socket(t, plumb.Socket{Network: plumb.TCP4}))); err != nil {
			t.Fatal(err)
		}
	}
	over := make(chan struct{})
	defer close(over)
	port := tcpService(t, "127.0.0.1", func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 1))
		c.CloseWrite()
		<-over
	})
	r := newRig(t, &memDialer{}, nil, Limits{})
	c := dialTCP(t, r.publishAt(t, "127.0.0.1", port, lo(in)))
	_, err := c.Write(make([]byte, unread))
	if err := errors.Join(err, c.CloseWrite()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(c); err != nil {
		t.Error(err)
	}
	eventually(t, "the connection is over", func() bool { return r.Conns() == 0 })
}

// TestReverseSlowToClose: neither does a client in it.
func TestReverseSlowToClose(t *testing.T) {
	service := tcpService(t, "127.0.0.1", func(c *net.TCPConn) {
		if _, err := c.Write(make([]byte, unread)); err != nil {
			t.Error(err)
		}
	})
	ls, err := Listen([]Spec{{Proto: TCP, HostIP: loopback4, Port: service}}, true)
	if err != nil {
		t.Fatal(err)
	}
	r, s := newRig(t, nil, nil, Limits{}), ls[0].Spec
	s.Reverse = true
	if err := r.Add(s.String(), s, slowToClose(t, ls[0].File), Target{}); err != nil {
		t.Fatal(err)
	}
	c := dialTCP(t, netip.AddrPortFrom(s.HostIP, s.HostPort))
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil { // it has come
		t.Fatal(err)
	}
	eventually(t, "the connection is over", func() bool { return r.Conns() == 0 })
}
