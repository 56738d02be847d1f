package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/internal/control"
	"github.com/usernet/usernet/internal/control/registry"
	"github.com/usernet/usernet/internal/join"
	"github.com/usernet/usernet/tap/taptest"
)

// A crowd is containers by the thousand, more than a machine has memory for. The bench stands in for their shims: each
// is a connection to the daemon's join socket, an entry in the registry and the TAP, as a shim's is. Only there is no
// namespace behind the TAP, which is a pair of sockets; nothing reads the other end. Daemon and datapath are the
// real ones and see no difference.
type crowd struct {
	daemon   *daemon
	registry *registry.Dir
	members  []*member
	log      complaints // of all members
}

// member is one container.
type member struct {
	place  *registry.Registration
	client *join.Client
	fars   []*taptest.SocketFar
	obeys  sync.WaitGroup // obey
}

// newCrowd opens the registry that daemon d looks into.
func newCrowd(d *daemon) (*crowd, error) {
	// The registry goes by the environment.
	const name = "XDG_RUNTIME_DIR"
	old := os.Getenv(name)
	if err := os.Setenv(name, d.runtime()); err != nil {
		return nil, err
	}
	r, err := registry.Open()
	return &crowd{daemon: d, registry: r}, errors.Join(err, os.Setenv(name, old))
}

// add starts a container in a network, and returns how long the daemon made it wait: for its address, and until its
// TAP was attached.
func (c *crowd) add(ctx context.Context, name, network string) (wait time.Duration, err error) {
	m := &member{}
	if m.place, err = c.registry.Reserve(name); err != nil {
		return 0, err
	}
	c.members = append(c.members, m) // with whatever it has when the rest fails
	e := registry.Entry{
		ID: registry.NewID(), Name: name, Kind: "run", Mode: network, Networks: []string{network},
		ShimPID: os.Getpid(), PID: os.Getpid(), Created: time.Now(),
	}
	log := slog.New(slog.NewTextHandler(&c.log, &slog.HandlerOptions{Level: slog.LevelError}))
	start := time.Now()
	var joined cnm.Joined
	m.client, joined, err = join.Dial(ctx, c.daemon.socket(joinSocket), cnm.SandboxConfig{
		ID: e.ID, Name: name, Hostname: name, Kind: e.Kind, Created: e.Created, ShimPID: e.ShimPID,
		Networks: []cnm.EndpointConfig{{Network: network}},
	}, join.Options{Log: log})
	wait = time.Since(start)
	if err != nil {
		return 0, fmt.Errorf("join %s to %s: %w", name, network, err)
	}
	m.obeys.Go(m.obey)
	for _, l := range joined.Links {
		f, info, far, err := taptest.Socket(l.Name, l.MTU, true)
		if err != nil {
			return 0, err
		}
		m.fars = append(m.fars, far)
		start := time.Now()
		err = m.client.Attach(l.EndpointID, f, info)
		wait += time.Since(start)
		if err := errors.Join(err, f.Close()); err != nil {
			return 0, fmt.Errorf("attach %s to %s: %w", name, network, err)
		}
	}
	m.client.Started(e.PID)
	return wait, m.place.Serve(e, m.client, log)
}

// obey agrees to every change that the daemon wants in the namespaces that are not there, until the client is closed.
func (m *member) obey() {
	for {
		select {
		case change := <-m.client.Changes():
			change.Reply <- nil
		case <-m.client.Done():
			return
		}
	}
}

// back tells whether all have a daemon again, after their n-th.
func (c *crowd) back(n int) bool {
	for _, m := range c.members {
		if s := m.client.Status(); s.State != control.Running || s.Restarts < n {
			return false
		}
	}
	return true
}

// leave ends all containers.
func (c *crowd) leave() (err error) {
	for _, m := range c.members {
		if m.client != nil {
			err = errors.Join(err, m.client.Close())
		}
		m.obeys.Wait()
		for _, far := range m.fars {
			err = errors.Join(err, far.Close())
		}
		err = errors.Join(err, m.place.Close())
	}
	c.members = nil
	return err
}

// close ends what is left.
func (c *crowd) close() error { return errors.Join(c.leave(), c.registry.Close()) }

// complaints keep the first thing that went wrong behind the back of whoever waits.
type complaints struct {
	mu    sync.Mutex // guards first
	first []byte
}

func (c *complaints) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first == nil {
		c.first = bytes.Clone(b)
	}
	return len(b), nil
}

// err is what was complained of.
func (c *complaints) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first == nil {
		return nil
	}
	return errors.New(string(bytes.TrimSpace(c.first)))
}
