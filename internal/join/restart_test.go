package join

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/control"
	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/tap"
)

// FT-02, FT-04: a daemon that is killed takes nothing with it. The next one gets the same TAPs and the same
// listening sockets, which clients could connect to meanwhile, and all it must know of the legs.
func TestFT02DaemonDies(t *testing.T) {
	path := socketPath(t)
	first := &fakeController{links: []plumb.Link{testLink("ep0", "eth0")}, ports: listeners(t, 2*filesPerMessage+3)}
	first.endpoints = []cnm.EndpointInfo{{ID: "ep0", NetworkID: "n0", Config: cnm.EndpointConfig{Network: "front", Aliases: []string{"w"}}}}
	d := startDaemon(t, path, first)
	c, sh := dialTest(t, path, Options{})
	c.Started(4242)
	leg1 := cnm.EndpointInfo{ID: "ep1", NetworkID: "n1", Config: cnm.EndpointConfig{Network: "back"}}
	first.addEndpoint(leg1)
	// The daemon dies in the middle of the connect: the interface is there, and nothing was said since.
	f, _, err := first.last(t).ns.Plug(t.Context(), testLink("ep1", "eth1"))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()

	d.kill()
	waitState(t, c, control.Restarting)
	for _, l := range first.ports {
		l.File.Close() // nobody but the shim has them now
	}
	held := first.ports[0].Spec
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", held.HostPort))
	if err != nil {
		t.Error("the port is not bound while there is no daemon:", err)
	} else {
		conn.Close()
	}
	if got := c.Ports(); len(got) != len(first.ports) {
		t.Errorf("%d ports while there is no daemon", len(got))
	}

	second := &fakeController{}
	startDaemon(t, path, second)
	waitState(t, c, control.Running)
	sb := second.last(t)
	want := &cnm.Rejoin{PID: 4242, Endpoints: []cnm.RejoinEndpoint{
		{Config: first.endpoints[0].Config, NetworkID: "n0", Link: testLink("ep0", "eth0")},
		{Config: leg1.Config, NetworkID: "n1", Link: testLink("ep1", "eth1")},
	}}
	if diff := cmp.Diff(want, sb.rejoin, byValue); diff != "" {
		t.Error("rejoin (-want +got):\n", diff)
	}
	if diff := cmp.Diff(sh.has(t), sb.seen()); diff != "" {
		t.Error("TAPs (-kept +given):\n", diff)
	}
	if sb.config.Name != "web" || sb.infos["ep1"].Name != "eth1" {
		t.Errorf("%+v, %+v", sb.config, sb.infos)
	}
	if len(sb.kept) != len(first.ports) {
		t.Fatalf("%d sockets, want %d", len(sb.kept), len(first.ports))
	}
	for i, l := range sb.kept {
		if l.Spec != first.ports[i].Spec {
			t.Errorf("socket %d is of %s, want %s", i, l.Spec, first.ports[i].Spec)
		}
	}
	// It is the same socket: the connection made meanwhile waits in it.
	if n, err := net.FileListener(sb.kept[0].File); err != nil {
		t.Error(err)
	} else {
		n.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
		if conn, err := n.Accept(); err != nil {
			t.Error("accept what came while there was no daemon:", err)
		} else {
			conn.Close()
		}
		n.Close()
	}
	if st := c.Status(); st.Restarts != 1 {
		t.Errorf("status %+v", st)
	}
	if err := sb.ns.Unplug(t.Context(), "ep1"); err != nil {
		t.Error(err)
	}
}

// Without a daemon the shim has one started, at the join and later; a daemon that ends while a sandbox joins
// is no error of the sandbox's.
func TestStartsDaemon(t *testing.T) {
	path := socketPath(t)
	ctl := &fakeController{links: []plumb.Link{testLink("ep0", "eth0")}}
	var d atomic.Pointer[daemon]
	var starts atomic.Int32
	start := func(context.Context) error {
		starts.Add(1)
		d.Store(startDaemon(t, path, ctl))
		return nil
	}
	// One that accepts and dies.
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	died := make(chan struct{})
	go func() {
		defer close(died)
		c, err := l.Accept()
		l.Close()
		if err == nil {
			c.Close()
		}
	}()
	c, _ := dialTest(t, path, Options{Start: start})
	<-died
	if starts.Load() != 1 {
		t.Error(starts.Load(), "starts")
	}
	d.Load().kill()
	eventually(t, "another daemon", func() bool { return c.Status().Restarts == 1 && c.Status().State == control.Running })

	failed := errors.New("no room")
	_, _, err = Dial(t.Context(), path+".other", testConfig(), Options{Start: func(context.Context) error { return failed }})
	if !errors.Is(err, failed) {
		t.Error(err)
	}
}

