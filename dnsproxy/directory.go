package dnsproxy

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/usernet/usernet/stack/quota"
)

// Directory is what the Servers of one process know of each other.
//
// A container that is in several Networks sees the names of all, so the Server of one Network looks into the zones of
// others. And a container that is not in a Network must not learn its names, nor carry them outside (DN-15):
// what looks like a name of another Network gets NXDOMAIN here. That goes for names of one label, and for
// such names with the name of their Network behind it. An alias of several labels is left alone: it usually is the
// name of a real server that a container stands for in its own Network, and the others want the real one.
//
// A Directory also bounds what all Servers together have in flight. It is safe for concurrent use.
type Directory struct {
	internal       func(netip.Addr) bool
	queries, conns *quota.Pool

	mu       sync.RWMutex       // a leaf; guards the rest
	zones    map[string]*zone   // by id of the Network
	bySuffix map[string][]*zone // by name of the Network; two may have the same for a moment
	names    map[string]int     // names of one label, and how many Endpoints have each
}

// NewDirectory makes a Directory without Networks. internal reports whether an address may be a container's, of a
// live Network or not: nobody outside is asked for its name. It may be nil. queries is how many queries the process may
// have in flight, each of which is a descriptor or two; 0 and what is more than 1024 mean 1024.
func NewDirectory(internal func(netip.Addr) bool, queries int) *Directory {
	if queries <= 0 || queries > maxInFlight {
		queries = maxInFlight
	}
	if internal == nil {
		internal = func(netip.Addr) bool { return false }
	}
	return &Directory{
		internal: internal,
		queries:  quota.NewPool(queries), conns: quota.NewPool(maxConns),
		zones: make(map[string]*zone), bySuffix: make(map[string][]*zone), names: make(map[string]int),
	}
}

func (d *Directory) add(z *zone) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.zones[z.id] = z
	if z.suffix != "" {
		d.bySuffix[z.suffix] = append(d.bySuffix[z.suffix], z)
	}
}

func (d *Directory) remove(z *zone) {
	z.clear()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.zones[z.id] == z {
		delete(d.zones, z.id)
	}
	left := slices.DeleteFunc(slices.Clone(d.bySuffix[z.suffix]), func(o *zone) bool { return o == z })
	if d.bySuffix[z.suffix] = left; len(left) == 0 {
		delete(d.bySuffix, z.suffix)
	}
}

// count notes that an Endpoint has names, or has them no more.
func (d *Directory) count(names []string, by int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range names {
		if labels(n) != 1 {
			continue
		}
		if d.names[n] += by; d.names[n] == 0 {
			delete(d.names, n)
		}
	}
}

// zone returns the zone of a Network, nil when it is not there now.
func (d *Directory) zone(id string) *zone {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.zones[id]
}

// taken reports whether a name in wire form and lower case is an Endpoint's of any Network.
func (d *Directory) taken(name string) bool {
	if len(name) < 2 {
		return false
	}
	first := 1 + int(name[0])
	d.mu.RLock()
	known := d.names[name] > 0
	candidates := d.bySuffix[name[first:]] // never changed in place, but by append
	d.mu.RUnlock()
	if known {
		return true
	}
	return slices.ContainsFunc(candidates, func(z *zone) bool {
		_, known := z.lookup(name)
		return known
	})
}
