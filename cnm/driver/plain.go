package driver

import (
	"context"
	"sync"

	"github.com/usernet/usernet/cnm/fault"
)

// Plain is a driver of one Network whose Endpoints have no interface of their own: null and host are such.
type Plain struct {
	name string

	mu sync.Mutex
	// +checklocks:mu
	id string // of the Network; empty: there is none yet
	// joined has the Endpoints; the value is the sandbox each is in, or empty.
	// +checklocks:mu
	joined map[string]string
}

var _ Driver = (*Plain)(nil)

// NewPlain makes a driver of the given type.
func NewPlain(name string) *Plain { return &Plain{name: name, joined: make(map[string]string)} }

// Type returns the driver's name.
func (p *Plain) Type() string { return p.name }

// Capability says that its Network ends with the host.
func (p *Plain) Capability() Capability { return Capability{Data: Local, Connectivity: Local} }

// Gateways says that no address is wanted.
func (p *Plain) Gateways(Network) (v4, v6 bool, err error) { return false, false, nil }

// CreateNetwork makes the one Network there can be.
func (p *Plain) CreateNetwork(_ context.Context, n Network) (Segment, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.id != "" {
		return Segment{}, fault.New(fault.Forbidden, "only one instance of %q network is allowed", p.name)
	}
	p.id = n.ID
	return Segment{}, nil
}

// DeleteNetwork refuses: the Network is always there.
func (p *Plain) DeleteNetwork(context.Context, string) error {
	return fault.New(fault.Forbidden, "network of type %q cannot be deleted", p.name)
}

// CreateEndpoint adds one as it is.
func (p *Plain) CreateEndpoint(_ context.Context, networkID string, e Endpoint) (Endpoint, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.id == "" || networkID != p.id {
		return Endpoint{}, fault.New(fault.NotFound, "network not found: %s", networkID)
	}
	if _, ok := p.joined[e.ID]; ok {
		return Endpoint{}, fault.New(fault.Forbidden, "endpoint %s exists", e.ID)
	}
	p.joined[e.ID] = ""
	return e, nil
}

// DeleteEndpoint forgets one that is in no sandbox.
func (p *Plain) DeleteEndpoint(_ context.Context, networkID, endpointID string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	sandbox, err := p.endpointLocked(networkID, endpointID)
	if err != nil {
		return err
	}
	if sandbox != "" {
		return fault.New(fault.Forbidden, "endpoint with name %s id %s has active containers", endpointID, endpointID)
	}
	delete(p.joined, endpointID)
	return nil
}

// Join puts an Endpoint into a sandbox, which gets nothing of it.
func (p *Plain) Join(_ context.Context, networkID, endpointID, sandboxID string) (Leg, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in, err := p.endpointLocked(networkID, endpointID)
	switch {
	case err != nil:
		return Leg{}, err
	case sandboxID == "":
		return Leg{}, fault.New(fault.Invalid, "join endpoint %s: no sandbox", endpointID)
	case in != "":
		return Leg{}, fault.New(fault.Forbidden, "endpoint %s is in sandbox %s", endpointID, in)
	}
	p.joined[endpointID] = sandboxID
	return Leg{Plain: true}, nil
}

// Leave takes an Endpoint out of its sandbox.
func (p *Plain) Leave(_ context.Context, networkID, endpointID string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.endpointLocked(networkID, endpointID); err != nil {
		return err
	}
	p.joined[endpointID] = ""
	return nil
}

func (p *Plain) endpointLocked(networkID, endpointID string) (sandbox string, err error) {
	sandbox, ok := p.joined[endpointID]
	if !ok || networkID != p.id {
		return "", fault.New(fault.NotFound, "endpoint not found: %s", endpointID)
	}
	return sandbox, nil
}
