package join

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/control"
	"github.com/usernet/usernet/internal/shim"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// byValue compares addresses.
var byValue = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

// patience is how long a test waits for what should be there at once.
const patience = 10 * time.Second

// fakeController admits sandboxes and remembers what it was given.
type fakeController struct {
	links []plumb.Link       // what a join gets
	ports []portfwd.Listener // what a join binds
	block chan struct{}      // not nil: join sends to it and waits for the end of its context

	mu        sync.Mutex
	refuse    error // of join and rejoin
	sandboxes []*fakeSandbox
	endpoints []cnm.EndpointInfo
	subs      []func(cnm.Event)
}

type fakeSandbox struct {
	c      *fakeController
	config cnm.SandboxConfig
	rejoin *cnm.Rejoin
	kept   []portfwd.Listener
	ns     cnm.Namespace

	mu     sync.Mutex
	taps   map[string]uint64 // inode by Endpoint
	infos  map[string]tap.Info
	pid    int
	ports  []portfwd.Spec
	closed chan struct{}
}

func (c *fakeController) add(s cnm.SandboxConfig, r *cnm.Rejoin, ls []portfwd.Listener, ns cnm.Namespace) *fakeSandbox {
	sb := &fakeSandbox{
		c: c, config: s, rejoin: r, kept: ls, ns: ns, closed: make(chan struct{}),
		taps: map[string]uint64{}, infos: map[string]tap.Info{},
	}
	if r != nil {
		sb.pid = r.PID
	}
	for _, l := range ls {
		sb.ports = append(sb.ports, l.Spec)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sandboxes = append(c.sandboxes, sb)
	return sb
}

func (c *fakeController) Join(ctx context.Context, s cnm.SandboxConfig, ns cnm.Namespace) (Sandbox, cnm.Joined, error) {
	if c.block != nil {
		c.block <- struct{}{}
		<-ctx.Done()
		close(c.block)
		return nil, cnm.Joined{}, ctx.Err()
	}
	if err := c.refusal(); err != nil {
		return nil, cnm.Joined{}, err
	}
	if err := ns.Keep(ctx, c.ports); err != nil {
		return nil, cnm.Joined{}, err
	}
	sb := c.add(s, nil, nil, ns)
	sb.mu.Lock()
	defer sb.mu.Unlock()
	for _, l := range c.ports {
		sb.ports = append(sb.ports, l.Spec)
	}
	return sb, cnm.Joined{Links: c.links, Env: []string{"A=b"}}, nil
}

func (c *fakeController) Rejoin(_ context.Context, s cnm.SandboxConfig, r cnm.Rejoin, ls []portfwd.Listener, ns cnm.Namespace) (Sandbox, error) {
	if err := c.refusal(); err != nil {
		return nil, err
	}
	return c.add(s, &r, ls, ns), nil
}

func (c *fakeController) refusal() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refuse
}

// setRefuse changes what joins are told.
func (c *fakeController) setRefuse(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = err
}

func (c *fakeController) Endpoints(string) []cnm.EndpointInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.endpoints)
}

func (c *fakeController) Subscribe(f func(cnm.Event)) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subs = append(c.subs, f)
	return func() {}
}

// setEndpoints changes a sandbox's legs and says so, as a connect does.
func (c *fakeController) setEndpoints(sandbox string, eps ...cnm.EndpointInfo) {
	c.mu.Lock()
	c.endpoints = eps
	subs := slices.Clone(c.subs)
	c.mu.Unlock()
	for _, f := range subs {
		f(cnm.Event{Type: "network", Action: "connect", Attributes: map[string]string{"container": sandbox}})
	}
}

// last is the newest sandbox.
func (c *fakeController) last(t testing.TB) *fakeSandbox {
	t.Helper()
	var sb *fakeSandbox
	eventually(t, "a sandbox", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		if n := len(c.sandboxes); n > 0 {
			sb = c.sandboxes[n-1]
		}
		return sb != nil
	})
	return sb
}

var errBusyPort = fmt.Errorf("publish: %w", syscall.EADDRINUSE)

func (s *fakeSandbox) Attach(id string, dev *os.File, info tap.Info) error {
	ino, err := inode(dev)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.taps[id]; ok {
		return errors.New("it is attached already")
	}
	s.taps[id], s.infos[id] = ino, info
	return nil
}

func (s *fakeSandbox) Started(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid = pid
}

func (s *fakeSandbox) Publish(specs []portfwd.Spec) ([]portfwd.Spec, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range specs {
		if p.HostPort == 1 {
			return nil, errBusyPort
		}
	}
	s.ports = append(s.ports, specs...)
	return specs, nil
}

func (s *fakeSandbox) Unpublish([]portfwd.Spec) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports = nil
	return nil
}

func (s *fakeSandbox) Ports() []portfwd.Spec {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ports)
}

func (s *fakeSandbox) Stats(context.Context) (spec.Stats, error) { return spec.Stats{TCPFlows: 7}, nil }

func (s *fakeSandbox) Close() error {
	closeListeners(s.kept)
	close(s.closed)
	return nil
}

// seen returns the inodes of the TAPs it has, by Endpoint.
func (s *fakeSandbox) seen() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := make(map[string]uint64)
	for id, i := range s.taps {
		m[id] = i
	}
	return m
}

func inode(f *os.File) (uint64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Sys().(*syscall.Stat_t).Ino, nil
}

// daemon is a Server on a socket, which can die like a process.
type daemon struct {
	*Server
	l *net.UnixListener
	c *fakeController

	once sync.Once
	done chan struct{}
}

