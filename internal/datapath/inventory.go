package datapath

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/usernet/usernet/stack/spec"
)

// What a datapath holds, told to a control that adopts it.
//
// The process keeps a ledger: one entry for each prefix, Network, Endpoint and published port, with digests of the
// requests that made it. A control that adopts the process reads the ledger and begins to want things as if the process
// were empty. For each request it asks Inventory.Claim: what is held with the same digest needs no request, what is held
// otherwise goes first. What nobody has claimed in the end is Rest. So nothing in control but the place where it sends
// requests knows of adoption, and an entry has a bounded size whatever it stands for.
//
// A digest is made of the request's JSON. Both sides are one binary (Hello.Build), so equal requests have equal digests.
// Different digests of what means the same (a list in another order) cost its flows, nothing else.

// key says what an entry is about: the kind of request that made it, the Network, and the Endpoint, port or prefix.
type key struct {
	Kind    kind   `json:"kind"`
	Network string `json:"network,omitempty"`
	ID      string `json:"id,omitempty"`
}

// entry is one thing that is held.
type entry struct {
	key
	// Digest is of all that cannot change while it is held.
	Digest string `json:"digest,omitempty"`
	// View is the digest of what Update changes.
	View string `json:"view,omitempty"`
	// Endpoint is where a published port leads.
	Endpoint string `json:"endpoint,omitempty"`
	// Addrs are an Endpoint's.
	Addrs []netip.Addr `json:"addrs,omitempty"`
	// Gone says that an Endpoint's interface has gone. The event that told of it may have been for a control that was
	// dying.
	Gone bool `json:"gone,omitempty"`
}

// pageEntries is how many entries one answer has: three ids of 64 characters, two digests and a few addresses each,
// 50 KiB together. Should they be longer than a message, the process cannot be adopted.
const pageEntries = 100

func digest(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return "" // it came as JSON or is about to be refused for not being any
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

func prefixKey(p netip.Prefix) key { return key{Kind: kindReserve, ID: p.String()} }

func (q addNetworkRequest) entry() entry {
	return entry{key: key{Kind: kindAddNetwork, Network: q.Network.ID}, Digest: digest(q)}
}

func (q attachRequest) entry() entry {
	e := entry{key: key{kindAttach, q.Network, q.Endpoint.ID}, View: updateRequest{q.Network, q.Endpoint}.view()}
	e.Addrs = q.Endpoint.Addrs
	q.Endpoint.Names, q.Endpoint.Accept = nil, nil
	q.Endpoint.Resolver = spec.Resolver{}
	e.Digest = digest(q)
	return e
}

func (q publishRequest) entry() entry {
	return entry{key: key{kindPublish, q.Network, q.ID}, Digest: digest(q), Endpoint: q.Endpoint}
}

// view is the digest of what an Update changes.
func (q updateRequest) view() string {
	return digest([]any{q.Endpoint.Names, q.Endpoint.Resolver, q.Endpoint.Accept})
}

// ledger is what a process holds. All but gone is for the goroutine that serves requests.
type ledger struct {
	mu      sync.Mutex // guards entries
	entries map[key]entry
	sorted  []entry // what is being told, page by page
}

func newLedger() *ledger { return &ledger{entries: make(map[key]entry)} }

func (l *ledger) add(e entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries[e.key] = e
}

func (l *ledger) remove(k key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.entries, k)
}

func (l *ledger) removeNetwork(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	removeNetwork(l.entries, id)
}

// gone notes that the interface of an Endpoint has gone. Any goroutine may call it.
func (l *ledger) gone(network, endpoint string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := key{kindAttach, network, endpoint}
	if e, ok := l.entries[k]; ok {
		e.Gone = true
		l.entries[k] = e
	}
}

func removeNetwork(entries map[key]entry, id string) {
	for k := range entries {
		if k.Kind != kindReserve && k.Network == id {
			delete(entries, k)
		}
	}
}

func (l *ledger) update(q updateRequest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := key{kindAttach, q.Network, q.Endpoint.ID}
	if e, ok := l.entries[k]; ok {
		e.View = q.view()
		l.entries[k] = e
	}
}

// attached reports whether there is any Endpoint.
func (l *ledger) attached() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k := range l.entries {
		if k.Kind == kindAttach {
			return true
		}
	}
	return false
}

// page returns the entries from after on, as many as a message holds.
func (l *ledger) page(after int) (inventoryReply, error) {
	if after == 0 {
		l.mu.Lock()
		l.sorted = sorted(l.entries, func(entry) bool { return true })
		l.mu.Unlock()
	}
	if after < 0 || after > len(l.sorted) {
		return inventoryReply{}, fmt.Errorf("tell inventory after %d: there are %d entries", after, len(l.sorted))
	}
	part := l.sorted[after:]
	if len(part) > pageEntries {
		return inventoryReply{Held: part[:pageEntries], More: true}, nil
	}
	l.sorted = nil
	return inventoryReply{Held: part}, nil
}

// sorted returns the entries that are wanted, in a fixed order.
func sorted(entries map[key]entry, wanted func(entry) bool) (all []entry) {
	for _, e := range entries {
		if wanted(e) {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Network, b.Network), cmp.Compare(a.ID, b.ID))
	})
	return all
}

// Inventory is what an adopted datapath holds and nobody has claimed yet. A nil one is empty. It belongs to one
// goroutine.
type Inventory struct {
	entries  map[key]entry
	networks map[string]entry // those that were claimed
}

func newInventory(held []entry) *Inventory {
	inv := &Inventory{entries: make(map[key]entry), networks: make(map[string]entry)}
	for _, e := range held {
		inv.entries[e.key] = e
	}
	return inv
}

