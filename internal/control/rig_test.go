package control

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

const (
	datapathRole = "__datapath"
	netnsRole    = "__netns"
)

// TestMain is also the datapath with the fake Backend, and the process that changes a host's addresses.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case datapathRole:
			os.Exit(datapath.Main(os.Args[2:], newFake))
		case netnsRole:
			netnsMain()
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// patience bounds what a test waits for.
const patience = 10 * time.Second

// rig is a Control and what its callbacks said.
type rig struct {
	*Control
	t      *testing.T
	states chan State
	events chan datapath.Event
	log    *os.File // the datapaths' stderr
	resolv string
}

func newRig(t *testing.T, change ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, states: make(chan State, 64), events: make(chan datapath.Event, 256)}
	var err error
	if r.log, err = os.Create(filepath.Join(t.TempDir(), "log")); err != nil {
		t.Fatal(err)
	}
	r.resolv = filepath.Join(t.TempDir(), "resolv.conf")
	r.writeResolv("nameserver 192.0.2.1\n")
	cfg := Config{
		Network:      spec.Network{Name: "web", Subnet6: netip.MustParsePrefix("fd00::/64")},
		DNS:          DNS{ResolvConf: r.resolv},
		Datapath:     datapath.Config{Args: []string{"usernet", datapathRole}, Stderr: r.log, Level: slog.LevelWarn, KillOnDenied: true},
		StateChanged: func(s State) { r.states <- s },
		Event:        func(e datapath.Event) { r.events <- e },
	}
	for _, c := range change {
		c(&cfg)
	}
	if r.Control, err = Start(context.Background(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		r.log.Close()
		if t.Failed() {
			b, _ := os.ReadFile(r.log.Name())
			t.Logf("datapath log:\n%s", b)
		}
	})
	return r
}

func (r *rig) writeResolv(s string) {
	r.t.Helper()
	if err := os.WriteFile(r.resolv, []byte(s), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// state waits for the next state and wants it to be s.
func (r *rig) state(s State) {
	r.t.Helper()
	select {
	case got := <-r.states:
		if got != s {
			r.t.Fatalf("state %v, want %v", got, s)
		}
	case <-time.After(patience):
		r.t.Fatalf("no state %v", s)
	}
}

// event waits for an event of a kind, skipping others, and returns its id.
func (r *rig) event(kind string) string {
	r.t.Helper()
	limit := time.After(patience)
	for {
		select {
		case e := <-r.events:
			if string(e.Kind) == kind {
				return e.ID
			}
		case <-limit:
			r.t.Fatalf("no event %s", kind)
		}
	}
}

// running waits for the first Running.
func (r *rig) running() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.Ready(ctx); err != nil {
		r.t.Fatal(err)
	}
	r.state(Running)
}

// attach gives the Control a TAP and returns its other end.
func (r *rig) attach(id string) *os.File {
	r.t.Helper()
	a, b, err := sys.Socketpair()
	if err != nil {
		r.t.Fatal(err)
	}
	defer a.Close()
	r.t.Cleanup(func() { b.Close() })
	if err := r.Attach(spec.Endpoint{ID: id}, a, tap.Info{Name: "eth0", MTU: 1500}); err != nil {
		r.t.Fatal(err)
	}
	return b
}

// publish publishes one free TCP port of 127.0.0.1.
func (r *rig) publish() portfwd.Spec {
	r.t.Helper()
	bound, err := r.Publish([]portfwd.Spec{{Proto: portfwd.TCP, HostIP: netip.MustParseAddr("127.0.0.1"), Port: 80}})
	if err != nil || len(bound) != 1 || bound[0].HostPort == 0 {
		r.t.Fatalf("published %v, %v", bound, err)
	}
	return bound[0]
}

// fetch connects to a published port and returns what it says.
func fetch(s portfwd.Spec) (string, error) {
	c, err := net.DialTimeout("tcp", netip.AddrPortFrom(s.HostIP, s.HostPort).String(), patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(c)
	return string(b), err
}

func (r *rig) wantFetch(s portfwd.Spec) {
	r.t.Helper()
	if got, err := fetch(s); got != "web" || err != nil {
		r.t.Errorf("port %s says %q, %v", s, got, err)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}
