package stack_test

import (
	"net/netip"
	"testing"

	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// DU6, C-cr4: names, networks and links of a running container change with Update, and nothing else does.
func TestUpdate(t *testing.T) {
	h := stack.NewHost(stack.HostOptions{})
	backend := networkOf(t, h, func(n *spec.Network) { n.ID, n.Name = "id1", "backend" })
	frontend := networkOf(t, h, func(n *spec.Network) { n.ID, n.Name = "id2", "frontend" })
	c1, c2 := attach(t, backend, "c1", 100, true), attach(t, backend, "c2", 101, true)
	c3 := attach(t, frontend, "c3", 102, true)
	want := func(c *container, name, want string) {
		t.Helper()
		if got := c.lookup(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	want(c1, "c2", "NOERROR "+c2.IP4.String())
	want(c2, "c3", "NXDOMAIN")
	ep := endpointSpec("c2", c2.Station)
	ep.Names = []string{"c2", "db"}
	ep.Resolver = spec.Resolver{Networks: []string{"id1", "id2"}, Links: map[string][]string{"web": {"c3"}}}
	if err := backend.Update(ep); err != nil {
		t.Fatal(err)
	}
	want(c2, "c3", "NOERROR "+c3.IP4.String())
	want(c2, "web", "NOERROR "+c3.IP4.String())
	want(c1, "db.backend", "NOERROR "+c2.IP4.String())
	want(c3, "db", "NXDOMAIN")

	// DN-18: gone when Detach has returned.
	if err := frontend.Detach("c3"); err != nil {
		t.Fatal(err)
	}
	want(c2, "web", "NXDOMAIN")

	for _, change := range []func(*spec.Endpoint){
		func(e *spec.Endpoint) { e.ID = "nobody" },
		func(e *spec.Endpoint) { e.MAC = l2.MAC{2, 9} },
		func(e *spec.Endpoint) { e.Addrs = []netip.Addr{c1.IP4} },
		func(e *spec.Endpoint) { e.Strict = false },
		func(e *spec.Endpoint) { e.Interface = "eth7" },
	} {
		bad := ep
		change(&bad)
		bad.Names = []string{"changed"}
		if err := backend.Update(bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	want(c1, "db", "NOERROR "+c2.IP4.String())
}
