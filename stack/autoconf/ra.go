package autoconf

import (
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/ndp"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
)

const (
	icmpRouterSolicitation = 133 // RFC 4861 §4.1

	routerLifetime = 65535 * time.Second // the most there is (RFC 8319 §4)
	refreshEvery   = routerLifetime / 3

	// slaacBits is the only prefix length Ethernet hosts make addresses from (RFC 2464 §4).
	slaacBits = 64
)

func (s *Server) inputICMP(p *ip.Packet) bool {
	b := p.Payload()
	silent := s.net.Autoconf.NoRA || s.net.Autoconf.NoNDP
	if len(b) == 0 || b[0] != icmpRouterSolicitation || silent || !s.net.Gateway6.IsValid() {
		return false
	}
	if r := s.solicited(p, b); r != drop.None {
		s.env.Drops.Add(r)
	}
	return true
}

// solicited answers one router solicitation.
func (s *Server) solicited(p *ip.Packet, b []byte) drop.Reason {
	// RFC 4861 §6.1.1. The hop limit proves that it comes from this link.
	if len(b) < 8 || b[1] != 0 || p.TTL != ndp.HopLimit {
		return drop.IPMalformed
	}
	m, err := ndp.ParseMessage(b)
	if err != nil {
		return drop.IPMalformed
	}
	rs, ok := m.(*ndp.RouterSolicitation)
	if !ok {
		return drop.IPMalformed
	}
	for _, o := range rs.Options {
		if _, lla := o.(*ndp.LinkLayerAddress); lla && p.Src.IsUnspecified() {
			return drop.IPMalformed
		}
	}
	s.keepRefreshing()
	ra := s.advertisement(s.opt.Autonomous == nil || s.opt.Autonomous(p.MAC))
	// To the guest alone when it has an address, so that others are left asleep.
	if !p.Src.IsUnspecified() && s.sendRA(p.Src, ra) {
		return drop.None
	}
	if !s.groups.Allow(time.Now()) {
		return drop.ICMPLimit
	}
	s.sendRA(allNodes, ra)
	return drop.None
}

// advertisement is what a guest needs: the default route, its prefix, the MTU, and DNS (RFC 8106).
func (s *Server) advertisement(autonomous bool) *ndp.RouterAdvertisement {
	ra := s.routeOnly()
	if p := s.net.Subnet6; p.IsValid() {
		ra.Options = append(ra.Options, &ndp.PrefixInformation{
			PrefixLength: uint8(p.Bits()), Prefix: p.Masked().Addr(), OnLink: true,
			AutonomousAddressConfiguration: autonomous && p.Bits() == slaacBits,
			ValidLifetime:                  ndp.Infinity, PreferredLifetime: ndp.Infinity,
		})
	}
	if s.net.DNS6.IsValid() {
		ra.Options = append(ra.Options, &ndp.RecursiveDNSServer{Lifetime: ndp.Infinity, Servers: []netip.Addr{s.net.DNS6}})
	}
	if len(s.opt.DNSSearch) > 0 {
		ra.Options = append(ra.Options, &ndp.DNSSearchList{Lifetime: ndp.Infinity, DomainNames: s.opt.DNSSearch})
	}
	return ra
}

// routeOnly is an advertisement without what does not expire.
func (s *Server) routeOnly() *ndp.RouterAdvertisement {
	return &ndp.RouterAdvertisement{
		CurrentHopLimit: ip.DefaultTTL, OtherConfiguration: true, RouterLifetime: routerLifetime,
		Options: []ndp.Option{
			&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: net.HardwareAddr(s.net.GatewayMAC[:])},
			ndp.NewMTU(uint32(s.net.MTU)),
		},
	}
}

// sendRA sends an advertisement and reports whether the Emitter knew where to.
func (s *Server) sendRA(dst netip.Addr, ra *ndp.RouterAdvertisement) bool {
	msg, err := ndp.MarshalMessageChecksum(ra, s.router, dst)
	if err != nil {
		s.log.Error("router advertisement not sent", "error", err)
		return false
	}
	var h [ip.HeaderLen6]byte
	h[0] = 6 << 4
	binary.BigEndian.PutUint16(h[4:], uint16(len(msg)))
	h[6], h[7] = ip.ICMPv6, ndp.HopLimit
	from, to := s.router.As16(), dst.As16()
	copy(h[8:], from[:])
	copy(h[24:], to[:])
	return s.env.Emit.EmitIP(dst, l2.VNet{}, [][]byte{append(h[:], msg...)})
}

// keepRefreshing arms the timer that keeps the default routes of those who solicited alive.
func (s *Server) keepRefreshing() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refresh == nil && !s.closed {
		s.refresh = time.AfterFunc(refreshEvery, s.refreshRoutes)
	}
}

// refreshRoutes runs every refreshEvery from the first solicitation to Close.
func (s *Server) refreshRoutes() {
	if !s.rearm() {
		return
	}
	defer s.sending.Done()
	s.sendRA(allNodes, s.routeOnly())
}

// rearm sets the timer for the next time, and reports false when the Server is closed.
func (s *Server) rearm() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.refresh.Reset(refreshEvery)
	s.sending.Add(1)
	return true
}
