package cnm

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/usernet/usernet/stack/spec"
)

// Who is known by which name, and to whom (SD, LK7).
//
// The name server itself is in the datapath: it answers from what is said here of each Endpoint. Names
// belong to a Network; which Networks a container searches, in which order, which private aliases it has and
// whom it asks for the rest belongs to the container, so all its legs say the same.

// shortID is what a container is called when nobody gave it a name, and always known by.
func shortID(id string) string { return id[:min(12, len(id))] }

// hostname is the container's own name for itself, without its domain.
func (s *SandboxConfig) hostname() string {
	if s.Hostname == "" {
		return shortID(s.ID)
	}
	return s.Hostname
}

// fullNames are the hostname with its domain, then without, as hosts(5) wants them.
func (s *SandboxConfig) fullNames() []string {
	host, domain, dotted := strings.Cut(s.hostname(), ".")
	if s.Domainname != "" {
		dotted, host, domain = true, s.hostname(), s.Domainname
	}
	if !dotted {
		return []string{host}
	}
	return []string{host + "." + domain, host}
}

// dnsNames are the names of a leg in its Network in Docker's order; the first is what the address is
// looked up to.
func dnsNames(s *SandboxConfig, e *EndpointConfig) []string {
	all := append([]string{s.Name}, e.Aliases...)
	all = append(all, shortID(s.ID), s.hostname())
	var names []string
	for _, n := range all {
		if n != "" && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

// resolverLocked is the sandbox's view of names.
func (sb *Sandbox) resolverLocked() spec.Resolver {
	r := spec.Resolver{Upstreams: sb.upstreams(), NDots: sb.hasNDots()}
	outside := false
	for _, ep := range sb.presentLocked() {
		outside = outside || !ep.net.conf.Internal
		if ep.net.names {
			r.Networks = append(r.Networks, ep.net.id)
		}
		for _, l := range ep.links {
			if r.Links == nil {
				r.Links = make(map[string][]string)
			}
			r.Links[l.alias] = append(r.Links[l.alias], sb.c.linkTargetLocked(l.name))
		}
	}
	r.Closed = !outside && len(r.Upstreams) == 0
	return r
}

// linkTargetLocked is the name that a link's target is known by; it need not exist.
func (c *Controller) linkTargetLocked(ref string) string {
	if sb, err := c.findSandboxLocked(ref); err == nil {
		return sb.conf.Name
	}
	return strings.TrimPrefix(ref, "/")
}

// upstreams are the name servers asked on the sandbox's behalf, nil for the host's.
func (sb *Sandbox) upstreams() []netip.AddrPort {
	if len(sb.conf.DNS) > 0 {
		return sb.conf.DNS
	}
	return sb.dns.Servers
}

// specLocked is what the datapath is told of a leg.
func (ep *endpoint) specLocked() spec.Endpoint {
	s := spec.Endpoint{
		ID: ep.id, Interface: ep.link.Name, MAC: ep.link.MAC, Strict: true,
		Resolver: ep.sandbox.resolverLocked(), Accept: ep.acceptLocked(),
	}
	if ep.net.names {
		s.Names = dnsNames(&ep.sandbox.conf, &ep.conf)
	}
	for _, p := range append([]netip.Prefix{ep.link.Addr4, ep.link.Addr6}, ep.link.LinkLocal...) {
		if p.IsValid() {
			s.Addrs = append(s.Addrs, p.Addr())
		}
	}
	return s
}
