package datapath

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/usernet/usernet/dnsproxy"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// fakeHost makes fakeBackends and remembers what it was told of prefixes.
type fakeHost struct {
	log *slog.Logger

	mu       sync.Mutex
	networks map[string]*fakeBackend // all there were, by id
	prefixes []string
}

func newFakeHost(log *slog.Logger) *fakeHost {
	return &fakeHost{log: log, networks: make(map[string]*fakeBackend)}
}

func (h *fakeHost) New(n spec.Network, o Options) (Backend, error) {
	if n.Name == "refuse" {
		return nil, errors.New("make network refuse: not today")
	}
	b := &fakeBackend{o: o}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.networks[n.ID] = b
	return b, nil
}

func (h *fakeHost) Reserve(ps ...netip.Prefix) error { return h.note("reserve", ps) }
func (h *fakeHost) Release(ps ...netip.Prefix) error { return h.note("release", ps) }

func (h *fakeHost) note(what string, ps []netip.Prefix) error {
	if slices.Contains(ps, netip.Prefix{}) {
		return errors.New("prefix of nothing")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.prefixes = append(h.prefixes, fmt.Sprint(what, " ", ps))
	return nil
}

// told returns what the host and one Network remember.
func (h *fakeHost) told(network string) (prefixes, calls []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.prefixes), h.networks[network].told()
}

// fakeBackend remembers what it was told. Some ids have a meaning: "refuse" is refused, "panic" panics in a
// goroutine of its own, "hang" never returns, "event" sends an event.
type fakeBackend struct {
	o Options

	mu  sync.Mutex
	log []string
}

func (b *fakeBackend) note(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log = append(b.log, fmt.Sprintf(format, args...))
}

// told returns what it remembers.
func (b *fakeBackend) told() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.log)
}

func (b *fakeBackend) Attach(ep spec.Endpoint, f *os.File, info tap.Info) error {
	defer f.Close()
	switch ep.ID {
	case "refuse":
		return errors.New("attach refuse: not today")
	case "panic":
		done := make(chan struct{})
		go func() { defer close(done); panic("the packet that caused it") }()
		<-done
	case "hang":
		f.WriteString("hanging")
		<-time.After(time.Hour)
	case "event":
		b.o.EndpointDown(ep.ID, errors.New("gone"))
	}
	b.o.Log.Debug("attach", "endpoint", ep.ID) // the first line after the isolation
	b.note("attach %s %s", ep.ID, info.Name)
	_, err := f.WriteString("attached")
	return err
}

func (b *fakeBackend) Update(ep spec.Endpoint) error {
	if ep.ID == "refuse" {
		return errors.New("update refuse: not today")
	}
	b.note("update %s %v", ep.ID, ep.Names)
	return nil
}

func (b *fakeBackend) Detach(id string) error { b.note("detach %s", id); return nil }

func (b *fakeBackend) Publish(id string, s portfwd.Spec, f *os.File, endpoint string) error {
	defer f.Close()
	b.note("publish %s %s %s", id, s, endpoint)
	return nil
}

func (b *fakeBackend) Socket(endpoint string, f *os.File) error {
	defer f.Close()
	b.note("socket %s", endpoint)
	return nil
}

func (b *fakeBackend) Unpublish(id string) error { b.note("unpublish %s", id); return nil }
func (b *fakeBackend) SetDNS(c dnsproxy.Config)  { b.note("dns %v %v", c.Upstreams, c.Hosts) }
func (b *fakeBackend) HostChanged()              { b.note("host changed") }
func (b *fakeBackend) Stats() spec.Stats         { return spec.Stats{TCPFlows: 7} }
func (b *fakeBackend) Close() error              { b.note("close"); return nil }
func (b *fakeBackend) Capture(f *os.File, more bool) error {
	b.note("capture %v", more)
	return f.Close()
}
