package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/usernet/usernet/cnm/fault"
)

// SubnetRequest is what a Network asks for in one family: a Pool with a gateway and addresses set aside.
type SubnetRequest struct {
	PoolRequest
	// Gateway is the wanted one; one that is not valid means the first free.
	Gateway netip.Addr
	// NoGateway means that none is given out unless Gateway asks for one.
	NoGateway bool
	// Aux are addresses that are somebody else's, by their names.
	Aux map[string]netip.Addr
}

// Subnet is what it got.
type Subnet struct {
	Pool
	Gateway netip.Addr // not valid: none
	Aux     map[string]netip.Addr
}

// RequestSubnet asks a Driver for a Pool, then the gateway, then the addresses set aside, all or nothing.
func RequestSubnet(d Driver, r SubnetRequest) (Subnet, error) {
	p, err := d.RequestPool(r.PoolRequest)
	if err != nil {
		return Subnet{}, err
	}
	s := Subnet{Pool: p, Aux: maps.Clone(r.Aux)}
	if err := s.fill(d, r); err != nil {
		return Subnet{}, errors.Join(err, d.ReleasePool(p.ID))
	}
	return s, nil
}

func (s *Subnet) fill(d Driver, r SubnetRequest) error {
	if r.Gateway.IsValid() || !r.NoGateway {
		gw, err := d.RequestAddress(s.ID, r.Gateway)
		switch {
		case err != nil && r.Gateway.IsValid():
			return fmt.Errorf("failed to allocate gateway (%s): %w", r.Gateway, err)
		case err != nil:
			return fmt.Errorf("failed to allocate gateway (): %w", err)
		}
		s.Gateway = gw.Addr()
	}
	for _, name := range slices.Sorted(maps.Keys(r.Aux)) {
		a := r.Aux[name]
		if !s.Prefix.Contains(a) {
			return fault.New(fault.Forbidden, "auxiliary address: (%s:%s) must belong to the master pool: %s", name, a, s.Prefix)
		}
		if _, err := d.RequestAddress(s.ID, a); err != nil {
			return fmt.Errorf("failed to allocate secondary ip address (%s:%s): %w", name, a, err)
		}
	}
	return nil
}
