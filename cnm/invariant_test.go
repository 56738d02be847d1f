package cnm

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/usernet/usernet/cnm/store"
	"github.com/usernet/usernet/portfwd"
)

// check holds the store, the memory, the datapath and the namespaces against each other: they say the same.
func (r *rig) check(boxes ...*box) {
	r.t.Helper()
	if err := r.differ(boxes...); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) differ(boxes ...*box) error {
	infos := r.c.Networks()
	if got := r.store.Len(store.Networks); got != len(infos) {
		return fmt.Errorf("the store has %d networks, the memory %d", got, len(infos))
	}
	endpoints, networks := 0, 0
	var reserved []netip.Prefix
	for _, n := range infos {
		endpoints += len(n.Endpoints)
		for _, s := range n.Subnets {
			reserved = append(reserved, s.Prefix)
		}
		if err := r.sameAddresses(n); err != nil {
			return err
		}
		attached, err := r.sameDatapath(n)
		if err != nil {
			return err
		}
		if attached > 0 {
			networks++
		}
	}
	slices.SortFunc(reserved, netip.Prefix.Compare)
	switch {
	case r.store.Len(store.Endpoints) != endpoints:
		return fmt.Errorf("the store has %d leases, the memory %d endpoints", r.store.Len(store.Endpoints), endpoints)
	case len(r.dp.Networks()) != networks:
		return fmt.Errorf("the datapath has %d networks, %d are in use", len(r.dp.Networks()), networks)
	case !slices.Equal(reserved, r.dp.Reserved()):
		return fmt.Errorf("reserved %v, want %v", r.dp.Reserved(), reserved)
	}
	for _, b := range boxes {
		if err := r.sameNamespace(b); err != nil {
			return err
		}
	}
	return r.sameLeases()
}

// sameAddresses counts what is in use against who is there, and finds duplicates.
func (r *rig) sameAddresses(n NetworkInfo) error {
	seen := make(map[netip.Addr]string)
	for i, s := range n.Subnets {
		want := uint64(2) // network, broadcast
		if s.Prefix.Addr().Is6() {
			want = 1
		}
		if s.Gateway.IsValid() {
			want++
		}
		for _, e := range n.Endpoints {
			for _, p := range []netip.Prefix{e.Addr4, e.Addr6} {
				if !p.IsValid() || !s.Prefix.Contains(p.Addr()) {
					continue
				}
				want++
				if seen[p.Addr()] != "" {
					return fmt.Errorf("%s and %s both have %s", seen[p.Addr()], e.SandboxName, p.Addr())
				}
				seen[p.Addr()] = e.SandboxName
			}
		}
		if got := n.InUse[s.Prefix]; got != want {
			return fmt.Errorf("network %s, subnet %d: %d addresses in use, want %d", n.Name, i, got, want)
		}
	}
	return nil
}

// sameDatapath compares the Endpoints of a Network with those the datapath has, and returns their number.
func (r *rig) sameDatapath(n NetworkInfo) (int, error) {
	var want []string
	r.c.mu.Lock()
	for id, ep := range r.c.networks[n.ID].endpoints {
		if ep.state == attached {
			want = append(want, id)
		}
	}
	r.c.mu.Unlock()
	slices.Sort(want)
	var got []string
	if d := r.dp.Network(n.ID); d != nil {
		for id, s := range d.Endpoints {
			got = append(got, id)
			for _, e := range n.Endpoints {
				has := func(p netip.Prefix) bool { return !p.IsValid() || slices.Contains(s.Addrs, p.Addr()) }
				if e.ID == id && (!has(e.Addr4) || !has(e.Addr6) || s.MAC != e.MAC) {
					return 0, fmt.Errorf("the datapath has %v %s for %s", s.Addrs, s.MAC, e.SandboxName)
				}
			}
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		return 0, fmt.Errorf("network %s: the datapath has endpoints %v, want %v", n.Name, got, want)
	}
	return len(want), nil
}

// sameNamespace compares a sandbox with its namespaces and its ports with the datapath's.
func (r *rig) sameNamespace(b *box) error {
	info, err := r.c.Sandbox(b.conf.ID)
	if err != nil {
		return err
	}
	var want []string
	published := make(map[portfwd.Spec]bool)
	for _, e := range info.Endpoints {
		want = append(want, e.Interface)
		if d := r.dp.Network(e.NetworkID); d != nil {
			for s, ep := range d.Ports {
				if ep == e.ID {
					published[s] = true
				}
			}
		}
	}
	slices.Sort(want)
	var got []string
	for _, l := range b.ns.Links() {
		got = append(got, l.Name)
	}
	r.c.mu.Lock()
	routes, files := b.routesLocked(), b.filesLocked()
	r.c.mu.Unlock()
	switch {
	case !slices.Equal(got, want):
		return fmt.Errorf("container %s has interfaces %v, want %v", info.Name, got, want)
	case b.ns.Routes() != routes:
		return fmt.Errorf("container %s has routes %+v, want %+v", info.Name, b.ns.Routes(), routes)
	case len(published) != len(info.Ports):
		return fmt.Errorf("container %s: %d ports lead to it, want %v", info.Name, len(published), info.Ports)
	}
	for _, f := range files {
		if b.ns.File(f.Path) != f.Content {
			return fmt.Errorf("container %s: %s is\n%s\nwant\n%s", info.Name, f.Path, b.ns.File(f.Path), f.Content)
		}
	}
	return nil
}

// sameLeases compares leases with Endpoints.
func (r *rig) sameLeases() error {
	return r.store.Each(store.Endpoints, func(id string, raw []byte) error {
		var l lease
		if err := json.Unmarshal(raw, &l); err != nil {
			return err
		}
		r.c.mu.Lock()
		defer r.c.mu.Unlock()
		n := r.c.networks[l.Network]
		if n == nil || n.endpoints[id] == nil {
			return fmt.Errorf("lease %s of %s is nobody's", shortID(id), l.Name)
		}
		if ep := n.endpoints[id]; ep.owner != l.Sandbox || !reflect.DeepEqual(ep.link, l.Link) {
			return fmt.Errorf("lease %+v, endpoint %+v", l.Link, ep.link)
		}
		return nil
	})
}
