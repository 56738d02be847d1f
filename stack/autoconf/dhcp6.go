package autoconf

import (
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/insomniacslk/dhcp/rfc1035label"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
)

// # DHCPv6, stateless unless the Network has a Lease6 (RFC 8415 §6.1)
//
//	message               answer without a Lease6
//	INFORMATION-REQUEST   REPLY with name servers and search domains
//	SOLICIT               ADVERTISE, each identity association with NoAddrsAvail or NoPrefixAvail
//	REQUEST               REPLY, the same
//	RENEW, REBIND         REPLY, each with NoBinding
//	RELEASE, DECLINE      REPLY, each with NoBinding
//	CONFIRM               none (§18.3.3: a server that cannot tell does not answer); with a Lease6 REPLY, unless no address is named
//
// With a Lease6 the first association for an address (IA_NA) of SOLICIT, REQUEST, RENEW and REBIND gets it for ever; there is
// nothing to remember, so nothing to release. One that asks for another address by REQUEST or RENEW, and a CONFIRM of
// another, is told NotOnLink (§18.3.2, §18.3.3), whereupon a client begins anew.
//
// Refusing in words instead of silence lets a client go on at once with the address it makes
// from the router advertisement. A message whose server identifier is not ours is not for us, and one
// that must not carry any, or no client identifier, is dropped (§16).

const (
	maxDUID = 130 // RFC 8415 §11.1
	// maxIAs bounds the answer to a client that asks for ever more.
	maxIAs = 8
	// fqdnServerUpdates is the flag S of RFC 4704 §4.1: the name is in the DNS by the server's doing.
	fqdnServerUpdates = 1

	infoRefresh = 24 * time.Hour // the default of RFC 8415 §7.6

	forever = math.MaxUint32 * time.Second // §7.7
)

// rule6 is one row of the table above and of RFC 8415 §16.
type rule6 struct {
	answer     dhcpv6.MessageType
	addrs      iana.StatusCode // of IA_NA and IA_TA
	prefixes   iana.StatusCode // of IA_PD
	leases     bool            // gives a Lease6
	toServer   bool            // must name us
	clientIDNo bool            // client identifier may be missing
}

var rules6 = map[dhcpv6.MessageType]rule6{
	dhcpv6.MessageTypeSolicit:            {answer: dhcpv6.MessageTypeAdvertise, addrs: iana.StatusNoAddrsAvail, prefixes: iana.StatusNoPrefixAvail, leases: true},
	dhcpv6.MessageTypeRequest:            {answer: dhcpv6.MessageTypeReply, addrs: iana.StatusNoAddrsAvail, prefixes: iana.StatusNoPrefixAvail, toServer: true, leases: true},
	dhcpv6.MessageTypeRenew:              {answer: dhcpv6.MessageTypeReply, addrs: iana.StatusNoBinding, prefixes: iana.StatusNoBinding, toServer: true, leases: true},
	dhcpv6.MessageTypeRebind:             {answer: dhcpv6.MessageTypeReply, addrs: iana.StatusNoBinding, prefixes: iana.StatusNoBinding, leases: true},
	dhcpv6.MessageTypeRelease:            {answer: dhcpv6.MessageTypeReply, addrs: iana.StatusNoBinding, prefixes: iana.StatusNoBinding, toServer: true},
	dhcpv6.MessageTypeDecline:            {answer: dhcpv6.MessageTypeReply, addrs: iana.StatusNoBinding, prefixes: iana.StatusNoBinding, toServer: true},
	dhcpv6.MessageTypeConfirm:            {answer: dhcpv6.MessageTypeReply},
	dhcpv6.MessageTypeInformationRequest: {answer: dhcpv6.MessageTypeReply, clientIDNo: true},
}

// dhcp6 answers one message of a client.
func (s *Server) dhcp6(p *ip.Packet, msg []byte) drop.Reason {
	if !p.Src.IsLinkLocalUnicast() || len(msg) == 0 {
		return drop.IPMalformed
	}
	rule, ok := rules6[dhcpv6.MessageType(msg[0])]
	lease := s.net.Autoconf.Lease6
	confirm := dhcpv6.MessageType(msg[0]) == dhcpv6.MessageTypeConfirm
	if !ok || confirm && !lease.IsValid() {
		return drop.NotForUs // a server's messages, a relay's, or nothing to confirm
	}
	m, err := dhcpv6.MessageFromBytes(msg)
	if err != nil {
		return drop.IPMalformed
	}
	if r := s.valid6(m, rule); r != drop.None {
		return r
	}
	if confirm && !namesAddress(m) {
		return drop.NotForUs // nothing to confirm either, and so not answered (§18.3.3)
	}
	r := &dhcpv6.Message{MessageType: rule.answer, TransactionID: m.TransactionID}
	if id := m.Options.ClientID(); id != nil {
		r.AddOption(dhcpv6.OptClientID(id))
	}
	r.AddOption(dhcpv6.OptServerID(s.duid()))
	if confirm {
		r.AddOption(&dhcpv6.OptStatusCode{StatusCode: confirmed(m, lease)})
	} else {
		answerIAs(m, r, rule, lease)
	}
	if s.net.DNS6.IsValid() {
		r.AddOption(dhcpv6.OptDNS(s.net.DNS6.AsSlice()))
	}
	if len(s.opt.DNSSearch) > 0 {
		r.AddOption(dhcpv6.OptDomainSearchList(&rfc1035label.Labels{Labels: s.opt.DNSSearch}))
	}
	if name := strings.TrimSuffix(s.net.Autoconf.FQDN, "."); isDomain(name) {
		r.AddOption(&dhcpv6.OptFQDN{Flags: fqdnServerUpdates, DomainName: &rfc1035label.Labels{Labels: []string{name}}})
	}
	if m.MessageType == dhcpv6.MessageTypeInformationRequest {
		r.AddOption(dhcpv6.OptInformationRefreshTime(infoRefresh))
	}
	s.sendUDP(netip.AddrPortFrom(s.router, dhcp6ServerPort), netip.AddrPortFrom(p.Src, dhcp6ClientPort), r.ToBytes())
	return drop.None
}

