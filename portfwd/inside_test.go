package portfwd

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/tap/netns"
)

// inside has sockets of this namespace, which stands for a container's.
func inside(t *testing.T) *Inside {
	t.Helper()
	in := new(Inside)
	for _, n := range []plumb.SocketNetwork{plumb.TCP4, plumb.TCP4, plumb.TCP6, plumb.TCP6} {
		if err := in.Add(socket(t, plumb.Socket{Network: n})); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := in.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return in
}

// socket makes one as it comes out of a message: on this process's poller.
func socket(t *testing.T, s plumb.Socket) *os.File {
	t.Helper()
	files, err := netns.OpenSockets([]plumb.Socket{s})
	if err != nil {
		t.Fatal(err)
	}
	defer files[0].Close()
	fd, err := unix.FcntlInt(files[0].Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "received")
}

// lo is a container whose addresses are this host's loopback.
func lo(in *Inside) Target {
	return Target{Addr4: addr("127.0.0.1"), Addr6: addr("::1"), Inside: in}
}

// publishAt publishes a port of the container for clients on the host's loopback.
func (r *rig) publishAt(t *testing.T, host string, port uint16, to Target) netip.AddrPort {
	t.Helper()
	ls, err := Listen([]Spec{{Proto: TCP, HostIP: addr(host), Port: port}}, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Add(ls[0].Spec.String(), ls[0].Spec, ls[0].File, to); err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(ls[0].Spec.HostIP, ls[0].Spec.HostPort)
}

// TestSplice: a client on the host's loopback is connected from inside the container, without the Dialer; much
// arrives whole in both directions at once, and each direction ends by itself.
func TestSplice(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		d := &memDialer{}
		r := newRig(t, d, nil, Limits{})
		c := dialTCP(t, r.publishAt(t, host, tcpService(t, host, echo), lo(inside(t))))
		sent := make([]byte, 10<<20)
		rand.Read(sent)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Write(sent); err != nil {
				t.Errorf("%s: Write: %v", host, err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Errorf("%s: CloseWrite: %v", host, err)
			}
		})
		got, err := io.ReadAll(c)
		wg.Wait()
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%s: %d of %d bytes came back, or others; %v", host, len(got), len(sent), err)
		}
		if n := len(d.calls()); n != 0 {
			t.Errorf("%s: the Dialer was asked %d times", host, n)
		}
		eventually(t, "the connection is over", func() bool { return r.Conns() == 0 && r.Spliced() == 0 })
	}
}

// TestSpliceHalfClose: whichever side ends first, the other goes on for as long as it likes.
func TestSpliceHalfClose(t *testing.T) {
	for name, service := range map[string]func(*net.TCPConn){
		"service first": func(c *net.TCPConn) {
			io.WriteString(c, "bye")
			c.CloseWrite()
			if b, err := io.ReadAll(c); err != nil || string(b) != "still here" {
				t.Errorf("the service got %q, %v", b, err)
			}
		},
		"client first": func(c *net.TCPConn) {
			if b, err := io.ReadAll(c); err != nil || string(b) != "still here" {
				t.Errorf("the service got %q, %v", b, err)
			}
			io.WriteString(c, "bye")
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, &memDialer{}, nil, Limits{})
			c := dialTCP(t, r.publishAt(t, "127.0.0.1", tcpService(t, "127.0.0.1", service), lo(inside(t))))
			if name == "client first" {
				io.WriteString(c, "still here")
				c.CloseWrite()
			}
			if b, err := io.ReadAll(c); err != nil || string(b) != "bye" {
				t.Errorf("the client got %q, %v", b, err)
			}
			if name == "service first" {
				io.WriteString(c, "still here")
			}
			c.Close()
		})
	}
}

