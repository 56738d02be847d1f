package cnm

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/dnsproxy/resolvconf"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/spec"
	"github.com/usernet/usernet/tap"
)

// sandboxState is how far a sandbox is.
//
//	joining ──► joined ──► closed
//	    └─────────────────────▲
type sandboxState uint8

const (
	joining sandboxState = iota // its name is taken; nobody finds it yet
	joined
	closed
)

// Sandbox is a container's network namespace with its Endpoints.
type Sandbox struct {
	c    *Controller
	conf SandboxConfig
	ns   Namespace
	// What the files are made of; fixed when it joins.
	host  resolvconf.Config
	dns   DNS
	links []link // legacy ones

	// ctx ends with the sandbox, and with it whatever is being asked of its namespaces.
	ctx    context.Context
	cancel context.CancelFunc
	// started is closed when its command runs: only then can its namespaces be changed.
	started chan struct{}

	// op is held, by a value in it, by whoever changes the sandbox; it orders changes and is held while
	// the shim is asked for something. It is the first lock to be taken.
	op chan struct{}
	// told is what the namespaces were last told with success; guarded by op.
	told told
	// lead is where the ports lead now; guarded by op.
	lead [2]*endpoint
	// strays are Endpoints that are gone and whose interfaces may not be; guarded by op.
	strays []string

	// These are written with op and Controller.mu held, so either is enough to read them.
	state     sandboxState
	pid       int
	endpoints []*endpoint        // in the order they came
	want      []portfwd.Spec     // ports asked for
	bound     []portfwd.Listener // their sockets, none while no leg may have ports

	// syncing is set while a goroutine is to bring the namespaces up to date; guarded by Controller.mu.
	syncing bool
	// retrying is set while one waits to have that done again; guarded by Controller.mu, and waits counts it.
	retrying bool
	waits    sync.WaitGroup
	// retries are the tries that failed in a row; guarded by op.
	retries retries
}

// told is the last that a shim heard of.
type told struct {
	routes *plumb.Routes
	files  []plumb.File
	kept   []portfwd.Spec
	keep   bool // kept is known
}

// lock takes op; it fails when ctx or the sandbox ends first.
func (sb *Sandbox) lock(ctx context.Context) error {
	select {
	case sb.op <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-sb.ctx.Done():
		return sb.gone()
	}
	if sb.state == closed {
		sb.unlock()
		return sb.gone()
	}
	return nil
}

func (sb *Sandbox) unlock() { <-sb.op }

// gone is the error of everything after the end.
func (sb *Sandbox) gone() error {
	return NoSuchContainer(sb.conf.Name)
}

// lockSoon is lock once the command runs, for a caller that would not wait long for that.
func (sb *Sandbox) lockSoon(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fault.New(fault.Unavailable, "container %s is busy; try again", sb.conf.Name))
	defer cancel()
	return sb.lockRunning(ctx)
}

// lockRunning is lock once the command runs.
func (sb *Sandbox) lockRunning(ctx context.Context) error {
	select {
	case <-sb.started:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-sb.ctx.Done():
		return sb.gone()
	}
	return sb.lock(ctx)
}

func (sb *Sandbox) isStarted() bool {
	select {
	case <-sb.started:
		return true
	default:
		return false
	}
}

// findSandboxLocked finds a joined sandbox: by id, name, or the beginning of its id.
func (c *Controller) findSandboxLocked(ref string) (*Sandbox, error) {
	all := func(yield func(*Sandbox) bool) {
		for _, sb := range c.sandboxes {
			if sb.state == joined && !yield(sb) {
				return
			}
		}
	}
	return MatchContainer(all, ref, func(sb *Sandbox) (id, name string) { return sb.conf.ID, sb.conf.Name })
}

func (c *Controller) findSandbox(ref string) (*Sandbox, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.findSandboxLocked(ref)
}

// sandboxesLocked are those that joined, the newest first.
func (c *Controller) sandboxesLocked() []*Sandbox {
	all := slices.DeleteFunc(slices.Collect(maps.Values(c.sandboxes)), func(sb *Sandbox) bool { return sb.state != joined })
	slices.SortFunc(all, func(a, b *Sandbox) int {
		if d := b.conf.Created.Compare(a.conf.Created); d != 0 {
			return d
		}
		return strings.Compare(a.conf.ID, b.conf.ID)
	})
	return all
}

// Sandbox finds a sandbox by id, name, or prefix of its id.
func (c *Controller) Sandbox(ref string) (SandboxInfo, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sb, err := c.findSandboxLocked(ref)
	if err != nil {
		return SandboxInfo{}, err
	}
	return sb.infoLocked(), nil
}

// Sandboxes returns all, the newest first.
func (c *Controller) Sandboxes() []SandboxInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []SandboxInfo
	for _, sb := range c.sandboxesLocked() {
		all = append(all, sb.infoLocked())
	}
	return all
}

