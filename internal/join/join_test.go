package join

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/control"
	"github.com/usernet/usernet/portfwd"
)

// A sandbox's whole life: what the shim says reaches the Controller, and what the Controller wants the shim.
func TestJoin(t *testing.T) {
	ctl := &fakeController{links: []plumb.Link{testLink("ep0", "eth0")}}
	path := socketPath(t)
	startDaemon(t, path, ctl)
	c, sh := dialTest(t, path, Options{})
	sb := ctl.last(t)
	want := testConfig()
	want.ShimPID = os.Getpid() // as the kernel says, not the client
	if d := cmp.Diff(want, sb.config, byValue); d != "" {
		t.Error("config (-sent +came):\n", d)
	}
	if d := cmp.Diff(sh.has(t), sb.seen()); d != "" {
		t.Error("TAPs (-sent +came):\n", d)
	}
	if sb.infos["ep0"].Name != "eth0" {
		t.Errorf("info %+v", sb.infos["ep0"])
	}
	c.Started(4242)
	eventually(t, "the start", func() bool { sb.mu.Lock(); defer sb.mu.Unlock(); return sb.pid == 4242 })

	f, info, err := sb.ns.Plug(t.Context(), testLink("ep1", "eth1"))
	if err != nil {
		t.Fatal(err)
	}
	if i, _ := inode(f); i != sh.has(t)["ep1"] || info.Name != "eth1" {
		t.Errorf("plugged %d %+v", i, info)
	}
	f.Close()
	for _, err := range []error{
		sb.ns.SetRoutes(t.Context(), plumb.Routes{Default4: plumb.Hop{Dev: "eth1"}}),
		sb.ns.SetFiles(t.Context(), []plumb.File{{Path: "/etc/hosts"}}),
		sb.ns.SetFiles(t.Context(), nil),
		sb.ns.Unplug(t.Context(), "ep1"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if got := sh.did(); got != "plug eth1, routes eth1, file /etc/hosts, unplug ep1" {
		t.Error("changes:", got)
	}

	p := portfwd.Spec{Proto: portfwd.TCP, HostPort: 8080, Port: 80}
	if bound, err := c.Publish([]portfwd.Spec{p}); err != nil || len(bound) != 1 || bound[0] != p {
		t.Errorf("publish: %v, %v", bound, err)
	}
	if got := c.Ports(); len(got) != 1 || got[0] != p {
		t.Errorf("ports %v", got)
	}
	if st, err := c.Stats(t.Context()); err != nil || st.TCPFlows != 7 {
		t.Errorf("stats %+v, %v", st, err)
	}
	if err := c.Unpublish([]portfwd.Spec{p}); err != nil || len(c.Ports()) != 0 {
		t.Errorf("unpublish: %v, %v left", err, c.Ports())
	}
	if st := c.Status(); st.State != control.Running || st.Restarts != 0 {
		t.Errorf("status %+v", st)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	wait(t, "the sandbox's end", sb.closed)
	if _, err := c.Publish([]portfwd.Spec{p}); !errors.Is(err, control.ErrClosed) {
		t.Error("publish after close:", err)
	}
	if _, _, err := sb.ns.Plug(t.Context(), testLink("ep2", "eth2")); !errors.Is(err, ErrGone) {
		t.Error("plug after close:", err)
	}
}

// Errors arrive as they were: text, kind for the API's status, errno for the CLI's hint.
func TestRefusal(t *testing.T) {
	path := socketPath(t)
	ctl := &fakeController{refuse: fault.New(fault.NotFound, "network front not found")}
	startDaemon(t, path, ctl)
	_, _, err := Dial(t.Context(), path, testConfig(), Options{})
	if err == nil || err.Error() != "network front not found" || fault.KindOf(err) != fault.NotFound {
		t.Errorf("join: %v of kind %v", err, fault.KindOf(err))
	}
	ctl.setRefuse(nil)
	c, sh := dialTest(t, path, Options{})
	if _, err := c.Publish([]portfwd.Spec{{Proto: portfwd.TCP, HostPort: 1, Port: 1}}); !errors.Is(err, syscall.EADDRINUSE) || err.Error() != errBusyPort.Error() {
		t.Error("publish:", err)
	}
	// A change that the shim cannot make changes nothing; nor does a TAP nobody asked for.
	sh.mu.Lock()
	sh.fail = errors.New("no more devices")
	sh.mu.Unlock()
	if _, _, err := ctl.last(t).ns.Plug(t.Context(), testLink("ep1", "eth1")); err == nil || !strings.HasSuffix(err.Error(), "no more devices") {
		t.Error("plug:", err)
	}
	if err := sh.tap("ep9", "eth9"); err == nil {
		t.Error("a TAP nobody asked for was attached")
	}
	if taps, links := keeps(c); len(taps)+len(links) != 0 {
		t.Errorf("kept %v, %v", taps, links)
	}
}

// A command line of 2 MiB and thousands of ports do not fit a socket's buffer.
func TestLargeBodies(t *testing.T) {
	path := socketPath(t)
	ctl := &fakeController{}
	startDaemon(t, path, ctl)
	cfg := testConfig()
	cfg.Command = []string{"sh", "-c", strings.Repeat("x", 2<<20)}
	for i := range uint16(portfwd.MaxRange) {
		cfg.Publish = append(cfg.Publish, portfwd.Spec{Proto: portfwd.TCP, HostPort: 10000 + i, Port: 10000 + i})
	}
	c, _, err := Dial(t.Context(), path, cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := ctl.last(t).config
	if got.Command[2] != cfg.Command[2] || len(got.Publish) != portfwd.MaxRange {
		t.Errorf("%d bytes, %d ports", len(got.Command[2]), len(got.Publish))
	}
	cfg.Command[2] = strings.Repeat("x", maxBody)
	if _, _, err := Dial(t.Context(), path, cfg, Options{}); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Error("a body that is too long:", err)
	}
}

// FT-11: the sandbox is freed when its shim dies, in whatever state it was.
func TestFT11ShimDies(t *testing.T) {
	path := socketPath(t)
	ctl := &fakeController{links: []plumb.Link{testLink("ep0", "eth0")}, ports: listeners(t, 3)}
	startDaemon(t, path, ctl)
	c, _ := dialTest(t, path, Options{})
	sb := ctl.last(t)
	// As the kernel does for a process that is killed.
	c.mu.Lock()
	c.state = control.Closed
	c.l.conn.Close()
	c.mu.Unlock()
	wait(t, "the sandbox's end", sb.closed)
}

// A shim that dies while it waits for its addresses takes the wait with it.
func TestShimDiesInJoin(t *testing.T) {
	path := socketPath(t)
	ctl := &fakeController{block: make(chan struct{})}
	startDaemon(t, path, ctl)
	conn, err := newClient(path, testConfig(), Options{}).dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLink(conn)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.send(message{ID: 1, Kind: kindJoin}, joinBody{Version, testConfig()}, nil); err != nil {
		t.Fatal(err)
	}
	wait(t, "the join", ctl.block)
	conn.Close()
	wait(t, "the end of the join", ctl.block)
	if len(ctl.sandboxes) != 0 {
		t.Error("it joined")
	}
}

// Two sandboxes of one id are not; the first one stays.
func TestJoinTwice(t *testing.T) {
	path := socketPath(t)
	ctl := &fakeController{}
	startDaemon(t, path, ctl)
	c, _ := dialTest(t, path, Options{})
	if _, _, err := Dial(t.Context(), path, testConfig(), Options{}); err == nil || !strings.Contains(err.Error(), "here already") {
		t.Error(err)
	}
	if _, err := c.Stats(t.Context()); err != nil {
		t.Error(err)
	}
}

// A shim that comes back before its last connection has come to its end here, however long that takes, is no second
// sandbox of its id: the new connection takes its place.
func TestRejoinReplaces(t *testing.T) {
	path := socketPath(t)
	ctl := &fakeController{}
	startDaemon(t, path, ctl)
	first := raw(t, path)
	if _, err := first.call(t.Context(), kindJoin, joinBody{Version, testConfig()}); err != nil {
		t.Fatal(err)
	}
	stuck, hold := ctl.last(t), make(chan struct{})
	stuck.mu.Lock()
	stuck.stuck = hold
	stuck.mu.Unlock()
	rejoin := func() *link {
		l := raw(t, path)
		go func() { l.call(t.Context(), kindRejoin, rejoinBody{Version: Version, Config: testConfig()}) }()
		return l
	}
	second := rejoin()
	wait(t, "the end of the first connection", first.done)
	select {
	case <-second.done:
		t.Fatal("refused while the first ends")
	case hold <- struct{}{}:
	}
	wait(t, "the end of the first sandbox", stuck.closed)
	eventually(t, "the second", func() bool { return ctl.last(t) != stuck && ctl.last(t).rejoin != nil })
	// One that has gone without a word is waited for by a join too.
	gone := ctl.last(t)
	eventually(t, "its answers", func() bool { _, err := second.call(t.Context(), kindPorts, nil); return err == nil })
	second.conn.Close()
	third := rejoin()
	wait(t, "the end of the second sandbox", gone.closed)
	eventually(t, "the third", func() bool { return ctl.last(t) != gone })
	select {
	case <-third.done:
		t.Error("refused:", third.cause())
	default:
	}
}

// LU-01: whatever the socket's mode is, it serves its user only, and a shim gives nothing to another user's
// daemon. The kernel says who it is; that this process is somebody else is pretended.
func TestLU01OtherUser(t *testing.T) {
	path := socketPath(t)
	ctl := &fakeController{}
	d := startDaemon(t, path, ctl)
	c := newClient(path, testConfig(), Options{})
	c.uid++
	if _, _, err := c.join(t.Context()); err == nil || !strings.Contains(err.Error(), "belongs to another user") {
		t.Error("joined another user's daemon:", err)
	}
	d.kill()
	startDaemon(t, path, ctl, func(s *Server) { s.uid++ })
	if _, _, err := Dial(t.Context(), path, testConfig(), Options{}); !errors.Is(err, ErrGone) {
		t.Error("another user joined:", err)
	}
	if len(ctl.sandboxes) != 0 {
		t.Error("it joined")
	}
}

// A sandbox that ends its life says so before its name is used again.
func TestCloseWaitsForTheDaemon(t *testing.T) {
	path := socketPath(t)
	ctl := &fakeController{}
	startDaemon(t, path, ctl)
	for range 20 {
		c, _, err := Dial(t.Context(), path, testConfig(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		sb := ctl.last(t)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-sb.closed:
		default:
			t.Fatal("Close returned before the sandbox was free")
		}
	}
}
