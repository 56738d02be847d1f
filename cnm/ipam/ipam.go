package ipam

import (
	"net/netip"

	"github.com/usernet/usernet/cnm/fault"
)

// Driver gives out prefixes and addresses. Allocator is Docker's default one, Null the one for Networks
// without addresses.
type Driver interface {
	RequestPool(PoolRequest) (Pool, error)
	ReleasePool(id string) error
	// RequestAddress gives out want, or any when want is not valid. The result has the length of the Pool; it is
	// not valid when the driver has no addresses to give.
	RequestAddress(pool string, want netip.Addr) (netip.Prefix, error)
	// ReleaseAddress makes one free. That it is free already is no error.
	ReleaseAddress(pool string, a netip.Addr) error
	Usage(pool string) (Usage, error)
}

// PoolRequest says which Pool is wanted.
type PoolRequest struct {
	// Prefix is the one to have. Of an unspecified one (0.0.0.0/24) only the length counts, and of one that is
	// not valid nothing: then any will do.
	Prefix netip.Prefix
	// Range is the part of Prefix to choose addresses from; one that is not valid means all.
	Range netip.Prefix
	// V6 is the family where Prefix does not say it.
	V6 bool
}

// Pool is a prefix that was given out.
type Pool struct {
	// ID is Docker's: LocalDefault/172.28.0.0/16/172.28.5.0/24.
	ID            string
	Prefix, Range netip.Prefix
}

// Usage counts a Pool's addresses as Docker's Status does; the counts stop at the largest number.
type Usage struct {
	// InUse counts those nobody can have, that of the network and the broadcast one among them.
	InUse uint64
	// Free are those left to choose from: of the Range where there is one.
	Free uint64
}

// The failures of a Driver, with Docker's texts and kinds.
var (
	ErrNoMorePools  = fault.New(fault.Invalid, "all predefined address pools have been fully subnetted")
	ErrPoolOverlap  = fault.New(fault.Forbidden, "invalid pool request: Pool overlaps with other one on this address space")
	ErrInvalidPool  = fault.New(fault.Invalid, "invalid address pool")
	ErrInvalidRange = fault.New(fault.Invalid, "invalid address subpool")
	ErrInvalidSpace = fault.New(fault.Invalid, "invalid address space")
	ErrAddressInUse = fault.New(fault.Forbidden, "Address already in use")
	ErrOutOfRange   = fault.New(fault.Invalid, "requested address is out of range")
	ErrNoAddresses  = fault.New(fault.Unavailable, "no available addresses on this pool")
)

// Drivers are the known ones by name.
type Drivers map[string]Driver

// Get finds one.
func (d Drivers) Get(name string) (Driver, error) {
	if found, ok := d[name]; ok {
		return found, nil
	}
	return nil, fault.New(fault.NotFound, "could not find plugin %s in v1 plugin registry: plugin not found", name)
}