// Len is how many things nobody has claimed.
func (inv *Inventory) Len() int {
	if inv == nil {
		return 0
	}
	return len(inv.entries)
}

// Unreserved claims prefixes and returns those that are still to be reserved.
func (inv *Inventory) Unreserved(prefixes []netip.Prefix) (rest []netip.Prefix) {
	for _, p := range prefixes {
		if _, held := inv.take(prefixKey(p)); !held {
			rest = append(rest, p)
		}
	}
	return rest
}

// Claim says what is to be asked before r, so that r can be; and whether r need not be asked then, because what
// it asks for is there.
func (inv *Inventory) Claim(r Request) (before []Request, there bool) {
	if inv.Len() == 0 {
		return nil, false
	}
	switch q := r.body.(type) {
	case addNetworkRequest:
		return inv.claimNetwork(q)
	case attachRequest:
		return inv.claimEndpoint(q)
	case publishRequest:
		if e, held := inv.take(q.entry().key); held {
			if e.Digest == q.entry().Digest {
				return nil, true
			}
			return []Request{Unpublish(q.Network, q.ID)}, false
		}
	case idRequest:
		if r.kind == kindDetach {
			return inv.unpublish(q.Network, q.ID), false
		}
	case networkRequest:
		if r.kind == kindRemoveNetwork {
			return nil, inv.unclaimNetwork(q.Network)
		}
	}
	return nil, false
}

func (inv *Inventory) claimNetwork(q addNetworkRequest) (before []Request, there bool) {
	e, held := inv.take(q.entry().key)
	switch {
	case !held:
		return nil, false
	case e.Digest != q.entry().Digest:
		removeNetwork(inv.entries, q.Network.ID)
		return []Request{RemoveNetwork(q.Network.ID)}, false
	}
	inv.networks[q.Network.ID] = e
	return nil, true
}

// unclaimNetwork reports whether a Network that is not wanted any more must stay, since there are Endpoints in it
// whose owners may yet come.
func (inv *Inventory) unclaimNetwork(id string) bool {
	for k := range inv.entries {
		if e, claimed := inv.networks[id]; claimed && k.Kind == kindAttach && k.Network == id {
			inv.entries[e.key] = e
			return true
		}
	}
	removeNetwork(inv.entries, id)
	return false
}

func (inv *Inventory) claimEndpoint(q attachRequest) (before []Request, there bool) {
	want := q.entry()
	e, held := inv.take(want.key)
	switch {
	case held && e.Digest == want.Digest && e.View == want.View:
		return nil, true
	case held && e.Digest == want.Digest:
		return []Request{Update(q.Network, q.Endpoint)}, true
	case held:
		before = append(inv.unpublish(q.Network, q.Endpoint.ID), Detach(q.Network, q.Endpoint.ID))
	}
	// Who has the address of another is given it because that one has died.
	for _, e := range sorted(inv.entries, func(e entry) bool {
		return e.Kind == kindAttach && e.Network == q.Network && slices.ContainsFunc(e.Addrs, func(a netip.Addr) bool {
			return slices.Contains(q.Endpoint.Addrs, a)
		})
	}) {
		before = append(before, inv.Drop(q.Network, e.ID)...)
	}
	return before, false
}

// Drop says how to take away an Endpoint with its ports, when nobody has claimed it.
func (inv *Inventory) Drop(network, endpoint string) []Request {
	if _, held := inv.take(key{kindAttach, network, endpoint}); !held {
		return nil
	}
	return append(inv.unpublish(network, endpoint), Detach(network, endpoint))
}

// DropGone says how to take away the Endpoints whose interfaces have gone, with their ports.
func (inv *Inventory) DropGone() (rs []Request) {
	if inv.Len() == 0 {
		return nil
	}
	for _, e := range sorted(inv.entries, func(e entry) bool { return e.Gone }) {
		rs = append(rs, inv.Drop(e.Network, e.ID)...)
	}
	return rs
}

// Rest says how to take away all that nobody has claimed.
func (inv *Inventory) Rest() (rs []Request) {
	if inv.Len() == 0 {
		return nil
	}
	var prefixes []netip.Prefix
	for _, k := range []kind{kindPublish, kindAttach, kindAddNetwork, kindReserve} {
		for _, e := range sorted(inv.entries, func(e entry) bool { return e.Kind == k }) {
			switch k {
			case kindPublish:
				rs = append(rs, Unpublish(e.Network, e.ID))
			case kindAttach:
				rs = append(rs, Detach(e.Network, e.ID))
			case kindAddNetwork:
				rs = append(rs, RemoveNetwork(e.Network))
			case kindReserve:
				if p, err := netip.ParsePrefix(e.ID); err == nil {
					prefixes = append(prefixes, p)
				}
			}
		}
	}
	clear(inv.entries)
	return append(rs, Release(prefixes)...)
}

// take returns an entry that nobody has claimed, and claims it.
func (inv *Inventory) take(k key) (entry, bool) {
	if inv == nil {
		return entry{}, false
	}
	e, held := inv.entries[k]
	if delete(inv.entries, k); len(inv.entries) == 0 {
		// A map does not shrink, and these stay until the owners' time is over.
		inv.entries, inv.networks = make(map[key]entry), make(map[string]entry)
	}
	return e, held
}

// unpublish says how to end the ports that lead to an Endpoint and that nobody has claimed.
func (inv *Inventory) unpublish(network, endpoint string) (rs []Request) {
	for _, e := range sorted(inv.entries, func(e entry) bool {
		return e.Kind == kindPublish && e.Network == network && e.Endpoint == endpoint
	}) {
		delete(inv.entries, e.key)
		rs = append(rs, Unpublish(network, e.ID))
	}
	return rs
}
