package driver

import (
	"sync"

	"github.com/usernet/usernet/cnm/fault"
)

// Registry holds the drivers by type. The zero Registry is empty and ready.
type Registry struct {
	mu sync.Mutex
	// +checklocks:mu
	drivers map[string]Driver
}

// Register adds a driver under its type.
func (r *Registry) Register(d Driver) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := d.Type()
	if name == "" {
		return fault.New(fault.Invalid, "register driver: its type is empty")
	}
	if _, ok := r.drivers[name]; ok {
		return fault.New(fault.Forbidden, "driver already registered for type %q", name)
	}
	if r.drivers == nil {
		r.drivers = make(map[string]Driver)
	}
	r.drivers[name] = d
	return nil
}

// Get finds the driver of a type.
func (r *Registry) Get(name string) (Driver, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d, ok := r.drivers[name]; ok {
		return d, nil
	}
	return nil, fault.New(fault.NotFound, "could not find plugin %s in v1 plugin registry: plugin not found", name)
}