func (sb *Sandbox) infoLocked() SandboxInfo {
	info := SandboxInfo{SandboxConfig: sb.conf, PID: sb.pid, Ports: specsOf(sb.bound)}
	for _, ep := range sb.endpoints {
		info.Endpoints = append(info.Endpoints, ep.infoLocked())
	}
	return info
}

// Attach hands over the TAP of a Link of Joined; the file stays the caller's. From here on the leg is
// reached by its names, and by its ports when it is the one they lead to. It asks nothing of the Namespace.
func (sb *Sandbox) Attach(endpointID string, dev *os.File, info tap.Info) error {
	if err := sb.lock(context.Background()); err != nil {
		return err
	}
	defer sb.unlock()
	ep := first(sb.endpoints, func(ep *endpoint) bool { return ep.id == endpointID })
	switch {
	case ep == nil:
		return fault.New(fault.NotFound, "attach endpoint %s: it is not one of container %s", shortID(endpointID), sb.conf.Name)
	case ep.state != reserved:
		return fault.New(fault.Conflict, "attach endpoint %s: it is attached already", shortID(endpointID))
	}
	if err := sb.c.wire(ep, dev, info); err != nil {
		return err
	}
	if err := sb.placePorts(); err != nil {
		sb.c.unwire(ep)
		return err
	}
	sb.c.tellRelated(sb)
	sb.laterAttached()
	if !sb.isStarted() { // else it was connected all along, and another daemon told of it
		sb.c.tellNetwork("connect", ep.net, sb.conf.ID)
	}
	return nil
}

// Started says that the command runs; pid is a process in the sandbox's namespaces.
func (sb *Sandbox) Started(pid int) {
	if sb.lock(context.Background()) != nil {
		return // it ended meanwhile
	}
	defer sb.unlock()
	if sb.isStarted() {
		return
	}
	sb.c.mu.Lock()
	sb.pid = pid
	sb.c.mu.Unlock()
	close(sb.started)
	sb.c.later(sb)
	sb.c.tellSandbox("start", &sb.conf)
}

// Stats adds up the counters of the sandbox's Networks.
func (sb *Sandbox) Stats(ctx context.Context) (spec.Stats, error) {
	sb.c.mu.Lock()
	var ids []string
	for _, ep := range sb.endpoints {
		if ep.state == attached {
			ids = append(ids, ep.net.id)
		}
	}
	sb.c.mu.Unlock()
	sum := spec.Stats{Drops: make(map[string]uint64)}
	for _, id := range ids {
		s, err := sb.c.cfg.Datapath.Stats(ctx, id)
		if err != nil {
			return spec.Stats{}, err
		}
		for reason, n := range s.Drops {
			sum.Drops[reason] += n
		}
		sum.TCPFlows += s.TCPFlows
		sum.UDPFlows += s.UDPFlows
		sum.PingFlows += s.PingFlows
		sum.Endpoints += s.Endpoints
		sum.Ports += s.Ports
	}
	return sum, nil
}

// patience is how long a shim may take for one change of its namespaces. One that needs longer is dead or
// stopped; its own connection decides which, not we.
const patience = 10 * time.Second

// asking is ctx bounded by patience and by the life of the sandbox.
func (sb *Sandbox) asking(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errShim)
	stop := context.AfterFunc(sb.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

var errShim = errors.New("the sandbox does not answer")

// Close ends its Endpoints, frees addresses, names and ports: the sandbox is gone. Nothing is asked of its
// namespaces, whatever is being asked of them is given up, and nothing on the way can keep the rest from
// being freed. It is idempotent.
func (sb *Sandbox) Close() error {
	sb.cancel()
	sb.op <- struct{}{}
	defer sb.unlock()
	c := sb.c
	c.mu.Lock()
	if sb.state == closed {
		c.mu.Unlock()
		return nil
	}
	was := sb.state
	sb.state = closed
	endpoints := slices.Clone(sb.endpoints)
	for _, ep := range endpoints {
		ep.state = leaving
	}
	c.mu.Unlock()
	sb.waits.Wait()
	sb.dropPorts()
	for _, ep := range endpoints {
		c.unwire(ep)
	}
	if was == joined {
		c.tellSandbox("die", &sb.conf)
	}
	for _, ep := range endpoints {
		c.removeEndpoint(ep)
		if was == joined {
			c.tellNetwork("disconnect", ep.net, sb.conf.ID)
		}
	}
	c.mu.Lock()
	delete(c.sandboxes, sb.conf.ID)
	c.mu.Unlock()
	c.tellRelated(sb)
	if was == joined {
		c.tellSandbox("destroy", &sb.conf)
	}
	return nil
}
