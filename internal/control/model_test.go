package control

import (
	"context"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
)

// twin is what a Control should want and its datapath should hold, in lists that are searched from end to end.
type twin struct {
	reserved  []netip.Prefix // one element each time
	networks  []string
	endpoints []twinEndpoint
	ports     []twinPort
}

type twinEndpoint struct{ network, id, name string }

type twinPort struct{ network, endpoint, id string }

func (w *twin) holds(network string) map[string]uint64 {
	endpoints, ports := map[string]spec.Endpoint{}, map[string]string{}
	for _, e := range w.endpoints {
		if e.network == network {
			endpoints[e.id] = spec.Endpoint{Names: []string{e.name}}
		}
	}
	for _, p := range w.ports {
		if p.network == network {
			ports[p.id] = p.endpoint
		}
	}
	return dump(slices.Values(w.reserved), nil, endpoints, ports)
}

// endpoint is where an Endpoint is in the list, -1 for nowhere.
func (w *twin) endpoint(network, id string) int {
	return slices.IndexFunc(w.endpoints, func(e twinEndpoint) bool { return e.network == network && e.id == id })
}

// machine drives a Control and its twin.
type machine struct {
	*Control
	socket string
	twin
	states    chan State
	kills     int
	unsettled int // kills whose restart was not waited for
	dev       *os.File
	listeners []portfwd.Listener
}

var modelPrefixes = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("10.0.1.0/24"), netip.MustParsePrefix("fd00::/64"),
}

// settle waits until a datapath has everything again.
func (m *machine) settle() {
	for m.unsettled > 0 {
		if <-m.states == Running {
			m.unsettled--
		}
	}
}

// agree checks that what should succeed does and nothing else, and says which.
func (m *machine) agree(t *rapid.T, what string, err error, want bool) bool {
	if (err == nil) != want {
		t.Fatalf("%s: %v, want success %v", what, err, want)
	}
	return err == nil
}

func (m *machine) kill(t *rapid.T) {
	// The sixth restart within a minute would wait.
	if m.kills >= 4 {
		return
	}
	m.kills++
	m.settle()
	syscall.Kill(m.Status().PID, syscall.SIGKILL)
	m.unsettled++
	// The change that comes with it meets the datapath that dies, none, or the next.
	switch rapid.IntRange(0, 2).Draw(t, "meanwhile") {
	case 0:
		m.attach(t)
	case 1:
		m.publish(t)
	}
}

func (m *machine) reserve(t *rapid.T) {
	ps := rapid.SliceOfN(rapid.SampledFrom(modelPrefixes), 1, 3).Draw(t, "prefixes")
	m.agree(t, "reserve", m.Reserve(ps...), true)
	m.reserved = append(m.reserved, ps...)
}

func (m *machine) release(t *rapid.T) {
	ps := rapid.SliceOfN(rapid.SampledFrom(modelPrefixes), 1, 3).Draw(t, "prefixes")
	left := slices.Clone(m.reserved)
	there := true
	for _, p := range ps {
		i := slices.Index(left, p)
		if there = there && i >= 0; there {
			left = slices.Delete(left, i, i+1)
		}
	}
	if m.agree(t, "release", m.Release(ps...), there) {
		m.reserved = left
	}
}

func drawNetwork(t *rapid.T) string {
	return rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "network")
}

func drawEndpoint(t *rapid.T) string {
	return rapid.SampledFrom([]string{"c1", "c2", "c3", "refuse"}).Draw(t, "endpoint")
}

func (m *machine) add(t *rapid.T) {
	n := drawNetwork(t)
	if m.agree(t, "add network", m.AddNetwork(spec.Network{ID: n, Name: n}, nil), !slices.Contains(m.networks, n)) {
		m.networks = append(m.networks, n)
	}
}

func (m *machine) remove(t *rapid.T) {
	n := drawNetwork(t)
	i := slices.Index(m.networks, n)
	used := slices.ContainsFunc(m.endpoints, func(e twinEndpoint) bool { return e.network == n })
	if m.agree(t, "remove network", m.RemoveNetwork(n), i >= 0 && !used) {
		m.networks = slices.Delete(m.networks, i, i+1)
	}
}

func (m *machine) attach(t *rapid.T) {
	n, id, name := drawNetwork(t), drawEndpoint(t), rapid.StringMatching(`[a-q]{1,3}`).Draw(t, "name")
	if id == "refuse" {
		m.settle() // who takes it has to be there to refuse it
	}
	want := slices.Contains(m.networks, n) && m.endpoint(n, id) < 0 && id != "refuse"
	if m.agree(t, "attach", m.Attach(n, spec.Endpoint{ID: id, Names: []string{name}}, m.dev, tapInfo), want) {
		m.endpoints = append(m.endpoints, twinEndpoint{n, id, name})
	}
}

func (m *machine) update(t *rapid.T) {
	n, id, name := drawNetwork(t), drawEndpoint(t), rapid.SampledFrom([]string{"x", "y", "refuse"}).Draw(t, "name")
	i := m.endpoint(n, id)
	if m.agree(t, "update", m.Update(n, spec.Endpoint{ID: id, Names: []string{name}}), i >= 0 && name != "refuse") {
		m.endpoints[i].name = name
	}
}

func (m *machine) detach(t *rapid.T) {
	n, id := drawNetwork(t), drawEndpoint(t)
	i := m.endpoint(n, id)
	if m.agree(t, "detach", m.Detach(n, id), i >= 0) {
		m.endpoints = slices.Delete(m.endpoints, i, i+1)
		m.ports = slices.DeleteFunc(m.ports, func(p twinPort) bool { return p.network == n && p.endpoint == id })
	}
}