// A daemon that was told to end is not started again by the sandboxes it had; they rejoin the next one.
func TestGoodbye(t *testing.T) {
	path := socketPath(t)
	ctl := &fakeController{}
	d := startDaemon(t, path, ctl)
	var starts atomic.Int32
	tries := make(chan struct{}, 1)
	p := quick
	p.gap = time.Millisecond
	c, _ := dialTest(t, path, Options{pauses: p, Start: func(context.Context) error { starts.Add(1); return nil }})
	d.l.Close()
	<-d.done
	d.Shutdown("stopped", true)
	select {
	case <-ctl.last(t).closed:
		t.Error("the sandbox was freed")
	default:
	}
	waitState(t, c, control.Restarting)
	// A listener that closes at once shows that it tries.
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	l.Close()
	close(tries)
	if n := starts.Load(); n != 0 {
		t.Error(n, "daemons started")
	}
	next := &fakeController{}
	startDaemon(t, path, next)
	waitState(t, c, control.Running)
	if next.last(t).rejoin == nil {
		t.Error("it did not rejoin")
	}
}

// A daemon that ends by itself, because it was idle a moment before or cannot go on, is started again by the sandboxes it
// had: nobody wanted it gone.
func TestNoGoodbye(t *testing.T) {
	path := socketPath(t)
	d := startDaemon(t, path, &fakeController{})
	next := &fakeController{}
	c, _ := dialTest(t, path, Options{Start: func(context.Context) error { startDaemon(t, path, next); return nil }})
	d.l.Close()
	<-d.done
	d.Shutdown("nobody uses it", false)
	eventually(t, "another daemon", func() bool { return c.Status().Restarts == 1 && c.Status().State == control.Running })
	if next.last(t).rejoin == nil {
		t.Error("it did not rejoin")
	}
}

// A sandbox that joins while the daemon ends hears of nothing, so nothing is kept for it: it joins the next daemon.
func TestUnheardJoin(t *testing.T) {
	ours, theirs, err := sys.Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	ctl := &fakeController{}
	ss := serverOn(t, ctl, ours)
	ss.s.closing = true
	theirs.Close()
	ss.handle(request{message: message{ID: 1, Kind: kindJoin, Body: encode(joinBody{Version, testConfig()})}})
	ss.receive()
	wait(t, "the sandbox's end", ctl.last(t).closed)
}

// A daemon that lost the Network refuses; the sandbox lives on and asks again.
func TestRefusedRejoin(t *testing.T) {
	path := socketPath(t)
	d := startDaemon(t, path, &fakeController{})
	c, sh := dialTest(t, path, Options{})
	d.kill()
	bad := &fakeController{refuse: fault.New(fault.NotFound, "network front not found")}
	b := startDaemon(t, path, bad)
	eventually(t, "two attempts", func() bool { return bad.refusals() >= 2 })
	if st := c.Status(); st.State != control.Restarting || st.Restarts != 0 {
		t.Errorf("status %+v", st)
	}
	select {
	case <-c.Done():
		t.Error("it gave up")
	default:
	}
	b.kill()
	good := &fakeController{}
	startDaemon(t, path, good)
	waitState(t, c, control.Running)
	if st := c.Status(); st.Restarts != 1 {
		t.Errorf("%d restarts; daemons that refuse are none", st.Restarts)
	}
	if err := good.last(t).ns.SetFiles(t.Context(), []plumb.File{{Path: "/etc/hosts"}}); err != nil || sh.did() != "file /etc/hosts" {
		t.Error(err, sh.did())
	}
}

