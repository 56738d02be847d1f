package dnsproxy

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/miekg/dns"

	"github.com/usernet/usernet/stack/spec"
)

// zone is what one Network knows itself: the names of its Endpoints, names that Configure gave, and which
// addresses are its own.
//
// Endpoints come and go one by one, at the cost of their own names and not of all: a Network of two thousand takes
// another as fast as the first. What remove took away is in no answer made after it returned (DN-18).
type zone struct {
	id      string
	text    string // the Network's name as the end of a domain name, with its dots; "" when it cannot be one
	suffix  string // the same in wire form and lower case
	subnets [2]netip.Prefix
	noNames bool
	dir     *Directory
	log     *slog.Logger

	// mu guards the rest. Directory.mu is below it.
	mu        sync.RWMutex
	endpoints map[string]*holder
	// byName is by name in wire form and lower case; a name may be several Endpoints'.
	byName map[string][]*holder
	byAddr map[netip.Addr]*holder
	hosts  map[string][]netip.Addr // of Configure, keyed as byName
	hostOf map[netip.Addr][]string // the names of hosts, with a trailing dot, by address
}

// holder is an Endpoint as the zone has it.
type holder struct {
	addrs []netip.Addr
	names []string // wire form, lower case
	ptr   string   // what the reverse lookup says
}

func newZone(n spec.Network, dir *Directory, log *slog.Logger) *zone {
	z := &zone{
		id: n.ID, subnets: [2]netip.Prefix{n.Subnet4, n.Subnet6}, noNames: n.NoNames, dir: dir, log: log,
		endpoints: make(map[string]*holder), byName: make(map[string][]*holder), byAddr: make(map[netip.Addr]*holder),
	}
	if wire, ok := wireName(n.Name); ok {
		z.text, z.suffix = dns.Fqdn(n.Name), wire
	}
	return z
}

// wireName returns a name in wire form and lower case. It is false for what cannot be a domain name, and for the root.
func wireName(name string) (string, bool) {
	var buf [maxName]byte
	n, err := dns.PackDomainName(dns.Fqdn(name), buf[:], 0, nil, false)
	if err != nil || n <= 1 {
		return "", false
	}
	return string(appendLower(nil, buf[:n])), true
}

// set gives an Endpoint its names and addresses, in place of what it had. Names that cannot be in DNS are left
// out, and logged.
func (z *zone) set(ep *spec.Endpoint) {
	h := &holder{}
	for _, a := range ep.Addrs {
		h.addrs = append(h.addrs, a.Unmap().WithZone(""))
	}
	for i, name := range ep.Names {
		wire, ok := wireName(name)
		if !ok {
			z.log.Warn("dns name skipped: not a domain name", "name", name, "endpoint", ep.ID)
			continue
		}
		if i == 0 {
			h.ptr = dns.Fqdn(name) + z.text
		}
		if !slices.Contains(h.names, wire) {
			h.names = append(h.names, wire)
		}
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.removeLocked(ep.ID)
	if z.noNames {
		return
	}
	z.endpoints[ep.ID] = h
	for _, n := range h.names {
		z.byName[n] = append(z.byName[n], h)
	}
	for _, a := range h.addrs {
		z.byAddr[a] = h
	}
	z.dir.count(h.names, 1)
}

// remove forgets an Endpoint.
func (z *zone) remove(id string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.removeLocked(id)
}

func (z *zone) removeLocked(id string) {
	h := z.endpoints[id]
	if h == nil {
		return
	}
	delete(z.endpoints, id)
	for _, n := range h.names {
		left := slices.DeleteFunc(z.byName[n], func(o *holder) bool { return o == h })
		if z.byName[n] = left; len(left) == 0 {
			delete(z.byName, n)
		}
	}
	for _, a := range h.addrs {
		if z.byAddr[a] == h {
			delete(z.byAddr, a)
		}
	}
	z.dir.count(h.names, -1)
}

// clear forgets all Endpoints.
func (z *zone) clear() {
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, id := range slices.Collect(maps.Keys(z.endpoints)) {
		z.removeLocked(id)
	}
}

// setHosts puts other names in the place of those an earlier call gave.
func (z *zone) setHosts(hosts map[string][]netip.Addr) {
	byName, byAddr := make(map[string][]netip.Addr, len(hosts)), make(map[netip.Addr][]string)
	for name, addrs := range hosts {
		wire, ok := wireName(name)
		if !ok {
			z.log.Warn("dns name skipped: not a domain name", "name", name)
			continue
		}
		byName[wire] = append(byName[wire], addrs...)
		for _, a := range addrs {
			a = a.Unmap().WithZone("")
			byAddr[a] = append(byAddr[a], dns.Fqdn(name))
		}
	}
	for _, names := range byAddr {
		slices.Sort(names) // the map's order would change with each call
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.hosts, z.hostOf = byName, byAddr
}

// lookup returns the addresses of a name in wire form and lower case: as it is, or with the Network's name behind it.
// known says that the name exists, be it without addresses.
func (z *zone) lookup(name string) (addrs []netip.Addr, known bool) {
	z.mu.RLock()
	defer z.mu.RUnlock()
	host, known := z.hosts[name]
	addrs = append(addrs, host...)
	holders := z.byName[name]
	if len(holders) == 0 {
		if short, ok := cutSuffix(name, z.suffix); ok {
			holders = z.byName[short]
		}
	}
	for _, h := range holders {
		for _, a := range h.addrs {
			if !slices.Contains(host, a) { // which are few
				addrs = append(addrs, a)
			}
		}
	}
	return addrs, known || len(holders) > 0
}

// reverse returns the names of an address, each with a trailing dot.
func (z *zone) reverse(a netip.Addr) []string {
	z.mu.RLock()
	defer z.mu.RUnlock()
	if h := z.byAddr[a]; h != nil && h.ptr != "" {
		return []string{h.ptr}
	}
	return z.hostOf[a]
}

// contains reports whether a is one of the Network's addresses, given out or not.
func (z *zone) contains(a netip.Addr) bool {
	return z.subnets[0].Contains(a) || z.subnets[1].Contains(a)
}

// cutSuffix returns name without suffix, which is one label of name or more but not all of it. Both are in wire form.
func cutSuffix(name, suffix string) (string, bool) {
	if suffix == "" {
		return "", false
	}
	for off := 0; off < len(name) && name[off] != 0; {
		if off += 1 + int(name[off]); off < len(name) && name[off:] == suffix {
			return name[:off] + "\x00", true
		}
	}
	return "", false
}

// labels is how many labels a name in wire form has.
func labels(name string) (n int) {
	for off := 0; off < len(name) && name[off] != 0; off += 1 + int(name[off]) {
		n++
	}
	return n
}
