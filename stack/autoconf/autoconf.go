// Package autoconf answers guests that configure themselves: DHCPv4, router solicitations, DHCPv6.
//
// # Theory of operation
//
// There is no pool. A guest's IPv4 address is the one control gave its endpoint, found by the MAC address of
// the frame, which the switch has bound to the port; so a guest can ask as often and under as many
// names as it likes and there is nothing to use up, to remember or to lose with a restart. IPv6 addresses
// the guest makes itself from the prefix in the router advertisement (SLAAC); DHCPv6 is stateless and only
// tells what an advertisement may lack, unless the Network has one address to give (spec.Autoconf.Lease6).
//
// Nothing is sent that was not asked for, with one exception. A router advertisement cannot say "for
// ever" about the default route: 65535 s is the most (RFC 8319). So once a guest has solicited, an
// advertisement goes to all nodes every third of that. Prefix and DNS do not expire.
//
// Every message is answered by rules of its RFC or dropped with a counted reason. Input runs on the datapath's
// goroutine, and answers before it returns.
package autoconf

import (
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// Ports of RFC 2131 §4.1 and RFC 8415 §7.2.
const (
	dhcp4ServerPort = 67
	dhcp4ClientPort = 68
	dhcp6ClientPort = 546
	dhcp6ServerPort = 547
)

var (
	broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	allNodes   = netip.MustParseAddr("ff02::1")
	allServers = netip.MustParseAddr("ff02::1:2") // All_DHCP_Relay_Agents_and_Servers
)

// Env is what the datapath gives a Server. Emit is required.
type Env struct {
	Emit  ip.Emitter
	Drops *drop.Counters
	Log   *slog.Logger
}

// Options say what guests are told beyond the Network's own addresses.
type Options struct {
	// DNSSearch are the domains tried for short names. What is no domain name is left out.
	DNSSearch []string
	// Lease returns the IPv4 address, and the host name if any, of the endpoint with this MAC. Without it, or
	// when it says no, DHCPv4 stays silent.
	Lease func(mac l2.MAC) (addr netip.Addr, hostname string, ok bool)
	// LeaseTime is how long a guest may use its address before it asks again; zero means a day.
	LeaseTime time.Duration
	// Autonomous reports whether the endpoint with this MAC may make its own IPv6 addresses; nil means
	// that every one may. One whose addresses the switch enforces must not, as it could not use them.
	Autonomous func(mac l2.MAC) bool
}

// Server answers the guests of one Network. Its methods are safe for concurrent use.
type Server struct {
	env    Env
	log    *slog.Logger
	net    spec.Network
	opt    Options
	router netip.Addr // our link-local address
	groups *ip.Limiter

	// mu guards the rest.
	mu      sync.Mutex
	closed  bool
	refresh *time.Timer // nil until a guest has solicited

	sending sync.WaitGroup // a refresh under way; begun under mu, and not once closed
}

// New makes a Server. It starts nothing.
func New(e Env, n spec.Network, o Options) *Server {
	s := &Server{env: e, log: e.Log, net: n, opt: o, router: routerOf(n)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.opt.DNSSearch = nil
	if n.Autoconf.NoDHCPSearch {
		o.DNSSearch = nil
	}
	if n.Autoconf.NoDHCPDNS {
		s.net.DNS4, s.net.DNS6 = netip.Addr{}, netip.Addr{}
	}
	for _, d := range o.DNSSearch {
		if d = strings.TrimSuffix(d, "."); isDomain(d) {
			s.opt.DNSSearch = append(s.opt.DNSSearch, d)
		} else {
			s.log.Warn("search domain skipped: not a domain name", "domain", d)
		}
	}
	if s.opt.LeaseTime <= 0 {
		s.opt.LeaseTime = 24 * time.Hour
	}
	// Answers to all nodes wake every guest. RFC 4861 §10 wants 3 s between them, but a guest that
	// starts should not wait that long because another just did.
	s.groups = ip.NewLimiter(1, 3)
	return s
}

// Input takes a packet a container sent, whole and with its checksum verified, and reports whether it was one
// of ours: then it has been answered or dropped, and nobody else should see it.
func (s *Server) Input(p *ip.Packet) bool {
	if p.IsFragment() {
		return false
	}
	switch {
	case p.Proto == ip.UDP:
		return s.inputUDP(p)
	case p.Proto == ip.ICMPv6 && p.Is6():
		return s.inputICMP(p)
	}
	return false
}

func (s *Server) inputUDP(p *ip.Packet) bool {
	src, dst, ok := p.Ports()
	if !ok {
		return false
	}
	var answer func(p *ip.Packet, msg []byte) drop.Reason
	var client uint16
	switch {
	case !p.Is6() && dst == dhcp4ServerPort && !s.net.Autoconf.NoDHCP4 && s.net.Gateway4.IsValid() && (p.Dst == broadcast4 || p.Dst == s.net.Gateway4):
		answer, client = s.dhcp4, dhcp4ClientPort
	case p.Is6() && dst == dhcp6ServerPort && !s.net.Autoconf.NoDHCP6 && s.net.Gateway6.IsValid() && (p.Dst == allServers || p.Dst == s.router || p.Dst == s.net.Gateway6):
		answer, client = s.dhcp6, dhcp6ClientPort
	default:
		return false
	}
	msg, ok := p.UDPPayload()
	if !ok || src != client {
		s.env.Drops.Add(drop.IPMalformed)
		return true
	}
	if r := answer(p, msg); r != drop.None {
		s.env.Drops.Add(r)
	}
	return true
}

// sendUDP sends msg to a guest and reports whether the Emitter knew where to.
func (s *Server) sendUDP(src, dst netip.AddrPort, msg []byte) bool {
	var hdr [ip.HeaderLen6 + ip.UDPHeaderLen]byte
	n := ip.PutUDPHeaders(hdr[:], src, dst, len(msg), ip.UDPOpts{Payload: msg})
	if n == 0 {
		return false
	}
	return s.env.Emit.EmitIP(dst.Addr(), l2.VNet{}, [][]byte{hdr[:n], msg})
}

// Close stops the advertisements and waits for one that is being sent. Input must not be called any more.
func (s *Server) Close() error {
	s.shut()
	s.sending.Wait()
	return nil
}

func (s *Server) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.refresh != nil {
		s.refresh.Stop()
	}
}

// routerOf is the address guests are to route through in IPv6: a gateway's that is link-local, else the one of our MAC.
func routerOf(n spec.Network) netip.Addr {
	if n.Gateway6.Is6() && n.Gateway6.IsLinkLocalUnicast() {
		return n.Gateway6
	}
	return linkLocal(n.GatewayMAC)
}

// linkLocal is the address a station makes of its MAC (RFC 4291 appendix A). Guests must see a router
// under its link-local address (RFC 4861 §6.1.2).
func linkLocal(m l2.MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80,
		8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5],
	})
}

// isDomain reports whether s can be written as labels (RFC 1035 §2.3.4).
func isDomain(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) == 0 || len(label) > 63 {
			return false
		}
	}
	return true
}
