package autoconf

import (
	"math"
	"net"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/insomniacslk/dhcp/rfc1035label"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
)

// # DHCPv4 (RFC 2131)
//
//	message            condition                             answer
//	DISCOVER           with Rapid Commit (RFC 4039)          ACK
//	DISCOVER                                                 OFFER
//	REQUEST            server identifier of another          none
//	REQUEST            asks for the endpoint's address       ACK
//	REQUEST            asks for another address              NAK
//	INFORM             from the endpoint's address           ACK without an address
//	RELEASE, DECLINE                                         none: the address stays the endpoint's
//
// "Asks for" is the Requested IP Address option when selecting and rebooting, and ciaddr when
// renewing and rebinding (§4.3.2); one condition covers all four, as there is only one right address.

const (
	// minMessage is the DHCP message every client takes: 576 bytes of packet (RFC 2131 §2). It does not
	// depend on the MTU, below which the packet is fragmented.
	minMessage = 576 - ip.HeaderLen4 - ip.UDPHeaderLen
	maxMessage = 1500 - ip.HeaderLen4 - ip.UDPHeaderLen
)

// dhcp4 answers one message of a client.
func (s *Server) dhcp4(p *ip.Packet, msg []byte) drop.Reason {
	m, err := dhcpv4.FromBytes(msg)
	if err != nil || m.OpCode != dhcpv4.OpcodeBootRequest || m.HWType != iana.HWTypeEthernet || len(m.ClientHWAddr) != len(l2.MAC{}) {
		return drop.IPMalformed
	}
	if l2.MAC(m.ClientHWAddr) != p.MAC || !m.GatewayIPAddr.IsUnspecified() {
		return drop.SrcMACSpoofed // somebody else's message, or a relay's; there are none behind a port
	}
	if s.opt.Lease == nil {
		return drop.PolicyDenied
	}
	addr, hostname, ok := s.opt.Lease(p.MAC)
	if !ok || !addr.Is4() {
		return drop.PolicyDenied
	}
	kind, why := s.decide4(m, addr)
	if why != drop.None || kind == dhcpv4.MessageTypeNone {
		return why
	}
	reply := s.reply4(m, kind, addr, hostname)
	if reply == nil {
		return drop.IPMalformed
	}
	s.send4(m, kind, addr, reply)
	return drop.None
}

// decide4 returns the type of the answer; none is MessageTypeNone.
func (s *Server) decide4(m *dhcpv4.DHCPv4, addr netip.Addr) (dhcpv4.MessageType, drop.Reason) {
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		if m.Options.Has(dhcpv4.OptionRapidCommit) {
			return dhcpv4.MessageTypeAck, drop.None
		}
		return dhcpv4.MessageTypeOffer, drop.None
	case dhcpv4.MessageTypeRequest:
		if id := m.ServerIdentifier(); id != nil && addrOf(id) != s.net.Gateway4 {
			return dhcpv4.MessageTypeNone, drop.NotForUs
		}
		want := addrOf(m.RequestedIPAddress())
		if !want.IsValid() {
			want = addrOf(m.ClientIPAddr)
		}
		if want != addr {
			return dhcpv4.MessageTypeNak, drop.None
		}
		return dhcpv4.MessageTypeAck, drop.None
	case dhcpv4.MessageTypeInform:
		if addrOf(m.ClientIPAddr) != addr {
			return dhcpv4.MessageTypeNone, drop.SrcIPSpoofed
		}
		return dhcpv4.MessageTypeAck, drop.None
	case dhcpv4.MessageTypeRelease:
		return dhcpv4.MessageTypeNone, drop.None
	case dhcpv4.MessageTypeDecline:
		s.log.Warn("guest says its address is in use", "mac", m.ClientHWAddr, "addr", addr)
		return dhcpv4.MessageTypeNone, drop.None
	}
	return dhcpv4.MessageTypeNone, drop.IPMalformed
}