// publish forwards one or several of a few sockets. Each belongs to one Network at most, as bound sockets do.
func (m *machine) publish(t *rapid.T) {
	n, id := drawNetwork(t), drawEndpoint(t)
	ls := rapid.SliceOfNDistinct(rapid.SampledFrom(m.listeners), 1, 3,
		func(l portfwd.Listener) string { return portID(l.Spec) }).Draw(t, "ports")
	want := m.endpoint(n, id) >= 0
	for _, l := range ls {
		if slices.ContainsFunc(m.ports, func(p twinPort) bool { return p.id == portID(l.Spec) && (p.network != n || p.endpoint != id) }) {
			return
		}
		if l.Spec.Port == 666 {
			m.settle()
			want = false
		}
		want = want && !slices.Contains(m.ports, twinPort{n, id, portID(l.Spec)})
	}
	if m.agree(t, "publish", m.Publish(n, id, ls), want) {
		for _, l := range ls {
			m.ports = append(m.ports, twinPort{n, id, portID(l.Spec)})
		}
	}
}

func (m *machine) unpublish(t *rapid.T) {
	n, id := drawNetwork(t), drawEndpoint(t)
	l := rapid.SampledFrom(m.listeners).Draw(t, "port")
	i := slices.Index(m.ports, twinPort{n, id, portID(l.Spec)})
	if m.agree(t, "unpublish", m.Unpublish(n, id, []portfwd.Spec{l.Spec}), i >= 0) {
		m.ports = slices.Delete(m.ports, i, i+1)
	}
}

// start makes a Control, the first or one that adopts what the one before has left.
func (m *machine) start(t *rapid.T) {
	states := make(chan State, 64)
	c, err := Start(context.Background(), Config{
		DNS:          DNS{Servers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")}},
		Datapath:     datapath.Config{Args: []string{"usernet", datapathRole}, KillOnDenied: true, Socket: m.socket},
		StateChanged: func(s State) { states <- s },
		claimGrace:   time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Control, m.states, m.unsettled = c, states, 1
}

// restart replaces the Control by one that adopts its datapath, and is told what is wanted anew, less what has died
// meanwhile, and with other names.
func (m *machine) restart(t *rapid.T) {
	m.settle()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	m.start(t)
	m.kills = 0
	was := m.twin
	m.twin = twin{}
	lives := func(what string) bool { return rapid.IntRange(0, 3).Draw(t, what) > 0 }
	for _, p := range was.reserved {
		if lives("prefix") {
			m.agree(t, "reserve", m.Reserve(p), true)
			m.reserved = append(m.reserved, p)
		}
	}
	for _, n := range was.networks {
		if lives("network") {
			m.agree(t, "add network", m.AddNetwork(spec.Network{ID: n, Name: n}, nil), true)
			m.networks = append(m.networks, n)
		}
	}
	for _, e := range was.endpoints {
		if !slices.Contains(m.networks, e.network) || !lives("endpoint") {
			continue
		}
		if !lives("name") {
			e.name = "z"
		}
		m.agree(t, "attach", m.Attach(e.network, spec.Endpoint{ID: e.id, Names: []string{e.name}, Strict: !lives("strict")}, m.dev, tapInfo), true)
		m.endpoints = append(m.endpoints, e)
	}
	for _, p := range was.ports {
		if m.endpoint(p.network, p.endpoint) < 0 || !lives("port") {
			continue
		}
		i := slices.IndexFunc(m.listeners, func(l portfwd.Listener) bool { return portID(l.Spec) == p.id })
		m.agree(t, "publish", m.Publish(p.network, p.endpoint, m.listeners[i:i+1]), true)
		m.ports = append(m.ports, p)
	}
	if err := m.do(func(s *supervisor) error { s.dropUnclaimed(); return nil }); err != nil {
		t.Fatal(err)
	}
}

// check compares what the datapath holds with what the twin does.
func (m *machine) check(t *rapid.T) {
	m.settle()
	for _, n := range m.networks {
		st, err := m.Stats(context.Background(), n)
		if err != nil {
			t.Fatal(err)
		}
		if want := m.holds(n); !maps.Equal(want, st.Drops) {
			t.Fatalf("network %s: %s", n, cmp.Diff(want, st.Drops))
		}
	}
}

// FT-20, FT-21: whatever the order of changes, refusals, deaths of datapaths and ends of Controls, the datapath holds what is wanted, and nothing else.
func TestControlAgainstTwin(t *testing.T) {
	dev, _ := newTAP(t)
	listeners := listen(t, 80, 81, 82, 666)
	socket := socketPath(t)
	before := openFiles(t)
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{dev: dev, listeners: listeners, socket: socket}
		m.start(rt)
		defer func() {
			// With nothing attached it leaves no process behind.
			for len(m.endpoints) > 0 {
				m.agree(rt, "detach", m.Detach(m.endpoints[0].network, m.endpoints[0].id), true)
				m.endpoints = m.endpoints[1:]
			}
			if err := m.Close(); err != nil {
				rt.Error(err)
			}
		}()
		rt.Repeat(map[string]func(*rapid.T){
			"": m.check, "kill": m.kill, "reserve": m.reserve, "release": m.release, "add": m.add, "remove": m.remove,
			"attach": m.attach, "attach again": m.attach, "update": m.update, "detach": m.detach, "restart": m.restart,
			"publish": m.publish, "unpublish": m.unpublish, "shrink": func(*rapid.T) { m.Shrink() },
		})
	})
	// What a Control has left is waited for by a goroutine of its own, which may be about to end.
	for deadline := time.Now().Add(patience); openFiles(t) != before; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors before, %d after", before, openFiles(t))
		}
	}
}
