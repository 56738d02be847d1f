package dnsproxy

import (
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/usernet/usernet/stack/spec"
)

// health is what is known of an upstream.
//
//	healthy ──silent for a try, or unreachable──► down ──any good answer──► healthy
//
// A down upstream is asked last, and probed from time to time.
type health uint8

const (
	healthy health = iota
	down
)

// upstream is one server that is asked: one of the host's, or of those an Endpoint was given.
type upstream struct {
	addr   netip.AddrPort
	inside bool // asked in the Network and not from the host

	// mu guards the rest.
	mu      sync.Mutex
	health  health
	probeAt time.Time // when a down upstream is next sent a copy
}

// ring is a list of upstreams that queries are sent to together; only queries to the same one may share a flight.
type ring struct{ list []*upstream }

func newRing(addrs []netip.AddrPort) *ring {
	r := new(ring)
	for _, a := range addrs {
		r.list = append(r.list, &upstream{addr: a})
	}
	return r
}

func (r *ring) same(addrs []netip.AddrPort) bool {
	return slices.EqualFunc(r.list, addrs, func(u *upstream, a netip.AddrPort) bool { return u.addr == a })
}

// failed marks u down, and reports whether it was not before.
func (u *upstream) failed(probeAt time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	was := u.health
	u.health, u.probeAt = down, probeAt
	return was == healthy
}

// answered marks u healthy, and reports whether it was not before.
func (u *upstream) answered() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	was := u.health
	u.health = healthy
	return was == down
}

// claim reports whether u is healthy, and if not whether the caller is the one to probe it now.
func (u *upstream) claim(now, next time.Time) (up, probe bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.health == healthy {
		return true, false
	}
	if now.Before(u.probeAt) {
		return false, false
	}
	u.probeAt = next
	return false, true
}

// order returns ups with those that are down last, and those of them that are due for a probe.
// When all are down nothing is gained by probing: they are asked in order anyway.
func order(ups []*upstream, now time.Time, every time.Duration) (ring, probes []*upstream) {
	var last []*upstream
	for _, u := range ups {
		up, probe := u.claim(now, now.Add(every))
		if up {
			ring = append(ring, u)
		} else {
			last = append(last, u)
		}
		if probe {
			probes = append(probes, u)
		}
	}
	if len(ring) == 0 {
		return ups, nil
	}
	return append(ring, last...), probes
}

// dockerDNS is where Docker's resolver answers inside a container of its own, and nowhere else.
var dockerDNS = netip.MustParseAddr("127.0.0.11")

// usable returns the upstreams that can be asked, MaxUpstreams at most.
//
// An address of the Network's own is in a host's resolv.conf by mistake, and asking it would be
// asking ourselves, unless the host has a network of the same numbers: a sandbox
// inside a sandbox, or a virtual machine whose user-mode network is 10.0.2.0/24 as well. Then the host's route
// says so, and the address is that network's server. 127.0.0.11 is left out when there is another
// choice; alone it is kept, since in a Docker container it is the only resolver there is, and everywhere else it
// refuses at once.
func (s *Server) usable(addrs []netip.AddrPort) []netip.AddrPort {
	var out []netip.AddrPort
	var docker netip.AddrPort
	for _, ap := range addrs {
		a := ap.Addr().Unmap()
		ap = netip.AddrPortFrom(a, ap.Port())
		_, zoneErr := strconv.ParseUint(a.Zone(), 10, 32)
		switch {
		case !a.IsValid(), ap.Port() == 0, a.IsUnspecified(), a.IsMulticast():
			s.log.Warn("dns upstream skipped: not a server's address", "upstream", ap)
		case a.Zone() != "" && zoneErr != nil:
			s.log.Warn("dns upstream skipped: zone is not a number", "upstream", ap)
		case a == dockerDNS:
			docker = ap
		case isOwn(s.net, a) && !s.onHostLink(ap):
			s.log.Warn("dns upstream skipped: it is this network's own address", "upstream", ap)
		case !slices.Contains(out, ap) && len(out) < MaxUpstreams:
			out = append(out, ap)
		}
	}
	if docker.IsValid() {
		if len(out) == 0 {
			return []netip.AddrPort{docker}
		}
		s.log.Warn("dns upstream skipped: it answers inside Docker's containers only", "upstream", docker)
	}
	return out
}

// isOwn reports whether a is an address at which the Network itself answers.
func isOwn(n spec.Network, a netip.Addr) bool {
	if n.AnyNeighbour { // the gateways are the host's routers, and often its name servers
		return a == n.DNS4 || a == n.DNS6
	}
	return a == n.Gateway4 || a == n.Gateway6 || a == n.DNS4 || a == n.DNS6
}

// isInside reports whether a server that an Endpoint was given is asked in the Network, as the Endpoint itself would: every
// address of the subnets is, whether somebody has it just then or not. The host has nobody there, and would send the question to wherever its
// default route leads. The host's own servers are never asked here, or a container could be given the address of one and answer for it.
func (s *Server) isInside(a netip.Addr) bool {
	return s.env.Inside != nil && !s.net.AnyNeighbour && !isOwn(s.net, a) &&
		(s.net.Subnet4.Contains(a) || s.net.Subnet6.Contains(a))
}

// onHostLink reports whether the host would reach ap from an address within the Network's own subnets, which
// means it has a network of these numbers itself.
func (s *Server) onHostLink(ap netip.AddrPort) bool {
	src, err := s.source(ap)
	return err == nil && (s.net.Subnet4.Contains(src) || s.net.Subnet6.Contains(src))
}