// reply4 builds the answer, or returns nil when it would be larger than the client takes even without what
// is optional: then its client identifier alone is.
func (s *Server) reply4(m *dhcpv4.DHCPv4, kind dhcpv4.MessageType, addr netip.Addr, hostname string) []byte {
	r := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootReply, HWType: m.HWType, TransactionID: m.TransactionID, Flags: m.Flags,
		ClientIPAddr: net.IPv4zero, YourIPAddr: net.IPv4zero, ServerIPAddr: net.IPv4zero, GatewayIPAddr: net.IPv4zero,
		ClientHWAddr: m.ClientHWAddr, Options: make(dhcpv4.Options),
	}
	set := func(o dhcpv4.Option) { r.UpdateOption(o) }
	set(dhcpv4.OptMessageType(kind))
	set(dhcpv4.OptServerIdentifier(s.net.Gateway4.AsSlice()))
	if id := m.Options.Get(dhcpv4.OptionClientIdentifier); id != nil {
		set(dhcpv4.OptClientIdentifier(id)) // RFC 6842
	}
	if kind == dhcpv4.MessageTypeNak {
		set(dhcpv4.OptMessage("the address of this endpoint is " + addr.String()))
		return fits(m, r)
	}
	if m.MessageType() == dhcpv4.MessageTypeInform {
		r.ClientIPAddr = m.ClientIPAddr
	} else {
		r.YourIPAddr = addr.AsSlice()
		if kind == dhcpv4.MessageTypeAck {
			r.ClientIPAddr = m.ClientIPAddr
		}
		set(dhcpv4.OptIPAddressLeaseTime(s.opt.LeaseTime))
	}
	if m.MessageType() == dhcpv4.MessageTypeDiscover && kind == dhcpv4.MessageTypeAck {
		set(dhcpv4.OptGeneric(dhcpv4.OptionRapidCommit, nil))
	}
	set(dhcpv4.OptSubnetMask(net.CIDRMask(s.net.Subnet4.Bits(), 32)))
	set(dhcpv4.OptRouter(s.net.Gateway4.AsSlice()))
	if gw := s.net.Gateway4.AsSlice(); !s.net.Subnet4.Contains(s.net.Gateway4) {
		// The client needs to be told that its router is on the link. It then takes the default route from here
		// and ignores the option above (RFC 3442).
		set(dhcpv4.OptClasslessStaticRoute(
			&dhcpv4.Route{Dest: &net.IPNet{IP: gw, Mask: net.CIDRMask(32, 32)}, Router: net.IPv4zero},
			&dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, Router: gw},
		))
	}
	if s.net.DNS4.IsValid() {
		set(dhcpv4.OptDNS(s.net.DNS4.AsSlice()))
	}
	s.addOptional(m, r, hostname)
	return fits(m, r)
}

// addOptional adds what the client asked for and may not have room for, as long as it has.
func (s *Server) addOptional(m, r *dhcpv4.DHCPv4, hostname string) {
	optional := []dhcpv4.Option{
		dhcpv4.OptGeneric(dhcpv4.OptionInterfaceMTU, dhcpv4.Uint16(min(s.net.MTU, math.MaxUint16)).ToBytes()),
	}
	if s.net.Autoconf.Hostname != "" {
		hostname = s.net.Autoconf.Hostname
	}
	if hostname != "" && len(hostname) <= math.MaxUint8 {
		optional = append(optional, dhcpv4.OptHostName(hostname))
	}
	if name := fqdn4(s.net.Autoconf.FQDN); name != nil {
		optional = append(optional, dhcpv4.OptGeneric(dhcpv4.OptionFQDN, name))
	}
	if d := s.opt.DNSSearch; len(d) > 0 {
		optional = append(optional, dhcpv4.OptDomainName(d[0]), dhcpv4.OptDomainSearch(&rfc1035label.Labels{Labels: d}))
	}
	asked := m.ParameterRequestList()
	for _, o := range optional {
		if asked != nil && !asked.Has(o.Code) {
			continue
		}
		r.UpdateOption(o)
		if fits(m, r) == nil {
			delete(r.Options, o.Code.Code())
		}
	}
}

// fqdn4 is the whole name of a guest as RFC 4702 has it: the server has seen to the DNS (S), the name is in wire
// format (E). nil when there is none, or none that fits.
func fqdn4(name string) []byte {
	const serverUpdates, wireFormat = 1, 4
	name = strings.TrimSuffix(name, ".")
	if !isDomain(name) {
		return nil
	}
	labels := (&rfc1035label.Labels{Labels: []string{name}}).ToBytes()
	return append([]byte{serverUpdates | wireFormat, 255, 255}, labels...)
}

// fits returns r's bytes, or nil when they are more than the sender of m takes.
func fits(m, r *dhcpv4.DHCPv4) []byte {
	limit := minMessage
	if n, err := m.MaxMessageSize(); err == nil {
		limit = min(max(int(n)-ip.HeaderLen4-ip.UDPHeaderLen, minMessage), maxMessage)
	}
	b := r.ToBytes()
	if len(b) > limit {
		return nil
	}
	return b
}

// send4 sends an answer where RFC 2131 §4.1 wants it: to an address the client has, by broadcast when it
// asks for that or is told its address is wrong, and else to the address it is about to have, to
// which only its own port is the way.
func (s *Server) send4(m *dhcpv4.DHCPv4, kind dhcpv4.MessageType, addr netip.Addr, msg []byte) {
	from := netip.AddrPortFrom(s.net.Gateway4, dhcp4ServerPort)
	unicast := kind != dhcpv4.MessageTypeNak && (addrOf(m.ClientIPAddr) == addr || !m.IsBroadcast())
	if unicast && s.sendUDP(from, netip.AddrPortFrom(addr, dhcp4ClientPort), msg) {
		return
	}
	s.sendUDP(from, netip.AddrPortFrom(broadcast4, dhcp4ClientPort), msg)
}

// addrOf translates an address of the codec's; 0.0.0.0 and none are the zero Addr.
func addrOf(a net.IP) netip.Addr {
	if a4 := a.To4(); a4 != nil && !a4.Equal(net.IPv4zero) {
		return netip.AddrFrom4([4]byte(a4))
	}
	return netip.Addr{}
}
