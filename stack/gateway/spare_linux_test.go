package gateway

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// count is how many spares there are.
func (s *spareSockets) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.fds)
}

// loopbackSpares are those of where newOutside listens.
func loopbackSpares(w *world) *spareSockets { return w.gw.sparesFor(netip.MustParseAddr("127.0.0.1")) }

// say has the container send what, end its side, and the server answer with what it got and end its side too.
func say(t *testing.T, w *world, o *outside, to, what string) {
	t.Helper()
	c, h := pair(t, w, o, to)
	if _, err := c.Write([]byte(what)); err != nil {
		t.Fatal(err)
	}
	c.CloseWrite()
	heard, err := io.ReadAll(h)
	if err != nil || string(heard) != what {
		t.Fatalf("server heard %q, %v; want %q", heard, err, what)
	}
	if _, err := h.Write(heard); err != nil {
		t.Fatal(err)
	}
	h.Close()
	if heard, err = io.ReadAll(c); err != nil || string(heard) != what {
		t.Fatalf("container heard %q, %v; want %q", heard, err, what)
	}
	c.Close()
	waitFor(t, func() bool { return w.gw.Flows() == 0 })
}

// TestSpareSocket: a socket that has served serves the next connection, and nothing of the one before is left in it.
func TestSpareSocket(t *testing.T) {
	w, o, to, _ := loopback(t)
	spares := loopbackSpares(w)
	spares.age = time.Hour
	for _, what := range []string{"one", "two", "three"} {
		say(t, w, o, to, what)
		if n := spares.count(); n != 1 {
			t.Fatalf("%d sockets are kept after connections one after the other, want 1", n)
		}
	}
	c, h := pair(t, w, o, to)
	if n := spares.count(); n != 0 {
		t.Fatalf("%d sockets are kept while the only one is in use", n)
	}
	reset(h) // it may not be used again
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("container of a connection that was reset: %v", err)
	}
	waitFor(t, func() bool { return w.gw.Flows() == 0 })
	if n := spares.count(); n != 0 {
		t.Errorf("%d sockets are kept of a connection that was reset", n)
	}
	say(t, w, o, to, "four")
	say(t, w, o, to, "five")
	if _, err := w.dial(testContext(t), refusing(t)); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("dial a port without a listener by a socket that has served: %v, want refused", err)
	}
	if n := spares.count(); n != 0 {
		t.Errorf("%d sockets are kept of a connection that was refused", n)
	}
	w.gw.Close()
	if n := spares.count(); n != 0 {
		t.Errorf("a closed gateway keeps %d sockets", n)
	}
}

// TestSparesFor: a socket serves only destinations of its family and with its congestion control.
func TestSparesFor(t *testing.T) {
	g := new(Gateway)
	seen := make(map[*spareSockets]string)
	for _, to := range []string{"192.0.2.1", "127.0.0.1", "2001:db8::1", "::1"} {
		s := g.sparesFor(netip.MustParseAddr(to))
		if other := seen[s]; other != "" {
			t.Errorf("sockets of %s serve %s", other, to)
		}
		seen[s] = to
	}
	if g.sparesFor(netip.MustParseAddr("127.0.0.2")) != g.sparesFor(netip.MustParseAddr("127.0.0.1")) {
		t.Error("sockets of 127.0.0.1 do not serve 127.0.0.2")
	}
}

// refusing is the gateway's address of a port of the host at which nobody listens nor will, since it is taken.
func refusing(t *testing.T) (to string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(testNet.Gateway4, uint16(at.(*unix.SockaddrInet4).Port)).String()
}

// TestSpareSocketNotKept: sockets that are not like those of every connection are closed.
func TestSpareSocketNotKept(t *testing.T) {
	for name, use := range map[string]func(w *world, o *outside, to string){
		"stream":                  func(w *world, o *outside, to string) { say(t, w, o, to, string(make([]byte, chunkBytes+1))) },
		"stream by its last part": func(w *world, o *outside, to string) { lastWork(t, w, o, to) },
		"keepalive": func(w *world, o *outside, to string) {
			w.gw.young.age = 0
			c, h := pair(t, w, o, to)
			f := onlyFlow(t, w.gw)
			waitFor(t, func() bool {
				f.mu.Lock()
				defer f.mu.Unlock()
				on, err := unix.GetsockoptInt(f.fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
				return err == nil && on == 1
			})
			c.Close()
			h.Close()
			waitFor(t, func() bool { return w.gw.Flows() == 0 })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, o, to, _ := loopback(t)
			loopbackSpares(w).age = time.Hour
			use(w, o, to)
			if n := loopbackSpares(w).count(); n != 0 {
				t.Errorf("%d sockets are kept", n)
			}
		})
	}
}

