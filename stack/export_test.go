package stack

import (
	"net/netip"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/l2"
)

// Reaches reports whether the gateway knows where on the link a is.
func (n *Network) Reaches(a netip.Addr) bool {
	return n.gateway.EmitIP(a, l2.VNet{}, [][]byte{packettest.Echo(n.spec.Gateway4, a, 1, 1, nil)})
}
