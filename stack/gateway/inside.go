package gateway

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"github.com/usernet/usernet/stack/ip"
)

// Conversations of our own with containers, which the name server has when a container is the name server of others. They are netstack's.
// Of UDP it is given what belongs to one of them and nothing else: all other datagrams go the ways they always go.

// inside is which UDP conversations there are.
type inside struct {
	mu  sync.RWMutex
	udp map[insideKey]bool // guarded by mu
}

// insideKey tells one from another: by our port, and by whom it is with.
type insideKey struct {
	own  netip.AddrPort
	with netip.AddrPort
}

func (in *inside) set(k insideKey, is bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case !is:
		delete(in.udp, k)
		return
	case in.udp == nil:
		in.udp = make(map[insideKey]bool)
	}
	in.udp[k] = true
}

func (in *inside) has(k insideKey) bool {
	in.mu.RLock()
	defer in.mu.RUnlock()
	return in.udp[k]
}

// inputInside gives netstack a datagram of one of our own conversations, and reports whether it was one.
func (g *Gateway) inputInside(p *ip.Packet, src, dst uint16) bool {
	if !g.inside.has(insideKey{netip.AddrPortFrom(p.Dst, dst), netip.AddrPortFrom(p.Src, src)}) {
		return false
	}
	g.link.inject(nil, netProto(p.Src), p.Data, 0, len(p.Data))
	return true
}

// DialInside begins a conversation with a container, from an address of ours, over network: "tcp", which takes until the container
// has answered or ctx has ended, or "udp". The caller closes it before the Gateway.
func (g *Gateway) DialInside(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	own := g.ownFor(to.Addr())
	switch {
	case !own.IsValid():
		return nil, fmt.Errorf("dial %s in the network: the gateway has no address there", to)
	case g.Station(to.Addr()).IsZero():
		return nil, fmt.Errorf("dial %s in the network: no container has that address", to)
	}
	s, err := g.netstack()
	if err != nil {
		return nil, fmt.Errorf("dial %s in the network: %w", to, err)
	}
	local := tcpip.FullAddress{NIC: nicID, Addr: toTCPIP(own)}
	remote := tcpip.FullAddress{NIC: nicID, Addr: toTCPIP(to.Addr()), Port: to.Port()}
	if network == "tcp" {
		c, err := gonet.DialTCPWithBind(ctx, s, local, remote, netProto(own))
		if err != nil {
			return nil, fmt.Errorf("dial %s in the network: %w", to, err)
		}
		return c, nil
	}
	c, err := gonet.DialUDP(s, &local, &remote, netProto(own))
	if err != nil {
		return nil, fmt.Errorf("dial %s in the network: %w", to, err)
	}
	k := insideKey{netip.AddrPortFrom(own, uint16(c.LocalAddr().(*net.UDPAddr).Port)), to}
	g.inside.set(k, true)
	return &insideUDP{UDPConn: c, end: func() { g.inside.set(k, false) }}, nil
}

// insideUDP is a UDP conversation.
type insideUDP struct {
	*gonet.UDPConn
	end func()
}

// Read implements net.Conn. To its caller EOF would be a datagram without payload.
func (c *insideUDP) Read(b []byte) (int, error) {
	n, err := c.UDPConn.Read(b)
	if err == io.EOF {
		err = net.ErrClosed
	}
	return n, err
}

// Close implements net.Conn.
func (c *insideUDP) Close() error {
	c.end()
	return c.UDPConn.Close()
}

// ownFor is an address of ours that speaks to a; invalid: there is none.
func (g *Gateway) ownFor(a netip.Addr) netip.Addr {
	n := &g.cfg.Spec
	from := []netip.Addr{n.DNS4, n.Gateway4}
	if a.Is6() {
		from = []netip.Addr{n.DNS6, n.Gateway6, g.linkLL}
	}
	for _, own := range from {
		if g.own[own] {
			return own
		}
	}
	return netip.Addr{}
}