// valid6 checks what RFC 8415 §16 demands of a message.
func (s *Server) valid6(m *dhcpv6.Message, rule rule6) drop.Reason {
	client, server := m.Options.ClientID(), m.Options.ServerID()
	ias := len(m.Options.IANA()) + len(m.Options.IATA()) + len(m.Options.IAPD())
	switch {
	case client == nil && !rule.clientIDNo, client != nil && len(client.ToBytes()) > maxDUID, ias > maxIAs:
		return drop.IPMalformed
	case m.MessageType == dhcpv6.MessageTypeInformationRequest && ias > 0:
		return drop.IPMalformed
	case rule.toServer && server == nil:
		return drop.IPMalformed
	case server != nil && (rule.answer == dhcpv6.MessageTypeAdvertise || m.MessageType == dhcpv6.MessageTypeRebind || m.MessageType == dhcpv6.MessageTypeConfirm):
		return drop.IPMalformed
	case server != nil && !server.Equal(s.duid()):
		return drop.NotForUs
	}
	return drop.None
}

// namesAddress tells whether a client names any address that it has.
func namesAddress(m *dhcpv6.Message) bool {
	return slices.ContainsFunc(m.Options.IANA(), func(ia *dhcpv6.OptIANA) bool { return len(ia.Options.Addresses()) > 0 })
}

// confirmed says whether a client may go on with the addresses that it has.
func confirmed(m *dhcpv6.Message, lease netip.Addr) iana.StatusCode {
	for _, ia := range m.Options.IANA() {
		if asksForAnother(ia, lease) {
			return iana.StatusNotOnLink
		}
	}
	return iana.StatusSuccess
}

// asksForAnother tells whether a client wants, or has, an address that is not the lease.
func asksForAnother(ia *dhcpv6.OptIANA, lease netip.Addr) bool {
	return slices.ContainsFunc(ia.Options.Addresses(), func(a *dhcpv6.OptIAAddress) bool {
		addr, ok := netip.AddrFromSlice(a.IPv6Addr)
		return !ok || addr != lease
	})
}

// answerIAs adds m's identity associations to r: the first for an address with the lease, if there is one for the message,
// each other with the status of the rule.
func answerIAs(m, r *dhcpv6.Message, rule rule6, lease netip.Addr) {
	status := func(c iana.StatusCode) dhcpv6.Options {
		return dhcpv6.Options{&dhcpv6.OptStatusCode{StatusCode: c, StatusMessage: "addresses come from router advertisements"}}
	}
	for i, ia := range m.Options.IANA() {
		answer := &dhcpv6.OptIANA{IaId: ia.IaId}
		switch {
		case i > 0 || !rule.leases || !lease.IsValid():
			answer.Options.Options = status(rule.addrs)
		case rule.toServer && asksForAnother(ia, lease):
			answer.Options.Options = dhcpv6.Options{&dhcpv6.OptStatusCode{StatusCode: iana.StatusNotOnLink}}
		default:
			answer.T1, answer.T2 = forever, forever
			answer.Options.Options = dhcpv6.Options{&dhcpv6.OptIAAddress{
				IPv6Addr: lease.AsSlice(), PreferredLifetime: forever, ValidLifetime: forever,
			}}
		}
		r.AddOption(answer)
	}
	for _, ia := range m.Options.IATA() {
		r.AddOption(&dhcpv6.OptIATA{IaId: ia.IaId, Options: dhcpv6.IdentityOptions{Options: status(rule.addrs)}})
	}
	for _, ia := range m.Options.IAPD() {
		r.AddOption(&dhcpv6.OptIAPD{IaId: ia.IaId, Options: dhcpv6.PDOptions{Options: status(rule.prefixes)}})
	}
}

// duid is our identifier: the MAC, as there is no state to keep another in.
func (s *Server) duid() dhcpv6.DUID {
	return &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: net.HardwareAddr(s.net.GatewayMAC[:])}
}
