package dnsproxy

import (
	"net/netip"

	"github.com/miekg/dns"

	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// Theory of operation
//
// Docker's resolver belongs to a container and not to a network. So the Server of a Network has a view for each
// Endpoint: which Networks' names it sees and in what order, the links that are its alone, whether and where
// the rest is forwarded. Who asks is told by the source address, which the switch has bound to the Endpoint's port;
// nothing a container writes into a packet makes it somebody else.
//
// A name is looked for in this order, and the first that knows it answers:
//
//  1. the links of the Endpoint. Each stands for names, looked up now and not when the link was made: as 2 does,
//     and where that fails as links themselves, so that chains work, up to maxSteps (DN-14);
//  2. its Networks, in order;
//  3. when it is one label, and NDots: nobody, NOERROR;
//  4. when it is Closed: nobody, SERVFAIL, the same for every name so that none can be told from another (HC-14);
//  5. other Networks: NXDOMAIN, without a word upstream (DN-15);
//  6. the upstreams.

// maxSteps bounds how many links one query follows (systemd-resolved: CNAME_REDIRECTS_MAX).
const maxSteps = 16

// client is who asks: a station, or an address where the station is not known.
type client struct {
	mac  l2.MAC
	addr netip.Addr
}

// clientOf says who has an address now.
func (s *Server) clientOf(a netip.Addr) client {
	if s.env.Station != nil {
		if mac := s.env.Station(a); !mac.IsZero() {
			return client{mac: mac}
		}
	}
	return client{addr: a}
}

// view is what the queries of one Endpoint are answered from. It does not change; the zones it names do.
type view struct {
	networks []string
	links    map[string][]string // names in wire form and lower case
	ring     *ring               // nil: the Network's
	closed   bool
	nDots    bool
}

var defaultView = new(view)

// newView reads a Resolver. Links that cannot be in DNS are left out, and logged.
func (s *Server) newView(r *spec.Resolver) *view {
	v := &view{networks: r.Networks, links: make(map[string][]string), closed: r.Closed, nDots: r.NDots}
	for alias, targets := range r.Links {
		key, ok := wireName(alias)
		for _, t := range targets {
			target, good := wireName(t)
			if !ok || !good {
				s.log.Warn("dns link skipped: not a domain name", "link", alias, "name", t)
				continue
			}
			v.links[key] = append(v.links[key], target)
		}
	}
	if len(r.Upstreams) > 0 {
		v.ring = newRing(s.usable(r.Upstreams))
		for _, u := range v.ring.list {
			u.inside = s.isInside(u.addr.Addr())
		}
	}
	return v
}

// viewOf returns the view of whoever has that address.
func (s *Server) viewOf(c client, a netip.Addr) *view {
	s.viewMu.RLock()
	defer s.viewMu.RUnlock()
	if v := s.views[c]; v != nil {
		return v
	}
	if v := s.views[client{addr: a}]; v != nil {
		return v
	}
	return defaultView
}

// SetEndpoint puts the names and the Resolver of an Endpoint in force, in place of what it had.
func (s *Server) SetEndpoint(ep spec.Endpoint) {
	v := s.newView(&ep.Resolver)
	var keys []client
	if !ep.MAC.IsZero() {
		keys = append(keys, client{mac: ep.MAC})
	}
	for _, a := range ep.Addrs {
		keys = append(keys, client{addr: a.Unmap().WithZone("")})
	}
	s.viewMu.Lock()
	s.dropViewLocked(ep.ID)
	for _, k := range keys {
		s.views[k] = v
	}
	s.viewKeys[ep.ID] = keys
	s.viewMu.Unlock()
	s.zone.set(&ep)
}

// RemoveEndpoint forgets an Endpoint. No answer made after it returned tells its names.
func (s *Server) RemoveEndpoint(id string) {
	s.zone.remove(id)
	s.viewMu.Lock()
	defer s.viewMu.Unlock()
	s.dropViewLocked(id)
}

func (s *Server) dropViewLocked(id string) {
	for _, k := range s.viewKeys[id] {
		delete(s.views, k)
	}
	delete(s.viewKeys, id)
}

// finding says what is known here about a question.
type finding uint8

const (
	notHere   finding = iota // somebody upstream may know
	foundName                // the addresses are all there is, none perhaps
	foundAddr                // the names of an address
	nobody                   // it does not exist, and nobody else is to be asked
	noData                   // it may exist, and the client is to try its search list
	failed                   // it cannot be told
)

// known is what find found.
type known struct {
	finding finding
	addrs   []netip.Addr
	names   []string
}

// find looks for the question of q as v sees it.
func (s *Server) find(v *view, q *query) known {
	var buf [maxName]byte
	name := string(appendLower(buf[:0], q.name()))
	if addr, ok := reverseAddr(name); ok {
		return s.findReverse(v, addr)
	}
	steps := 0
	if targets := v.links[name]; targets != nil {
		addrs, ok := s.follow(v, name, targets, &steps)
		switch {
		case steps > maxSteps:
			return known{finding: failed}
		case ok:
			return known{finding: foundName, addrs: addrs}
		}
		return known{finding: nobody} // what it stood for is gone
	}
	if addrs, ok := s.findInZones(v, name); ok {
		return known{finding: foundName, addrs: addrs}
	}
	switch {
	case v.nDots && labels(name) == 1 && (q.qtype == dns.TypeA || q.qtype == dns.TypeAAAA):
		return known{finding: noData}
	case v.closed:
		return known{finding: failed}
	case s.dir.taken(name):
		return known{finding: nobody}
	}
	return known{finding: notHere}
}

// follow gathers the addresses of the names that a link stands for.
func (s *Server) follow(v *view, link string, targets []string, steps *int) (addrs []netip.Addr, ok bool) {
	if *steps++; *steps > maxSteps {
		return nil, false
	}
	for _, t := range targets {
		more, found := s.findInZones(v, t)
		if next := v.links[t]; !found && next != nil && t != link {
			more, found = s.follow(v, t, next, steps)
		}
		addrs, ok = append(addrs, more...), ok || found
	}
	return addrs, ok
}

func (s *Server) findInZones(v *view, name string) ([]netip.Addr, bool) {
	if v.networks == nil {
		return s.zone.lookup(name)
	}
	for _, id := range v.networks {
		z := s.zoneOf(id)
		if z == nil {
			continue
		}
		if addrs, ok := z.lookup(name); ok {
			return addrs, true
		}
	}
	return nil, false
}

// zoneOf returns a Network's zone, nil when the Network is not there now.
func (s *Server) zoneOf(id string) *zone {
	if id == s.zone.id {
		return s.zone
	}
	return s.dir.zone(id)
}

// findReverse looks for the names of an address. Nobody outside can know those of Networks, nor should learn which
// are in use; and one Network does not tell another's.
func (s *Server) findReverse(v *view, a netip.Addr) known {
	ids := v.networks
	if ids == nil {
		ids = []string{s.zone.id}
	}
	for _, id := range ids {
		z := s.zoneOf(id)
		if z == nil {
			continue
		}
		if names := z.reverse(a); len(names) > 0 {
			return known{finding: foundAddr, names: names}
		}
	}
	switch {
	case s.zone.contains(a) || s.dir.internal(a):
		return known{finding: nobody}
	case v.closed:
		return known{finding: failed}
	}
	return known{finding: notHere}
}
