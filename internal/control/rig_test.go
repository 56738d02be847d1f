package control

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/internal/proctest"
	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

const (
	datapathRole = "__datapath"
	netnsRole    = "__netns"
	renewingRole = "__renewing"
)

// TestMain is also the datapath with the fake Backend, the process that changes a host's addresses, and a Control to be killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case datapathRole:
			os.Exit(datapath.Main(os.Args[2:], newFake))
		case netnsRole:
			netnsMain()
			os.Exit(0)
		case renewingRole:
			panic(renewingMain(os.Args[2]))
		}
	}
	proctest.LeaveAtOnce()
	// Each check is a life of a Control with its processes: 20 ms, and as much for each restart. More with -rapid.checks.
	flag.Set("rapid.checks", "20")
	os.Exit(m.Run())
}

// patience bounds what a test waits for.
const patience = 10 * time.Second

// rig is a Control, at first without Networks, and what its callbacks said.
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
	r := &rig{t: t}
	cfg := r.config(change...)
	c, err := Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Control = c
	t.Cleanup(func() { c.Close() })
	return r
}

// config is that of a Control whose callbacks and log are r's.
func (r *rig) config(change ...func(*Config)) Config {
	t := r.t
	t.Helper()
	r.states, r.events = make(chan State, 64), make(chan datapath.Event, 8192)
	var err error
	if r.log, err = os.Create(filepath.Join(t.TempDir(), "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(r.log.Name())
			t.Logf("datapath log:\n%s", b)
		}
		r.log.Close()
	})
	r.resolv = filepath.Join(t.TempDir(), "resolv.conf")
	r.writeResolv("nameserver 192.0.2.1\n")
	cfg := Config{
		DNS:          DNS{ResolvConf: r.resolv},
		Datapath:     datapath.Config{Args: []string{"usernet", datapathRole}, Stderr: r.log, Level: slog.LevelWarn, KillOnDenied: true},
		StateChanged: func(s State) { r.states <- s },
		Event:        func(e datapath.Event) { r.events <- e },
	}
	for _, c := range change {
		c(&cfg)
	}
	return cfg
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

// event waits for an event with a cause, skipping others, and returns its Network and id.
func (r *rig) event(cause string) (network, id string) {
	r.t.Helper()
	limit := time.After(patience)
	for {
		select {
		case e := <-r.events:
			if e.Cause == cause {
				return e.Network, e.ID
			}
		case <-limit:
			r.t.Fatalf("no event %s", cause)
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

// add makes a Network whose name is its id.
func (r *rig) add(id string) {
	r.t.Helper()
	if err := r.AddNetwork(spec.Network{ID: id, Name: id}, nil); err != nil {
		r.t.Fatal(err)
	}
}

// newTAP returns two ends of something like a TAP; both are closed at the end of the test.
func newTAP(t testing.TB) (dev, other *os.File) {
	t.Helper()
	a, b, err := sys.Socketpair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

var tapInfo = tap.Info{Name: "eth0", MTU: 1500}

// attach gives a Network an Endpoint and returns the other end of its TAP.
func (r *rig) attach(network, id string) *os.File {
	r.t.Helper()
	dev, other := newTAP(r.t)
	defer dev.Close()
	if err := r.Attach(network, spec.Endpoint{ID: id}, dev, tapInfo); err != nil {
		r.t.Fatal(err)
	}
	return other
}

// listen binds free TCP ports of 127.0.0.1; to are the containers' ports.
func listen(t testing.TB, to ...uint16) []portfwd.Listener {
	t.Helper()
	var specs []portfwd.Spec
	for _, p := range to {
		specs = append(specs, portfwd.Spec{Proto: portfwd.TCP, HostIP: netip.MustParseAddr("127.0.0.1"), Port: p})
	}
	ls, err := portfwd.Listen(specs, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeListeners(ls) })
	return ls
}

// publish forwards a port of an Endpoint.
func (r *rig) publish(network, endpoint string) portfwd.Spec {
	r.t.Helper()
	ls := listen(r.t, 80)
	if err := r.Publish(network, endpoint, ls); err != nil {
		r.t.Fatal(err)
	}
	closeListeners(ls) // they are duplicated
	return ls[0].Spec
}

// holds returns what the datapath says that it holds for a Network.
func (r *rig) holds(network string) map[string]uint64 {
	r.t.Helper()
	for {
		st, err := r.Stats(r.t.Context(), network)
		if errors.Is(err, errRestarting) || errors.Is(err, datapath.ErrGone) {
			r.waitRunning()
			continue
		}
		if err != nil {
			r.t.Fatal(err)
		}
		return st.Drops
	}
}

// waitRunning waits until the state is Running.
func (r *rig) waitRunning() {
	r.t.Helper()
	for {
		select {
		case s := <-r.states:
			if s == Running {
				return
			}
		case <-time.After(patience):
			r.t.Fatal("it does not run")
		}
	}
}

// dump names everything that a datapath holds for a Network, each once.
func dump(reserved iter.Seq[netip.Prefix], hosts map[string][]netip.Addr, endpoints map[string]spec.Endpoint, ports map[string]string) map[string]uint64 {
	m := make(map[string]uint64)
	for p := range reserved {
		m["reserved "+p.String()] = 1
	}
	for n, as := range hosts {
		m[fmt.Sprintf("host %s %v", n, as)] = 1
	}
	for id, e := range endpoints {
		m[fmt.Sprintf("endpoint %s %v", id, e.Names)] = 1
	}
	for id, endpoint := range ports {
		m["port "+id+" to "+endpoint] = 1
	}
	return m
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

func (r *rig) wantFetch(s portfwd.Spec, want string) {
	r.t.Helper()
	if got, err := fetch(s); got != want || err != nil {
		r.t.Errorf("port %s says %q, %v", s, got, err)
	}
}

func openFiles(t testing.TB) int {
	t.Helper()
	e, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}
