package engine

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/internal/control/registry"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/l2"
)

// Ids of the cast. The first digits tell them apart.
var (
	netBridge = strings.Repeat("b0", 32)
	netHost   = strings.Repeat("b1", 32)
	netNone   = strings.Repeat("b2", 32)
	netWeb    = strings.Repeat("b3", 32)

	idC1   = strings.Repeat("c1", 32) // joined, in web
	idC2   = strings.Repeat("c2", 32) // joined, starts
	idNone = strings.Repeat("d0", 32)
	idHost = strings.Repeat("d1", 32)
	idPriv = strings.Repeat("d2", 32)
	idWith = strings.Repeat("d3", 32) // container:c1
	idLost = strings.Repeat("d4", 32) // has lost its daemon
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// fakeController keeps what it is told.
type fakeController struct {
	mu        sync.Mutex // guards what follows
	networks  []cnm.NetworkInfo
	sandboxes []cnm.SandboxInfo
	created   []cnm.NetworkConfig
	connected []cnm.EndpointConfig
	calls     []string
	sub       func(cnm.Event)
}

func (f *fakeController) call(words ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, strings.Join(words, " "))
}

func (f *fakeController) Create(_ context.Context, n cnm.NetworkConfig) (id, warning string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.created = append(f.created, n)
	return strings.Repeat("e", 64), "", nil
}

func (f *fakeController) Remove(_ context.Context, ref string) error {
	f.call("remove", ref)
	return nil
}

func (f *fakeController) Prune(_ context.Context, match func(cnm.NetworkInfo) bool) ([]string, error) {
	var names []string
	for _, n := range f.Networks() {
		if match(n) {
			names = append(names, n.Name)
		}
	}
	return names, nil
}

func (f *fakeController) Network(ref string) (cnm.NetworkInfo, error) {
	for _, n := range f.Networks() {
		if n.ID == ref || n.Name == ref {
			return n, nil
		}
	}
	return cnm.NetworkInfo{}, fault.New(fault.NotFound, "network %s not found", ref)
}

func (f *fakeController) Networks() []cnm.NetworkInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.networks)
}

func (f *fakeController) Connect(_ context.Context, sandbox string, e cnm.EndpointConfig) error {
	f.mu.Lock()
	f.connected = append(f.connected, e)
	f.mu.Unlock()
	f.call("connect", sandbox, e.Network)
	return nil
}

func (f *fakeController) Disconnect(_ context.Context, network, sandbox string, force bool) error {
	word := "disconnect"
	if force {
		word = "tear"
	}
	f.call(word, network, sandbox)
	return nil
}

func (f *fakeController) Sandbox(ref string) (cnm.SandboxInfo, error) {
	for _, s := range f.Sandboxes() {
		if s.ID == ref || s.Name == ref {
			return s, nil
		}
	}
	return cnm.SandboxInfo{}, fault.New(fault.NotFound, "No such container: %s", ref)
}

func (f *fakeController) Sandboxes() []cnm.SandboxInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.sandboxes)
}

func (f *fakeController) Subscribe(g func(cnm.Event)) (cancel func()) {
	f.sub = g
	return func() { f.sub = func(cnm.Event) {} }
}

func (f *fakeController) lose(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sandboxes = slices.DeleteFunc(f.sandboxes, func(s cnm.SandboxInfo) bool { return s.ID == id })
}

// fakeRegistry is a user's sandboxes. What a signal does is onSignal's.
type fakeRegistry struct {
	mu       sync.Mutex // guards what follows
	entries  []registry.Entry
	signals  []string
	onSignal func(name string, sig syscall.Signal) error
	onList   func() // nil: nothing
}

func (r *fakeRegistry) List(context.Context) ([]registry.Entry, error) {
	if r.onList != nil {
		r.onList()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.entries), nil
}

func (r *fakeRegistry) Ports(_ context.Context, name string) ([]portfwd.Spec, error) {
	if name != "priv" {
		return nil, syscall.ENOENT
	}
	return []portfwd.Spec{{Proto: portfwd.TCP, HostPort: 5000, Port: 80}}, nil
}

func (r *fakeRegistry) Signal(_ context.Context, name string, sig syscall.Signal) error {
	r.mu.Lock()
	r.signals = append(r.signals, name+" "+sig.String())
	f := r.onSignal
	r.mu.Unlock()
	return f(name, sig)
}

// end removes a sandbox.
func (r *fakeRegistry) end(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = slices.DeleteFunc(r.entries, func(e registry.Entry) bool { return e.Name == name })
}

