package rootlessport

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/proctest"
	"github.com/usernet/usernet/portfwd"
)

// TestRoutes: a client has one route for as long as it is there and a while longer, there are so many and no more, and
// nothing is left of them.
func TestRoutes(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	w := newWorld(t)
	in := w.enter()
	want := func(when string, rules, routes int) {
		t.Helper()
		if a, b := w.rules(); a != rules || b != routes {
			t.Errorf("%s: %d rules and %d routes, want %d and %d", when, a, b, rules, routes)
		}
	}
	one, two, six := netip.MustParseAddr(client4), netip.MustParseAddr(host4), netip.MustParseAddr(client6)
	if in.claim(one) {
		t.Error("a claim before there are rules")
	}
	target := portfwd.Target{Addr4: netip.MustParseAddr(container4), Addr6: netip.MustParseAddr(container6)}
	ports := []portRange{{6, 80, 90}, {17, 53, 53}}
	for range 2 { // the second time in place of the first
		must(t, in.keepSources(target, ports))
		want("at first", 4, 0)
		for _, a := range []netip.Addr{one, one, two, six} {
			if !in.claim(a) {
				t.Errorf("no claim of %v", a)
			}
		}
		want("with three clients", 4, 3)
		in.release(one)
		in.release(two)
		in.mu.Lock()
		in.pruneLocked(time.Now())
		want("at once", 4, 3)
		in.pruneLocked(time.Now().Add(2 * routeGrace))
		in.mu.Unlock()
		want("later", 4, 2) // one of one's connections is still open
	}
	in.mu.Lock()
	for i := len(in.routes); i < maxRoutes; i++ {
		in.routes[netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})] = &route{users: 1}
	}
	in.mu.Unlock()
	if in.claim(netip.MustParseAddr("203.0.113.1")) {
		t.Error("more routes than there may be")
	}
	if !in.claim(six) {
		t.Error("a client that has its route is refused")
	}
	must(t, in.close())
	want("after the end", 0, 0)
}

// enter is what the program does with the container's namespace.
func (w *world) enter() *inside {
	w.t.Helper()
	ns, err := dup(w.container)
	must(w.t, err)
	in, err := enterFile(ns, "container")
	must(w.t, err)
	return in
}

// TestEnter: who enters the container stays where they are, with what they bind next. As podman starts it, the process
// may go in and cannot come back: the host's namespace is another user's.
func TestEnter(t *testing.T) {
	if !proctest.Inside(t, proctest.UsersAlone) {
		return
	}
	path := make(chan string)
	end := make(chan struct{})
	defer close(end)
	inNew := func() {
		runtime.LockOSThread() // for good: it ends in the new namespace
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
		path <- fmt.Sprintf("/proc/self/task/%d/ns/net", syscall.Gettid())
		<-end
	}
	go func() {
		// Not the first thread: where that is, the process is.
		if runtime.LockOSThread(); syscall.Gettid() != syscall.Getpid() {
			inNew()
			return
		}
		go inNew()
		<-end
	}()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	where := func() string {
		link, err := os.Readlink("/proc/thread-self/ns/net")
		must(t, err)
		return link
	}
	before := where()
	in, err := enter(<-path)
	must(t, err)
	defer in.close()
	if after := where(); after != before {
		t.Errorf("the thread that entered was in %s and is in %s", before, after)
	}
	var there string
	in.do(func() { there = where() })
	if there == before {
		t.Errorf("what is done inside is done in %s, the host's", there)
	}
}

// TestTaken: two clients with one address and port, of two sides of the host, both get through.
func TestTaken(t *testing.T) {
	if !proctest.Inside(t, proctest.Network) {
		return
	}
	w := newWorld(t)
	in := w.enter()
	defer in.close()
	target, subnets, err := in.addresses(netip.MustParseAddr(container4))
	must(t, err)
	if target.Addr4.String() != container4 || target.Addr6.String() != container6 || len(subnets) < 4 {
		t.Errorf("addresses %+v, subnets %v", target, subnets)
	}
	must(t, in.keepSources(target, []portRange{{6, 80, 80}}))
	from, to := netip.MustParseAddrPort(client4+":4000"), netip.AddrPortFrom(target.Addr4, 80)
	w.serve(80)
	var conns []*net.TCPConn
	for range 2 {
		c, release, err := in.dial(t.Context(), from, to)
		must(t, err)
		defer release()
		defer c.Close()
		conns = append(conns, c)
	}
	var seen []string
	for _, c := range conns {
		must(t, c.SetDeadline(time.Now().Add(patience)))
		must(t, c.CloseWrite())
		b := make([]byte, 100)
		n, err := c.Read(b)
		must(t, err)
		seen = append(seen, string(b[:n]))
	}
	if seen[0] == seen[1] {
		t.Errorf("both are %v", seen)
	}
	for _, s := range seen {
		if a := netip.MustParseAddrPort(s).Addr().Unmap(); a.String() != client4 {
			t.Errorf("seen as %s", s)
		}
	}
}
