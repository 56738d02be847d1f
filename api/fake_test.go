package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/system"

	"github.com/usernet/usernet/cnm/fault"
)

var (
	epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	id1   = strings.Repeat("c1", 32)
	idWeb = strings.Repeat("b3", 32)
)

// fake is a Backend that remembers what it is told.
type fake struct {
	mu         sync.Mutex // guards what follows
	networks   []network.Inspect
	containers []container.Summary
	calls      []string
	err        error         // of every change
	hold       chan struct{} // when set, changes wait for it or for the client to go
	past       []events.Message
	live       chan events.Message
	cancelled  bool
}

func (f *fake) call(ctx context.Context, format string, args ...any) error {
	f.mu.Lock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
	err, hold := f.err, f.hold
	f.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (f *fake) told() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.calls, "; ")
}

func (f *fake) Networks(context.Context) ([]network.Inspect, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.networks), nil
}

func (f *fake) Network(_ context.Context, ref string) (network.Inspect, error) {
	list, _ := f.Networks(context.Background())
	for _, n := range list {
		if n.ID == ref || n.Name == ref {
			return n, nil
		}
	}
	return network.Inspect{}, fault.New(fault.NotFound, "network %s not found", ref)
}

func (f *fake) NetworkCreate(ctx context.Context, r network.CreateRequest) (network.CreateResponse, error) {
	b, _ := json.Marshal(r)
	return network.CreateResponse{ID: idWeb, Warning: "w"}, f.call(ctx, "create %s", b)
}

func (f *fake) NetworkRemove(ctx context.Context, ref string) error {
	return f.call(ctx, "remove %q", ref)
}

func (f *fake) NetworkConnect(ctx context.Context, ref string, r network.ConnectRequest) error {
	mac := ""
	if r.EndpointConfig != nil {
		mac = r.EndpointConfig.MacAddress.String()
	}
	return f.call(ctx, "connect %q %q %s", ref, r.Container, mac)
}

func (f *fake) NetworkDisconnect(ctx context.Context, ref string, r network.DisconnectRequest) error {
	return f.call(ctx, "disconnect %q %q %v", ref, r.Container, r.Force)
}

func (f *fake) NetworkPrune(ctx context.Context, match func(network.Inspect) bool) ([]string, error) {
	names := []string{}
	list, _ := f.Networks(ctx)
	for _, n := range list {
		if match(n) {
			names = append(names, n.Name)
		}
	}
	return names, f.call(ctx, "prune")
}

func (f *fake) Containers(context.Context) ([]container.Summary, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.containers), nil
}

func (f *fake) Container(_ context.Context, ref string) (container.InspectResponse, error) {
	if ref != "c1" {
		return container.InspectResponse{}, fault.New(fault.NotFound, "No such container: %s", ref)
	}
	leg := func() *network.EndpointSettings {
		return &network.EndpointSettings{
			Aliases: []string{"www"}, IPAddress: netip.MustParseAddr("172.17.0.2"), IPPrefixLen: 16, Gateway: netip.MustParseAddr("172.17.0.1"),
			EndpointID: "e", MacAddress: network.HardwareAddr{2, 0, 0, 0, 0, 1},
		}
	}
	return container.InspectResponse{
		ID: id1, Name: "/c1", State: &container.State{Pid: 7, Running: true},
		NetworkSettings: &container.NetworkSettings{SandboxKey: "/proc/7/ns/net", Networks: map[string]*network.EndpointSettings{"bridge": leg(), "web": leg()}},
	}, nil
}

func (f *fake) ContainerKill(ctx context.Context, ref string, sig syscall.Signal) error {
	return f.call(ctx, "kill %q %d", ref, sig)
}

func (f *fake) ContainerStop(ctx context.Context, ref string, sig syscall.Signal, timeout time.Duration) error {
	return f.call(ctx, "stop %q %d %s", ref, sig, timeout)
}

func (f *fake) ContainerRemove(ctx context.Context, ref string, force bool) error {
	return f.call(ctx, "rm %q %v", ref, force)
}

func (f *fake) Events() (past []events.Message, live <-chan events.Message, cancel func()) {
	return f.past, f.live, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.cancelled = true
	}
}

func (f *fake) Info(context.Context) (system.Info, error) { return system.Info{Name: "host"}, nil }

func (f *fake) Version(context.Context) (system.VersionResponse, error) {
	return system.VersionResponse{Version: "1.2.3", Os: "linux"}, nil
}

func newFake() *fake {
	return &fake{
		networks: []network.Inspect{
			{Network: network.Network{Name: "bridge", ID: strings.Repeat("a0", 32), Driver: "bridge", Scope: "local", EnableIPv4: true, Created: epoch}},
			{Network: network.Network{Name: "none", ID: strings.Repeat("a1", 32), Driver: "null", Scope: "local", EnableIPv4: true, Created: epoch}},
			{
				Network: network.Network{
					Name: "web", ID: idWeb, Driver: "bridge", Scope: "local", EnableIPv4: true, Created: epoch.Add(time.Hour),
					Labels: map[string]string{"a": "1", "b": ""}, Options: map[string]string{},
				},
				Containers: map[string]network.EndpointResource{id1: {Name: "c1", EndpointID: "e", IPv4Address: netip.MustParsePrefix("172.18.0.2/16")}},
				Status:     &network.Status{},
			},
			{Network: network.Network{Name: "web2", ID: strings.Repeat("b4", 32), Driver: "overlay", Scope: "swarm", Created: epoch.Add(2 * time.Hour), Labels: map[string]string{"a": "2"}}},
		},
		containers: []container.Summary{
			{
				ID: id1, Names: []string{"/c1"}, State: container.StateRunning, Labels: map[string]string{"l": "v"},
				Ports:           []container.PortSummary{{PrivatePort: 80, PublicPort: 8080, Type: "tcp"}, {PrivatePort: 53, Type: "udp"}},
				NetworkSettings: &container.NetworkSettingsSummary{Networks: map[string]*network.EndpointSettings{"web": {NetworkID: idWeb, Aliases: []string{"www"}}}},
			},
			{ID: strings.Repeat("c2", 32), Names: []string{"/other"}, State: container.StateRunning},
			{ID: strings.Repeat("c3", 32), Names: []string{"/soon"}, State: container.StateCreated},
		},
		live: make(chan events.Message, 8),
	}
}

// ask makes one request of a server; body is JSON when it is not empty.
func ask(s http.Handler, method, target, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if body == "" {
		r.Body = http.NoBody
	} else {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// at is a server at a fixed time.
func at(b Backend) *server {
	s := newServer(b, Options{Version: "1.2.3"})
	s.now = func() time.Time { return epoch.Add(3 * time.Hour) }
	return s
}