func rig(t *testing.T) (*Engine, *fakeController, *fakeRegistry) {
	t.Helper()
	reg := &fakeRegistry{entries: []registry.Entry{
		{ID: idC1, Name: "c1", Mode: "web", Networks: []string{"web"}, PID: 101, Created: epoch.Add(time.Minute), Labels: map[string]string{"tier": "front"}},
		{ID: idNone, Name: "alone", Mode: "none", PID: 102, Created: epoch, Command: []string{"sh", "-c", "sleep 9"}},
		{ID: idHost, Name: "onhost", Mode: "host", PID: 103, Created: epoch},
		{ID: idPriv, Name: "priv", Mode: "private", PID: 104, Created: epoch, Addrs: []netip.Addr{netip.MustParseAddr("10.0.2.100"), netip.MustParseAddr("fd00::100")}},
		{ID: idWith, Name: "with", Mode: "container:" + idC1, PID: 105, Created: epoch},
		{ID: idLost, Name: "lost", Mode: "web", Networks: []string{"web"}, PID: 106, Created: epoch},
	}}
	c := &fakeController{}
	ep := cnm.EndpointInfo{
		ID: strings.Repeat("ee", 32), NetworkID: netWeb, NetworkName: "web", SandboxID: idC1, SandboxName: "c1", Interface: "eth0",
		Config: cnm.EndpointConfig{Network: "web", Aliases: []string{"www"}, IPv4: netip.MustParseAddr("172.18.0.9")},
		MAC:    l2.MAC{0x02, 0x42, 0xac, 0x12, 0, 9}, Addr4: netip.MustParsePrefix("172.18.0.9/16"), Gateway4: netip.MustParseAddr("172.18.0.1"),
		Names: []string{"c1", "www", idC1[:12]},
	}
	orphan := cnm.EndpointInfo{ID: strings.Repeat("ef", 32), NetworkID: netWeb, NetworkName: "web", SandboxName: "vanished", Addr4: netip.MustParsePrefix("172.18.0.3/16")}
	subnet := netip.MustParsePrefix("172.18.0.0/16")
	c.networks = []cnm.NetworkInfo{
		{ID: netBridge, Created: epoch, NetworkConfig: cnm.NetworkConfig{Name: "bridge", Driver: "bridge"}},
		{ID: netHost, Created: epoch, NetworkConfig: cnm.NetworkConfig{Name: "host", Driver: "host"}},
		{ID: netNone, Created: epoch, NetworkConfig: cnm.NetworkConfig{Name: "none", Driver: "null"}},
		{
			ID: netWeb, Created: epoch, NetworkConfig: cnm.NetworkConfig{Name: "web", Driver: "bridge", Scope: cnm.ScopeLocal, Labels: map[string]string{"a": "1"}},
			Subnets: []cnm.Subnet{{Prefix: subnet, Gateway: netip.MustParseAddr("172.18.0.1")}}, Endpoints: []cnm.EndpointInfo{ep, orphan},
			InUse: map[netip.Prefix]uint64{subnet: 4}, Free: map[netip.Prefix]uint64{subnet: 65532},
		},
	}
	c.sandboxes = []cnm.SandboxInfo{
		{
			SandboxConfig: cnm.SandboxConfig{
				ID: idC1, Name: "c1", Hostname: "front", Created: epoch.Add(time.Minute), Command: []string{"nginx", "-g", "x"}, Env: []string{"A=1"},
				Networks: []cnm.EndpointConfig{{Network: "web"}}, Expose: []portfwd.Spec{{Proto: portfwd.TCP, Port: 443}},
				Publish: []portfwd.Spec{{Proto: portfwd.TCP, HostPort: 8080, Port: 80}},
			},
			PID: 101, Endpoints: []cnm.EndpointInfo{ep}, Ports: []portfwd.Spec{{Proto: portfwd.TCP, HostPort: 8080, Port: 80}},
		},
		{SandboxConfig: cnm.SandboxConfig{ID: idC2, Name: "c2", Created: epoch.Add(2 * time.Minute)}},
	}
	reg.onSignal = func(name string, _ syscall.Signal) error {
		reg.end(name)
		if name == "c1" {
			c.lose(idC1)
		}
		return nil
	}
	e := New(c, reg, Options{Version: "1.2.3", Drivers: []string{"bridge", "host", "null"}})
	e.now = func() time.Time { return epoch.Add(6 * time.Minute) }
	t.Cleanup(e.Close)
	return e, c, reg
}
