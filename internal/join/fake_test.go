package join

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// fakeController admits sandboxes and remembers what it was given.
type fakeController struct {
	links []plumb.Link       // what a join gets
	ports []portfwd.Listener // what a join binds
	block chan struct{}      // not nil: join sends to it and waits for the end of its context

	mu        sync.Mutex
	refuse    error // of join and rejoin
	refused   int   // how many were
	sandboxes []*fakeSandbox
	endpoints []cnm.EndpointInfo
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
	stuck  chan struct{} // when not nil, Close waits for a word
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
	if len(c.ports) > 0 {
		if err := ns.Keep(ctx, c.ports); err != nil {
			return nil, cnm.Joined{}, err
		}
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
	if c.refuse != nil {
		c.refused++
	}
	return c.refuse
}

// refusals is how many joins and rejoins were refused.
func (c *fakeController) refusals() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refused
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

// addEndpoint is a leg that a connect is making.
func (c *fakeController) addEndpoint(e cnm.EndpointInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endpoints = append(c.endpoints, e)
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
	s.mu.Lock()
	stuck := s.stuck
	s.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
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