// TestSpareSocketsGo: what nobody needs for a while is closed, and what is needed stays.
func TestSpareSocketsGo(t *testing.T) {
	w, o, to, _ := loopback(t)
	spares := loopbackSpares(w)
	spares.age = time.Millisecond
	say(t, w, o, to, "one")
	waitFor(t, func() bool { return spares.count() == 0 }) // the timer's doing

	// By hand from here on.
	spares.mu.Lock()
	spares.ticks, spares.age = true, time.Hour
	for range 3 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		spares.fds = append(spares.fds, fd)
	}
	w.gw.cfg.Shared.spares.Add(3)
	spares.unused = 3
	spares.mu.Unlock()
	fd := spares.take()
	if !spares.keep(fd) {
		t.Fatal("a fresh socket is not kept")
	}
	if again := spares.take(); again != fd {
		t.Errorf("take returned %d, want what was kept last, %d", again, fd)
	}
	if !spares.keep(fd) {
		t.Fatal("a fresh socket is not kept")
	}
	spares.tick()
	if n := spares.count(); n != 1 {
		t.Errorf("%d sockets are left of which one was needed", n)
	}
	if n := w.gw.cfg.Shared.spares.Load(); n != 1 {
		t.Errorf("%d sockets are counted, 1 is there", n)
	}
}

// TestSpareSocketsOfAll: many Networks do not keep more than a few of the process's descriptors.
func TestSpareSocketsOfAll(t *testing.T) {
	w, o, to, _ := loopback(t)
	loopbackSpares(w).age = time.Hour
	all := &w.gw.cfg.Shared.spares
	all.Store(maxAllSpares)
	say(t, w, o, to, "one")
	if n := loopbackSpares(w).count(); n != 0 || all.Load() != maxAllSpares {
		t.Errorf("%d sockets are kept when others have all there may be, %d are counted", n, all.Load())
	}
	all.Store(maxAllSpares - 1)
	say(t, w, o, to, "two")
	if n := loopbackSpares(w).count(); n != 1 || all.Load() != maxAllSpares {
		t.Errorf("%d sockets are kept when there may be one, %d are counted", n, all.Load())
	}
	w.gw.Close()
	if n := all.Load(); n != maxAllSpares-1 {
		t.Errorf("%d are counted when the gateway is closed, want %d", n, maxAllSpares-1)
	}
}

// lastWork has a flow learn of its last data and of its end at once.
func lastWork(t *testing.T, w *world, o *outside, to string) {
	t.Helper()
	c, h := pair(t, w, o, to)
	c.CloseWrite()
	if _, err := io.ReadAll(h); err != nil {
		t.Fatal(err)
	}
	part := make([]byte, chunkBytes*2/3)
	give := func() {
		if _, err := h.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	give()
	if _, err := io.ReadFull(c, part); err != nil {
		t.Fatal(err)
	}
	f := onlyFlow(t, w.gw)
	f.mu.Lock()
	give()
	h.Close()
	waitFor(t, func() bool {
		n, err := queued(f.fd)
		return err == nil && n >= len(part) && news(f.news.Load())&newsHostEnd != 0
	})
	f.mu.Unlock()
	f.work(newsHostData)
	waitFor(t, func() bool { return w.gw.Flows() == 0 })
}

// TestRefresh: only a socket whose connection has ended in both directions is used again.
func TestRefresh(t *testing.T) {
	o := newOutside(t)
	to := o.l.Addr().(*net.TCPAddr).AddrPort()
	fd, err := dialHost(until(t.Context()), outbound{}, to)
	if err != nil {
		t.Fatal(err)
	}
	defer closeSocket(fd)
	h := o.accept(t)
	if refresh(fd) {
		t.Error("a connection is taken for one that has ended")
	}
	h.CloseWrite()
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); err != nil && err != unix.EINTR {
		t.Fatal(err)
	}
	if refresh(fd) {
		t.Error("a connection is taken for one that has ended when the server's side has")
	}
	if err := shutdownWrite(fd); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return refresh(fd) })
	for range 2 { // also when it is fresh
		if !refresh(fd) {
			t.Error("a fresh socket is refused")
		}
	}
	var a sockaddr
	a.set(netip.AddrPortFrom(to.Addr(), to.Port()))
	if errno := a.call(unix.SYS_CONNECT, fd); errno != 0 && errno != unix.EINPROGRESS {
		t.Fatalf("connect it again: %v", errno)
	}
	again := o.accept(t)
	again.SetDeadline(time.Now().Add(waitPatience))
	if _, err := again.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		n, err := receive(fd, make([]byte, 8), 0)
		return err == nil && n == 1
	})
}
