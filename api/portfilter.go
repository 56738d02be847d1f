package api

import (
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/usernet/usernet/cnm/fault"
)

// portFilter are ranges of ports of a protocol; none lets everything through.
type portFilter []network.PortRange

func parsePorts(values []string) (portFilter, error) {
	var p portFilter
	for _, v := range values {
		r, err := network.ParsePortRange(v)
		if err != nil {
			return nil, fault.New(fault.Invalid, "invalid filter: %w", err)
		}
		p = append(p, r)
	}
	return p, nil
}

func (p portFilter) has(n uint16, proto string) bool {
	return slices.ContainsFunc(p, func(r network.PortRange) bool {
		return string(r.Proto()) == proto && r.Start() <= n && n <= r.End()
	})
}

func (p portFilter) private(c container.Summary) bool {
	return len(p) == 0 || slices.ContainsFunc(c.Ports, func(s container.PortSummary) bool { return p.has(s.PrivatePort, s.Type) })
}

func (p portFilter) public(c container.Summary) bool {
	return len(p) == 0 || slices.ContainsFunc(c.Ports, func(s container.PortSummary) bool {
		return s.PublicPort != 0 && p.has(s.PublicPort, s.Type)
	})
}
