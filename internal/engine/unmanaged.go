package engine

import (
	"context"
	"sync"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/internal/control/registry"
)

// Sandboxes that need no daemon (private, none, host, another's network) tell it nothing when they come and go. So
// while somebody reads events the registry is looked at twice a second, and what changed is told as the Controller
// would tell it; a daemon that nobody listens to does not wake. One that lives for less than that may be missed.

// unmanagedInterval is between two looks.
const unmanagedInterval = 500 * time.Millisecond

// unmanaged are the sandboxes of the registry that the Controller does not know of.
type unmanaged struct {
	ctx    context.Context // ends with the Engine
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex // guards what follows; held during a look, so that one follows the other
	runs  bool
	known map[string]registry.Entry // by id
}

// watchUnmanaged sees to it that they are looked at while somebody reads events.
func (e *Engine) watchUnmanaged() {
	u := &e.unmanaged
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.runs || u.ctx.Err() != nil {
		return
	}
	// Who is there now is no news.
	known, err := e.listUnmanaged()
	if err != nil {
		e.log.Warn("containers without a daemon are not watched", "err", err)
		return
	}
	u.known, u.runs = known, true
	u.wg.Go(func() {
		tick := time.NewTicker(unmanagedInterval)
		defer tick.Stop()
		for e.lookAtUnmanaged() {
			select {
			case <-tick.C:
			case <-u.ctx.Done():
				return
			}
		}
	})
}

// close ends the watching and waits for it.
func (u *unmanaged) close() {
	u.mu.Lock()
	u.cancel() // after it nothing begins
	u.mu.Unlock()
	u.wg.Wait()
}

func (e *Engine) listUnmanaged() (map[string]registry.Entry, error) {
	entries, err := e.reg.List(e.unmanaged.ctx)
	if err != nil {
		return nil, err
	}
	all := make(map[string]registry.Entry)
	for _, s := range entries {
		if !s.Joined() {
			all[s.ID] = s
		}
	}
	return all, nil
}

// lookAtUnmanaged tells what has changed since the last look. It is false when nobody listens any more.
func (e *Engine) lookAtUnmanaged() bool {
	u := &e.unmanaged
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.runs = e.events.listeners() > 0; !u.runs {
		return false
	}
	now, err := e.listUnmanaged()
	if err != nil {
		return true // what is not seen now is seen later
	}
	for id, s := range u.known {
		if _, ok := now[id]; !ok {
			e.tellUnmanaged(s, "die")
			e.tellNetworkOf(s, "disconnect")
			e.tellUnmanaged(s, "destroy")
		}
	}
	for id, s := range now {
		if _, ok := u.known[id]; !ok {
			e.tellUnmanaged(s, "create")
			e.tellNetworkOf(s, "connect")
			e.tellUnmanaged(s, "start")
		}
	}
	u.known = now
	return true
}

func (e *Engine) tellUnmanaged(s registry.Entry, action string) {
	e.events.add(message(cnm.Event{Type: "container", Action: action, ID: s.ID, Attributes: map[string]string{"name": s.Name}, Time: e.now()}))
}

// tellNetworkOf tells of the Networks that are shown with such a sandbox in them.
func (e *Engine) tellNetworkOf(s registry.Entry, action string) {
	if s.Mode != network.NetworkNone && s.Mode != network.NetworkHost {
		return
	}
	n, err := e.c.Network(s.Mode)
	if err != nil {
		return
	}
	e.events.add(message(cnm.Event{
		Type: "network", Action: action, ID: n.ID, Time: e.now(),
		Attributes: map[string]string{"name": n.Name, "type": n.Driver, "container": s.ID},
	}))
}