// Requests wait for the next daemon, for a bounded time, and then say what is wrong.
func TestRequestsInTheGap(t *testing.T) {
	path := socketPath(t)
	d := startDaemon(t, path, &fakeController{})
	p := quick
	p.gap = 30 * time.Millisecond
	c, _ := dialTest(t, path, Options{pauses: p})
	d.kill()
	waitState(t, c, control.Restarting)
	if _, err := c.Stats(t.Context()); fault.KindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "usernet daemon") {
		t.Error("with no daemon:", err)
	}
	if c.Ports() == nil {
		t.Error("no ports while there is no daemon")
	}
	c.opts.pauses.gap = patience
	got := make(chan error, 1)
	go func() {
		_, err := c.Publish([]portfwd.Spec{{Proto: portfwd.UDP, Port: 53}})
		got <- err
	}()
	startDaemon(t, path, &fakeController{})
	if err := <-got; err != nil {
		t.Error("with a daemon that came in time:", err)
	}
}

// An interface that is made while the daemon dies is given to the next one.
func TestAttachAcrossRestart(t *testing.T) {
	path := socketPath(t)
	d := startDaemon(t, path, &fakeController{links: []plumb.Link{testLink("ep0", "eth0")}})
	c, _, err := Dial(t.Context(), path, testConfig(), Options{pauses: quick})
	if err != nil {
		t.Fatal(err)
	}
	sh := startShim(t, c)
	d.kill()
	waitState(t, c, control.Restarting)
	done := make(chan error, 1)
	go func() { done <- sh.tap("ep0", "eth0") }()
	next := &fakeController{}
	startDaemon(t, path, next)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sh.has(t), next.last(t).seen()); diff != "" {
		t.Error("TAPs (-kept +given):\n", diff)
	}
	if err := sh.tap("ep0", "eth0"); err == nil {
		t.Error("attached twice")
	}
}

// Whatever is plugged, unplugged, kept and killed in whatever order: each new daemon is given exactly what a
// list kept by hand says.
func TestRejoinModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		path := socketPath(t)
		ctl := &fakeController{}
		d := startDaemon(t, path, ctl)
		c, sh := dialTest(t, path, Options{})
		defer c.Close()
		defer func() { d.kill() }()
		legs := map[string]bool{}
		var ports []portfwd.Spec
		next := 0
		check := func() {
			sb := ctl.last(t)
			if diff := cmp.Diff(sh.has(t), sb.seen(), cmpopts.EquateEmpty()); sb.rejoin != nil && diff != "" {
				rt.Fatalf("TAPs (-kept +given):\n%s", diff)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"plug": func(rt *rapid.T) {
				id := fmt.Sprint("ep", next)
				next++
				f, _, err := ctl.last(t).ns.Plug(t.Context(), testLink(id, id))
				if err != nil {
					rt.Fatal(err)
				}
				defer f.Close()
				if err := ctl.last(t).Attach(id, f, tap.Info{Name: id}); err != nil {
					rt.Fatal(err)
				}
				legs[id] = true
			},
			"unplug": func(rt *rapid.T) {
				for id := range maps.Keys(legs) {
					if err := ctl.last(t).ns.Unplug(t.Context(), id); err != nil {
						rt.Fatal(err)
					}
					delete(legs, id)
					sb := ctl.last(t)
					sb.mu.Lock()
					delete(sb.taps, id)
					sb.mu.Unlock()
					break
				}
			},
			"keep": func(rt *rapid.T) {
				ls := listeners(t, rapid.IntRange(0, 40).Draw(rt, "sockets"))
				if err := ctl.last(t).ns.Keep(t.Context(), ls); err != nil {
					rt.Fatal(err)
				}
				ports = nil
				for _, l := range ls {
					ports = append(ports, l.Spec)
				}
				closeListeners(ls)
			},
			"kill": func(rt *rapid.T) {
				d.kill()
				ctl = &fakeController{}
				d = startDaemon(t, path, ctl)
				sb := ctl.last(t)
				waitState(t, c, control.Running)
				var given []portfwd.Spec
				for _, l := range sb.kept {
					given = append(given, l.Spec)
				}
				if diff := cmp.Diff(ports, given, byValue, cmpopts.EquateEmpty()); diff != "" {
					rt.Fatalf("sockets (-kept +given):\n%s", diff)
				}
				if len(sb.rejoin.Endpoints) != len(legs) {
					rt.Fatalf("%d legs, want %d", len(sb.rejoin.Endpoints), len(legs))
				}
				for _, e := range sb.rejoin.Endpoints {
					if !legs[e.Link.EndpointID] {
						rt.Fatalf("leg %s was given", e.Link.EndpointID)
					}
				}
				check()
			},
		})
	})
}