// TestSpliceReset: a reset of either side reaches the other, also after that side has ended its own direction.
func TestSpliceReset(t *testing.T) {
	for _, ended := range []bool{false, true} {
		// Of the client, seen by the service.
		seen := make(chan error, 1)
		ready := make(chan struct{})
		service := tcpService(t, "127.0.0.1", func(c *net.TCPConn) {
			b := make([]byte, 1)
			io.ReadFull(c, b)
			if ended {
				io.ReadAll(c)
			}
			close(ready)
			for {
				// Its writes fail when the reset has come, its reads too.
				if _, err := c.Write(b); err != nil {
					seen <- err
					return
				}
			}
		})
		r := newRig(t, &memDialer{}, nil, Limits{})
		c := dialTCP(t, r.publishAt(t, "127.0.0.1", service, lo(inside(t))))
		io.WriteString(c, "x")
		if ended {
			c.CloseWrite()
		}
		<-ready
		c.SetLinger(0)
		c.Close()
		if err := <-seen; !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
			t.Errorf("after the client's reset the service got %v", err)
		}
		eventually(t, "the connection is over", func() bool { return r.Conns() == 0 })

		// Of the service, seen by the client, which only listens.
		c = dialTCP(t, r.publishAt(t, "127.0.0.1", tcpService(t, "127.0.0.1", func(c *net.TCPConn) {
			io.ReadFull(c, make([]byte, 1))
			if ended {
				io.ReadAll(c)
			}
			c.SetLinger(0)
		}), lo(inside(t))))
		io.WriteString(c, "x")
		if ended {
			c.CloseWrite()
		}
		if b, err := io.ReadAll(c); err == nil {
			t.Errorf("after the service's reset the client got %q and the end", b)
		}
	}
}

// TestSpliceRemove: when the port is no longer published its connections are reset, idle ones too.
func TestSpliceRemove(t *testing.T) {
	r := newRig(t, &memDialer{}, nil, Limits{})
	to := lo(inside(t))
	service := tcpService(t, "127.0.0.1", echo)
	at := r.publishAt(t, "127.0.0.1", service, to)
	c := dialTCP(t, at)
	io.WriteString(c, "x")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if n := r.Spliced(); n != 1 {
		t.Errorf("%d connections are spliced", n)
	}
	if err := r.Remove((Spec{Proto: TCP, HostIP: at.Addr(), HostPort: at.Port(), Port: service}).String()); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err == nil {
		t.Errorf("got %q and the end, want a reset", b)
	}
}

// TestSpliceElsewhere: what cannot be spliced goes through the Dialer: a container without sockets, with one of a
// pair only, one that refuses its own address, a client that is not on loopback, and too many descriptors.
func TestSpliceElsewhere(t *testing.T) {
	half := new(Inside)
	if err := half.Add(socket(t, plumb.Socket{Network: plumb.TCP4})); err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	port := tcpService(t, "127.0.0.1", echo)
	for name, tt := range map[string]struct {
		in     *Inside
		port   uint16
		limits Limits
	}{
		"none at hand": {new(Inside), port, Limits{}},
		"no Inside":    {nil, port, Limits{}},
		"one socket":   {half, port, Limits{}},
		"refused":      {inside(t), silentPort(t), Limits{}},
		"limit":        {inside(t), port, Limits{Conns: spliceCost}},
	} {
		t.Run(name, func(t *testing.T) {
			d := &memDialer{serve: echo}
			r := newRig(t, d, nil, tt.limits)
			to := lo(tt.in)
			to.Addr6 = netip.Addr{}
			c := dialTCP(t, r.publishAt(t, "127.0.0.1", tt.port, to))
			io.WriteString(c, "x")
			c.CloseWrite()
			if b, err := io.ReadAll(c); err != nil || string(b) != "x" {
				t.Errorf("got %q, %v", b, err)
			}
			if n := len(d.calls()); n != 1 {
				t.Errorf("the Dialer was asked %d times", n)
			}
		})
	}
}

// dialInside dials for who wants to read and write.
func dialInside(t *testing.T, in *Inside, to netip.AddrPort) (*net.TCPConn, error) {
	c, err := in.Dial(t.Context(), to)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	nc, err := net.FileConn(c.file.(*os.File))
	if err != nil {
		return nil, err
	}
	return nc.(*net.TCPConn), nil
}

