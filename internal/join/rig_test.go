package join

import (
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/control"
	"github.com/usernet/usernet/internal/shim"
	"github.com/usernet/usernet/internal/wire"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/tap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// byValue compares addresses.
var byValue = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

// patience is how long a test waits for what should be there at once.
const patience = 10 * time.Second

// daemon is a Server on a socket, which can die like a process.
type daemon struct {
	*Server
	l *net.UnixListener
	c *fakeController

	once sync.Once
	done chan struct{}
}

func startDaemon(t testing.TB, path string, c *fakeController, change ...func(*Server)) *daemon {
	t.Helper()
	os.Remove(path)
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{Server: NewServer(c, ServerOptions{}), l: l, c: c, done: make(chan struct{})}
	for _, f := range change {
		f(d.Server)
	}
	go func() {
		defer close(d.done)
		if err := d.Serve(l); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(d.kill)
	return d
}

// serverOn makes a Server that serves one connection, and its session, which has not begun.
func serverOn(t testing.TB, c *fakeController, conn wire.Socket) *session {
	t.Helper()
	s := NewServer(c, ServerOptions{})
	var err error
	if s.poller, err = wire.NewPoller(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.poller.Close() })
	ss, err := newSession(s, conn, 1)
	if err != nil {
		t.Fatal(err)
	}
	s.sessions[ss] = struct{}{}
	s.wg.Add(1)
	return ss
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
		d.closePoller()
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
	for _, l := range c.legs {
		links = append(links, l.Link.EndpointID)
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
