package gateway

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/stack/spec"
)

// # Theory of operation
//
// A netstack is by far the largest part of an idle Network: 75 KiB, half of it a neighbour table that is made for 512 entries, and three
// goroutines. Most of a thousand Networks say nothing for hours, and what their containers do say is mostly not TCP. So a gateway's
// netstack is made by the first packet or connection that needs it, on the goroutine that brings it, within half a millisecond. Names,
// UDP, pings of the outside, DHCP, ARP and neighbour discovery of our own addresses do without.
//
// Whoever needs it calls netstack, which makes it once and lets others wait until it is complete: with its addresses, its listeners and
// what is known of the neighbours. It stays until the gateway closes, whoever leaves the Network. Close seals it: from then on none is
// made. That one cannot be made is not to be expected (New has looked at the addresses, and memory that is lacking ends a Go process);
// then it is logged once, and segments are dropped and counted.
type lazyStack struct {
	once  sync.Once
	stack *gvstack.Stack // written within once; nil: it could not be made, or sealed before
	err   error          // written within once; why there is none

	// known is stack as soon as it is to be told of neighbours; nil: there is nobody to tell.
	known atomic.Pointer[gvstack.Stack]

	dns []*gonet.TCPListener // written within once; the name server's
}

// seal lets no netstack be made from now on, and returns the one there is. Its listeners are closed.
func (l *lazyStack) seal() *gvstack.Stack {
	l.once.Do(func() { l.err = net.ErrClosed })
	for _, dns := range l.dns {
		dns.Close()
	}
	return l.stack
}

// netstack returns the gateway's netstack, which the first call makes.
func (g *Gateway) netstack() (*gvstack.Stack, error) {
	l := &g.stack
	l.once.Do(func() {
		if l.stack, l.err = g.newStack(); l.err != nil {
			g.log.Error("gateway is without TCP", "err", l.err)
		}
	})
	return l.stack, l.err
}

// newStack makes the netstack of this Network: one NIC that accepts every destination
// (promiscuous) and sends as every source (spoofing), since it speaks for the whole outside.
func (g *Gateway) newStack() (*gvstack.Stack, error) {
	protocols := []gvstack.NetworkProtocolFactory{
		// The resolver answers at a loopback address; inputFrame lets no other in.
		ipv4.NewProtocolWithOptions(ipv4.Options{AllowExternalLoopbackTraffic: true}),
		arp.NewProtocol,
	}
	// Whatever address netstack sends to is a container's, be it outside the subnets: of a bridge in the container,
	// or the host's own (AnyNeighbour). Where it lives the neighbour table knows, or nobody.
	routes := []tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nicID}}
	if g.has6() { // it is a third of a netstack's memory
		// No DAD, no RAs, no MLD: the addresses are ours by decision of control.
		protocols = append(protocols, ipv6.NewProtocolWithOptions(ipv6.Options{}))
		routes = append(routes, tcpip.Route{Destination: header.IPv6EmptySubnet, NIC: nicID})
	}
	var s *gvstack.Stack
	// netstack makes a goroutine for the segments of TCP for each P there is now, which costs 3 KiB, and shares connections among them.
	sys.WithMostProcessors(func() {
		s = gvstack.New(gvstack.Options{
			NetworkProtocols:   protocols,
			TransportProtocols: []gvstack.TransportProtocolFactory{tcp.NewProtocolCUBIC, udp.NewProtocol},
		})
	})
	if err := g.setUp(s, routes); err != nil {
		s.Close()
		s.Wait()
		return nil, fmt.Errorf("make netstack: %w", err)
	}
	g.stack.known.Store(s)
	for a := range g.neighbours.all() { // those that come or go meanwhile it is told by whoever changes them
		g.tell(a)
	}
	return s, nil
}