func startDaemon(t testing.TB, path string, c *fakeController) *daemon {
	t.Helper()
	os.Remove(path)
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{Server: NewServer(c, ServerOptions{}), l: l, c: c, done: make(chan struct{})}
	go func() {
		defer close(d.done)
		if err := d.Serve(l); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(d.kill)
	return d
}

// kill ends it without a word; its sandboxes are not closed, since nothing is left to close them.
func (d *daemon) kill() {
	d.once.Do(func() {
		d.l.Close()
		<-d.done
		d.mu.Lock()
		d.closing = true
		for s := range d.sessions {
			s.l.conn.Close()
		}
		d.mu.Unlock()
		d.wg.Wait()
		d.c.mu.Lock()
		defer d.c.mu.Unlock()
		for _, s := range d.c.sandboxes {
			closeListeners(s.kept)
		}
	})
}

// fakeShim makes the changes a Client asks for: each plug brings a file of its own.
type fakeShim struct {
	c *Client

	mu      sync.Mutex
	fail    error
	changes []string
	files   map[string]*os.File
	wg      sync.WaitGroup
}

func startShim(t testing.TB, c *Client) *fakeShim {
	s := &fakeShim{c: c, files: map[string]*os.File{}}
	s.wg.Go(func() {
		for {
			select {
			case ch := <-c.Changes():
				ch.Reply <- s.make(ch)
			case <-c.Done():
				return
			}
		}
	})
	t.Cleanup(func() {
		c.Close()
		s.wg.Wait()
		for _, f := range s.files {
			f.Close()
		}
	})
	return s
}

func (s *fakeShim) make(ch shim.Change) error {
	s.mu.Lock()
	fail := s.fail
	s.mu.Unlock()
	if fail != nil {
		return fail
	}
	var what string
	switch {
	case ch.Plug != nil:
		what = "plug " + ch.Plug.Name
		if err := s.tap(ch.Plug.EndpointID, ch.Plug.Name); err != nil {
			return err
		}
	case ch.Unplug != "":
		what = "unplug " + ch.Unplug
		s.mu.Lock()
		s.files[ch.Unplug].Close()
		delete(s.files, ch.Unplug)
		s.mu.Unlock()
	case ch.Routes != nil:
		what = "routes " + ch.Routes.Default4.Dev
	case ch.Files != nil:
		what = "file " + ch.Files[0].Path
	default:
		what = fmt.Sprint("signal ", int(ch.Signal))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes = append(s.changes, what)
	return nil
}

// tap makes a file that stands for a TAP and hands it over.
func (s *fakeShim) tap(endpoint, name string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	w.Close()
	s.mu.Lock()
	s.files[endpoint] = r
	s.mu.Unlock()
	return s.c.Attach(endpoint, r, tap.Info{Name: name, MTU: 1500})
}

// has returns the inodes of its files.
func (s *fakeShim) has(t testing.TB) map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := make(map[string]uint64)
	for id, f := range s.files {
		i, err := inode(f)
		if err != nil {
			t.Fatal(err)
		}
		m[id] = i
	}
	return m
}

func (s *fakeShim) did() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.changes, ", ")
}

var quick = pauses{
	first: time.Millisecond, most: 5 * time.Millisecond, start: time.Millisecond, refused: 20 * time.Millisecond, gap: patience,
}

func testConfig() cnm.SandboxConfig {
	return cnm.SandboxConfig{
		ID: strings.Repeat("a1", 32), Name: "web", Kind: "run", Command: []string{"sleep", "1"},
		Networks: []cnm.EndpointConfig{{Network: "front", Aliases: []string{"w"}}},
	}
}

func testLink(id, name string) plumb.Link {
	return plumb.Link{EndpointID: id, Name: name, MTU: 1500, Addr4: netip.MustParsePrefix("172.18.0.2/16")}
}

// dialTest joins a sandbox with one leg, ep0 on eth0, and attaches its TAP.
func dialTest(t testing.TB, path string, o Options) (*Client, *fakeShim) {
	t.Helper()
	if o.pauses == (pauses{}) {
		o.pauses = quick
	}
	c, j, err := Dial(t.Context(), path, testConfig(), o)
	if err != nil {
		t.Fatal(err)
	}
	s := startShim(t, c)
	for _, l := range j.Links {
		if err := s.tap(l.EndpointID, l.Name); err != nil {
			t.Fatal(err)
		}
	}
	return c, s
}

func socketPath(t testing.TB) string { return filepath.Join(t.TempDir(), "join.sock") }

// listeners binds n ports of loopback, TCP and UDP in turn.
func listeners(t testing.TB, n int) []portfwd.Listener {
	t.Helper()
	var specs []portfwd.Spec
	for i := range n {
		p := portfwd.TCP
		if i%2 == 1 {
			p = portfwd.UDP
		}
		specs = append(specs, portfwd.Spec{Proto: p, HostIP: netip.MustParseAddr("127.0.0.1"), Port: uint16(i + 1)})
	}
	ls, err := portfwd.Listen(specs, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeListeners(ls) })
	return ls
}

// eventually waits for what another goroutine does.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("waited for %s", what)
		}
		<-tick.C
	}
}

// keeps returns the Endpoints whose TAPs and Links a Client has.
func keeps(c *Client) (taps, links []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.links {
		links = append(links, l.EndpointID)
	}
	return slices.Sorted(maps.Keys(c.taps)), links
}

func waitState(t testing.TB, c *Client, want control.State) {
	t.Helper()
	eventually(t, want.String(), func() bool { return c.Status().State == want })
}

func wait(t testing.TB, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(patience):
		t.Fatalf("waited for %s", what)
	}
}
