package cnm

import (
	"maps"
	"slices"
	"sync"
)

// events tells subscribers what happened, each of them everything in one order.
type events struct {
	// telling is held while subscribers are called; it orders Events. Nothing is locked below it but mu.
	telling sync.Mutex

	// mu guards what follows.
	mu   sync.Mutex
	subs map[int]func(Event)
	next int
}

// Subscribe has f called for every Event until cancel is called. f must not block; it may ask the Controller
// for networks and sandboxes.
func (c *Controller) Subscribe(f func(Event)) (cancel func()) {
	e := &c.events
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.subs == nil {
		e.subs = make(map[int]func(Event))
	}
	id := e.next
	e.next++
	e.subs[id] = f
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.subs, id)
	}
}

// tell is called with none of the Controller's locks held.
func (c *Controller) tell(ev Event) {
	e := &c.events
	e.telling.Lock()
	defer e.telling.Unlock()
	e.mu.Lock()
	subs := make([]func(Event), 0, len(e.subs))
	for _, id := range slices.Sorted(maps.Keys(e.subs)) {
		subs = append(subs, e.subs[id])
	}
	e.mu.Unlock()
	ev.Time = c.cfg.Now()
	for _, f := range subs {
		f(ev)
	}
}

// tellNetwork tells of a Network, and of the sandbox whose leg came or went.
func (c *Controller) tellNetwork(action string, n *network, sandbox string) {
	attrs := map[string]string{"name": n.conf.Name, "type": n.conf.Driver}
	if sandbox != "" {
		attrs["container"] = sandbox
	}
	c.tell(Event{Type: "network", Action: action, ID: n.id, Attributes: attrs})
}

// tellSandbox tells of a sandbox.
func (c *Controller) tellSandbox(action string, s *SandboxConfig) {
	c.tell(Event{Type: "container", Action: action, ID: s.ID, Attributes: map[string]string{"name": s.Name}})
}