// setUp makes a netstack this Network's, with the NIC last: from then on it has packets.
func (g *Gateway) setUp(s *gvstack.Stack, routes []tcpip.Route) error {
	if err := setTCPOptions(s); err != nil {
		return err
	}
	if err := s.CreateNICWithOptions(nicID, g.link, gvstack.NICOptions{Name: "gateway"}); err != nil {
		return fmt.Errorf("create NIC: %s", err)
	}
	s.SetPromiscuousMode(nicID, true)
	s.SetSpoofing(nicID, true)
	s.SetRouteTable(routes)
	fwd := tcp.NewForwarder(s, initialWindow, totalHandshakes+1024, g.workers.handle)
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, fwd.HandlePacket)
	for _, a := range g.addrs {
		pa := tcpip.ProtocolAddress{Protocol: netProto(a), AddressWithPrefix: tcpip.AddressWithPrefix{Address: toTCPIP(a), PrefixLen: a.BitLen()}}
		if err := s.AddProtocolAddress(nicID, pa, gvstack.AddressProperties{}); err != nil {
			return fmt.Errorf("add address %s: %s", a, err)
		}
	}
	return g.serveDNS(s)
}

// serveDNS starts the name server's TCP listeners.
func (g *Gateway) serveDNS(s *gvstack.Stack) error {
	if g.svc.DNS == nil {
		return nil
	}
	var all []*gonet.TCPListener
	for _, a := range g.dnsAddrs {
		l, err := gonet.ListenTCP(s, tcpip.FullAddress{NIC: nicID, Addr: toTCPIP(a), Port: 53}, netProto(a))
		if err != nil {
			for _, l := range all {
				l.Close()
			}
			return fmt.Errorf("listen on %s port 53 of the gateway: %w", a, err)
		}
		all = append(all, l)
	}
	g.stack.dns = all
	for i, l := range all {
		g.wg.Go(func() {
			if err := g.svc.DNS.ServeTCP(l); err != nil && !g.closed.Load() {
				g.log.Warn("name server stopped answering over TCP", "addr", g.dnsAddrs[i], "err", err)
			}
		})
	}
	return nil
}

// chooseAddresses says at which addresses we answer, addrs, and at which of them the name server does, dnsAddrs. All but the
// resolver's are own: nobody asks the link for that one, and it does not answer pings. An address that netstack would not take is
// refused now, not with the first packet.
func (g *Gateway) chooseAddresses() error {
	n := &g.cfg.Spec
	if g.has6() {
		g.linkLL = LinkLocal(n.GatewayMAC)
	}
	var all []netip.Addr
	if !n.NoGateway {
		all = []netip.Addr{n.DNS4, n.DNS6, g.linkLL}
		for _, gw := range []netip.Addr{n.Gateway4, n.Gateway6} {
			// With AnyNeighbour it is a real router's, which answers for itself. Its link-local address nobody
			// but us can answer at.
			if !n.AnyNeighbour || gw.IsLinkLocalUnicast() && gw.Is6() {
				all = append(all, gw)
			}
		}
		g.dnsAddrs = []netip.Addr{n.DNS4, n.DNS6}
	}
	if n.Subnet4.IsValid() {
		all, g.dnsAddrs = append(all, spec.LoopbackDNS), append(g.dnsAddrs, spec.LoopbackDNS)
	}
	g.dnsAddrs = distinct(g.dnsAddrs)
	g.addrs = distinct(all)
	for _, a := range g.addrs {
		switch {
		case a.Is6() && !g.has6():
			return fmt.Errorf("address %s: the network has no IPv6 subnet", a)
		case a.IsUnspecified() || a.IsMulticast() || a.Is4In6() || a.Zone() != "":
			return fmt.Errorf("address %s is not that of a single station", a)
		}
		g.own[a] = a != spec.LoopbackDNS
	}
	return nil
}

// distinct returns the valid ones of some addresses, each once.
func distinct(addrs []netip.Addr) (out []netip.Addr) {
	for _, a := range addrs {
		if a.IsValid() && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// has6 reports whether the Network has IPv6.
func (g *Gateway) has6() bool { return g.cfg.Spec.Subnet6.IsValid() }