// TestInsideMany: connections made at the same time are all made, each by a socket of its own.
func TestInsideMany(t *testing.T) {
	in := inside(t)
	var wg sync.WaitGroup
	port := tcpService(t, "127.0.0.1", echo)
	for range 8 {
		wg.Go(func() {
			for range 20 {
				c, err := dialInside(t, in, netip.AddrPortFrom(loopback4, port))
				if err != nil {
					t.Errorf("Dial: %v", err)
					return
				}
				io.WriteString(c, "x")
				c.CloseWrite()
				if b, err := io.ReadAll(c); err != nil || string(b) != "x" {
					t.Errorf("got %q, %v", b, err)
				}
				c.Close()
			}
		})
	}
	wg.Wait()
}

// TestInsideHostile: what a container may give in place of a socket is refused by name and closed, and nothing else changes.
func TestInsideHostile(t *testing.T) {
	raw := func(domain, kind, proto int) *os.File {
		fd, err := unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fd), "hostile")
	}
	file := func(path string) *os.File {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	blocking := raw(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err := unix.SetNonblock(int(blocking.Fd()), false); err != nil {
		t.Fatal(err)
	}
	in := new(Inside)
	defer in.Close()
	for want, f := range map[string]*os.File{
		"socket operation on non-socket": file(os.DevNull),
		"its type is 2":                  socket(t, plumb.Socket{Network: plumb.UDP4}),
		"its family is 1":                raw(unix.AF_UNIX, unix.SOCK_STREAM, 0),
		"it blocks":                      blocking,
	} {
		if err := in.Add(f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Add: %v, want %q", err, want)
		}
		if _, err := f.Stat(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: it stays open", want)
		}
	}
	for i := range 3 {
		err := in.Add(socket(t, plumb.Socket{Network: plumb.TCP4}))
		if (err == nil) != (i < 2) {
			t.Errorf("socket %d of a family: %v", i+1, err)
		}
	}
}

// TestInsideLeft: sockets in the state in which a datapath was killed, listening and connected, are as good as new.
func TestInsideLeft(t *testing.T) {
	port := tcpService(t, "127.0.0.1", echo)
	in := new(Inside)
	defer in.Close()
	caller := socket(t, plumb.Socket{Network: plumb.TCP4})
	if err := ignoreInProgress(unix.Connect(int(caller.Fd()), &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(port)})); err != nil {
		t.Fatal(err)
	}
	listener := socket(t, plumb.Socket{Network: plumb.TCP4})
	if err := unix.Listen(int(listener.Fd()), 1); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*os.File{listener, caller} {
		if err := in.Add(f); err != nil {
			t.Fatal(err)
		}
	}
	c, err := in.Dial(t.Context(), netip.AddrPortFrom(loopback4, port))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// TestInsideInterfered: a container that plays with the sockets it has given makes connections from inside fail, and
// nothing worse: the next is not even tried.
func TestInsideInterfered(t *testing.T) {
	port := tcpService(t, "127.0.0.1", echo)
	for name, play := range map[string]func(listener, caller int) error{
		"listener bound": func(l, _ int) error { return unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 3, 3, 3}}) },
		"caller connected": func(_, c int) error {
			return ignoreInProgress(unix.Connect(c, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(port)}))
		},
		"caller listens": func(_, c int) error { return unix.Listen(c, 1) },
	} {
		in, fds := heldSockets(t)
		for _, fd := range fds {
			defer unix.Close(fd)
		}
		if err := play(fds[0], fds[1]); err != nil {
			t.Fatal(err)
		}
		if c, err := in.Dial(context.Background(), netip.AddrPortFrom(loopback4, port)); err == nil {
			t.Errorf("%s: connected", name)
			c.Close()
		}
		if _, err := in.Dial(context.Background(), netip.AddrPortFrom(loopback4, port)); !errors.Is(err, errNotInside) {
			t.Errorf("%s, again: %v", name, err)
		}
		if err := in.Close(); err != nil {
			t.Errorf("%s: Close: %v", name, err)
		}
		if err := in.Add(socket(t, plumb.Socket{Network: plumb.TCP4})); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: Add after Close: %v", name, err)
		}
	}
}

func ignoreInProgress(err error) error {
	if errors.Is(err, unix.EINPROGRESS) {
		return nil
	}
	return err
}
