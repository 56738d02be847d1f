package ipam

import (
	"net/netip"

	"github.com/usernet/usernet/cnm/fault"
)

// Null is the IPAM driver of Networks without addresses. Its one Pool is everybody's.
type Null struct{}

var _ Driver = Null{}

var nullPool = Pool{ID: "null/0.0.0.0/0", Prefix: netip.MustParsePrefix("0.0.0.0/0")}

// RequestPool refuses to give out anything in particular.
func (Null) RequestPool(r PoolRequest) (Pool, error) {
	switch {
	case r.V6:
		return Pool{}, fault.New(fault.Invalid, "null ipam driver does not handle IPv6 address pool requests")
	case r.Prefix.IsValid():
		return Pool{}, fault.New(fault.Invalid, "null ipam driver does not handle specific address pool requests")
	case r.Range.IsValid():
		return Pool{}, fault.New(fault.Invalid, "null ipam driver does not handle specific address subpool requests")
	}
	return nullPool, nil
}

// ReleasePool does nothing.
func (Null) ReleasePool(id string) error { return knownNull(id) }

// RequestAddress gives out none, and none is no error.
func (Null) RequestAddress(id string, _ netip.Addr) (netip.Prefix, error) {
	return netip.Prefix{}, knownNull(id)
}

// ReleaseAddress does nothing.
func (Null) ReleaseAddress(id string, _ netip.Addr) error { return knownNull(id) }

// Usage is nothing in use and nothing free.
func (Null) Usage(id string) (Usage, error) { return Usage{}, knownNull(id) }

func knownNull(id string) error {
	if id != nullPool.ID {
		return fault.New(fault.Invalid, "unknown pool id: %s", id)
	}
	return nil
}
