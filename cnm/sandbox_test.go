package cnm

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/cnm/store"
)

// TestLifecycle is LC1 to LC7 with M2 to M6: networks by driver, an Endpoint in each, the sandbox joins, all goes in
// reverse, and a Network goes only without Endpoints.
func TestLifecycle(t *testing.T) {
	r := newRig(t)
	front, back := r.create("frontend", ""), r.create("backend", "")
	b := r.run(sandboxConf("c1", "backend", "frontend"))
	r.settled()
	r.check(b)
	if len(b.j.Links) != 2 || b.j.Links[0].Name != "eth0" || b.j.Links[1].Name != "eth1" {
		t.Errorf("links are %+v", b.j.Links)
	}
	if b.leg("backend").NetworkID != back || b.leg("frontend").NetworkID != front {
		t.Error("the first Network asked for is not the first leg")
	}
	wantErr(t, "LC6", r.c.Remove(context.Background(), "backend"), fault.Forbidden,
		`error while removing network: network backend has active endpoints (name:"c1" id:"`+shortID(b.leg("backend").ID)+`")`)
	b.Close()
	r.check()
	for _, n := range []string{"backend", front} {
		if err := r.c.Remove(context.Background(), n); err != nil {
			t.Error(err)
		}
	}
	r.check()
	if got := len(r.c.Networks()); got != 3 {
		t.Errorf("%d networks are left, want the three that are always there", got)
	}
}

// TestConnectAndDisconnect is DU6 as far as control goes: a leg comes and goes while the command runs, with its interface,
// route, files and names; and M7: nothing joins the two.
func TestConnectAndDisconnect(t *testing.T) {
	r := newRig(t)
	r.create("zoo", "10.1.0.0/24")
	r.create("ark", "10.2.0.0/24")
	b := r.run(sandboxConf("c2", "zoo"))
	r.settled()
	before := b.ns.Routes()
	r.connect("c2", "ark")
	r.settled()
	r.check(b)
	// The Network's name decides when nothing else does: ark before zoo (2.7).
	if got := b.ns.Routes().Default4; got.Dev != "eth1" || got.Addr != netip.MustParseAddr("10.2.0.1") {
		t.Errorf("the default route goes by %+v", got)
	}
	contains(t, "hosts", b.ns.File("/etc/hosts"), "10.1.0.2\t", "10.2.0.2\t")
	views := r.dp.Network(b.leg("zoo").NetworkID).Endpoints[b.leg("zoo").ID].Resolver.Networks
	if want := []string{b.leg("zoo").NetworkID, b.leg("ark").NetworkID}; !slices.Equal(views, want) {
		t.Errorf("the first leg sees names of %v, want %v", views, want)
	}
	r.disconnect("ark", "c2")
	r.settled()
	r.check(b)
	if b.ns.Routes() != before {
		t.Errorf("routes are %+v, were %+v", b.ns.Routes(), before)
	}
	r.connect("c2", "ark")
	if got := b.leg("ark"); got.Interface != "eth1" || got.Addr4 != netip.MustParsePrefix("10.2.0.2/24") {
		t.Errorf("the lowest free number and address are not used again: %+v", got)
	}
}

// TestGatewayOrder is the order of 2.7, each rule against the next.
func TestGatewayOrder(t *testing.T) {
	r := newRig(t)
	yes := true
	r.create("inside", "10.1.0.0/24", func(c *NetworkConfig) { c.Internal = true })
	r.create("plain", "10.2.0.0/24")
	r.create("zwei", "10.3.0.0/24", func(c *NetworkConfig) { c.EnableIPv6 = &yes })
	r.create("alpha", "10.4.0.0/24")
	rows := []struct {
		legs       []EndpointConfig
		dev4, dev6 string
	}{
		{[]EndpointConfig{{Network: "inside"}}, "", ""},
		{[]EndpointConfig{{Network: "inside"}, {Network: "plain"}}, "eth1", ""},
		{[]EndpointConfig{{Network: "plain"}, {Network: "alpha"}}, "eth1", ""},
		{[]EndpointConfig{{Network: "alpha"}, {Network: "zwei"}}, "eth1", "eth1"},
		{[]EndpointConfig{{Network: "alpha", GwPriority: 1}, {Network: "zwei"}}, "eth0", "eth1"},
		{[]EndpointConfig{{Network: "alpha"}, {Network: "zwei", GwPriority: -1}}, "eth0", "eth1"},
		{[]EndpointConfig{{Network: "inside", GwPriority: 9}, {Network: "plain"}}, "eth1", ""},
	}
	for i, row := range rows {
		s := sandboxConf("c")
		s.Networks = row.legs
		b := r.run(s)
		if got := b.j.Routes; got.Default4.Dev != row.dev4 || got.Default6.Dev != row.dev6 {
			t.Errorf("row %d: default routes by %q and %q, want %q and %q", i, got.Default4.Dev, got.Default6.Dev, row.dev4, row.dev6)
		}
		r.check(b)
		b.Close()
	}
}

// TestResolver is SD2, DF3 and DB6: who has 127.0.0.11, and who has not.
func TestResolver(t *testing.T) {
	r := newRig(t)
	r.create("web", "10.1.0.0/24")
	r.create("inside", "10.2.0.0/24", func(c *NetworkConfig) { c.Internal = true })
	named := r.run(sandboxConf("c1", "web"))
	contains(t, "resolv.conf", named.ns.File("/etc/resolv.conf"), "nameserver 127.0.0.11\n", "search example.com\n", "edns0", "ndots:0",
		"# ExtServers: [host(192.0.2.53)]\n", "# Option ndots from: internal\n")
	if hop := named.j.Routes.Resolver; hop.Dev != "eth0" || hop.MAC.IsZero() {
		t.Errorf("127.0.0.11 is at %+v", hop)
	}
	plain := r.run(sandboxConf("c2"))
	contains(t, "resolv.conf", plain.ns.File("/etc/resolv.conf"), "nameserver 172.17.0.1\n", "search example.com\n")
	if !plain.j.Routes.Resolver.IsZero() {
		t.Error("a sandbox of the default bridge has a way to 127.0.0.11")
	}
	s := sandboxConf("c3", "web")
	s.DNS, s.DNSSearch, s.DNSOptions = []netip.AddrPort{netip.MustParseAddrPort("8.8.8.8:53")}, []string{"dockercents.com"}, []string{"ndots:3"}
	own := r.run(s)
	contains(t, "resolv.conf", own.ns.File("/etc/resolv.conf"), "nameserver 127.0.0.11\n", "search dockercents.com\n", "options ndots:3\n",
		"# ExtServers: [8.8.8.8]\n", "# Option ndots from: override\n")
	view := r.dp.Network(own.leg("web").NetworkID).Endpoints[own.leg("web").ID].Resolver
	if !view.NDots || !slices.Equal(view.Upstreams, s.DNS) || view.Closed {
		t.Errorf("the view is %+v", view)
	}
	shut := r.run(sandboxConf("c4", "inside"))
	if v := r.dp.Network(shut.leg("inside").NetworkID).Endpoints[shut.leg("inside").ID].Resolver; !v.Closed {
		t.Error("a sandbox with internal networks alone has its names forwarded")
	}
	// A leg outside opens it, and closes it again when it goes (TestInternalNetworkDNS of Docker's).
	r.connect("c4", "web")
	if v := r.dp.Network(shut.leg("inside").NetworkID).Endpoints[shut.leg("inside").ID].Resolver; v.Closed {
		t.Error("the names are not forwarded with a leg outside")
	}
	r.disconnect("web", "c4")
	if v := r.dp.Network(shut.leg("inside").NetworkID).Endpoints[shut.leg("inside").ID].Resolver; !v.Closed {
		t.Error("the names are forwarded still")
	}
}

// TestNames is SD1, SD4, SD5 and C-co2: what a leg is called, in which order, and where.
func TestNames(t *testing.T) {
	r := newRig(t)
	r.create("web", "")
	s := sandboxConf("c1")
	s.Hostname = "h1"
	s.Networks = []EndpointConfig{{Network: "web", Aliases: []string{"db", "c1", "data"}}, {Network: "bridge"}}
	b := r.run(s)
	leg := b.leg("web")
	want := []string{"c1", "db", "data", shortID(b.conf.ID), "h1"}
	if !slices.Equal(leg.Names, want) {
		t.Errorf("names are %v, want %v", leg.Names, want)
	}
	if got := r.dp.Network(leg.NetworkID).Endpoints[leg.ID].Names; !slices.Equal(got, want) {
		t.Errorf("the datapath has %v", got)
	}
	other := b.leg("bridge")
	if got := r.dp.Network(other.NetworkID).Endpoints[other.ID].Names; got != nil || other.Names != nil {
		t.Errorf("on the default bridge it is called %v", got)
	}
}

// TestCloseFrees is LC7: the end of a shim frees everything at once, whatever its namespaces do, and again is nothing.
func TestCloseFrees(t *testing.T) {
	r := newRig(t)
	r.create("web", "10.1.0.0/24")
	b := r.run(sandboxConf("c1", "web"))
	r.settled()
	b.ns.Hang()
	stuck := make(chan error, 1)
	go func() { stuck <- r.c.Connect(context.Background(), "c1", EndpointConfig{Network: "bridge"}) }()
	wait(t, "the shim to be asked", func() bool { return len(b.op) > 0 })
	// A shim that does not answer keeps nobody else waiting.
	r.run(sandboxConf("c2", "web")).Close()
	for range 2 {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-stuck; err == nil {
		t.Error("a leg was made for a sandbox that was gone")
	}
	r.check()
	if n := r.store.Len(store.Endpoints); n != 0 {
		t.Errorf("%d leases are left", n)
	}
	again := r.run(sandboxConf("c1", "web"))
	if again.leg("web").Addr4 != netip.MustParsePrefix("10.1.0.2/24") {
		t.Errorf("the address is not free: %v", again.leg("web").Addr4)
	}
}

// TestEndpointRefused has the errors of 2.2, 2.6, 2.7 and 2.11 for one leg; nothing is left of any.
func TestEndpointRefused(t *testing.T) {
	r := newRig(t)
	r.create("n1", "10.1.0.0/24")
	r.create("tiny", "10.2.0.0/30")
	r.create("cfg", "", func(c *NetworkConfig) { c.ConfigOnly = true })
	r.run(sandboxConf("full", "tiny"))
	b := r.run(sandboxConf("c1", "n1"))
	a := netip.MustParseAddr
	rows := []struct {
		conf EndpointConfig
		kind fault.Kind
		text string
	}{
		{EndpointConfig{Network: "nope"}, fault.NotFound, "network nope not found"},
		{EndpointConfig{Network: "n1"}, fault.Forbidden, "endpoint with name c1 already exists in network n1"},
		{EndpointConfig{Network: "cfg"}, fault.Forbidden, "cannot create endpoint on configuration-only network"},
		{EndpointConfig{Network: "host"}, fault.Invalid, "cannot connect container to host network - container must be created in host network mode"},
		{EndpointConfig{Network: "none"}, fault.Invalid, "container cannot be connected to multiple networks with one of the networks in private (none) mode"},
		{EndpointConfig{Network: "bridge", IPv4: a("172.17.0.9")}, fault.Invalid, "invalid endpoint settings:\nuser-specified IP address is supported on user-defined networks only"},
		{EndpointConfig{Network: "bridge", Aliases: []string{"x"}}, fault.Invalid, "invalid endpoint settings:\nnetwork-scoped aliases are only supported for user-defined networks"},
		{EndpointConfig{Network: "tiny"}, fault.Unavailable, "no available addresses on this pool"},
		{EndpointConfig{Network: "tiny", IPv4: a("10.2.0.2")}, fault.Forbidden, "Address already in use"},
		{EndpointConfig{Network: "tiny", IPv4: a("10.9.0.2")}, fault.Invalid, "invalid endpoint settings:\nno configured subnet contains IP address 10.9.0.2"},
		{EndpointConfig{Network: "tiny", IPv4: a("fd00::1")}, fault.Invalid, "invalid endpoint settings:\ninvalid IPv4 address: fd00::1"},
		{EndpointConfig{Network: "tiny", IPv6: a("10.2.0.3")}, fault.Invalid, "invalid endpoint settings:\ninvalid IPv6 address: 10.2.0.3"},
		{EndpointConfig{Network: "tiny", LinkLocal: []netip.Addr{a("0.0.0.0"), a("10.0.0.1")}}, fault.Invalid,
			"invalid endpoint settings:\n* invalid link-local IP address: 0.0.0.0\n* invalid link local IP address: 10.0.0.1"},
		{EndpointConfig{Network: "n1", Links: []string{"a:b:c"}}, fault.Invalid, "bad format for links: a:b:c"},
	}
	for _, row := range rows {
		wantErr(t, row.conf.Network, r.c.Connect(context.Background(), "c1", row.conf), row.kind, row.text)
		s := sandboxConf("c1")
		s.ID, s.Networks = idOf("other"), []EndpointConfig{row.conf}
		if row.text == "endpoint with name c1 already exists in network n1" {
			continue
		}
		s.Name = "other"
		_, err := r.tryRun(s)
		wantErr(t, "join "+row.conf.Network, err, row.kind, row.text)
	}
	r.settled()
	r.check(b)
	wantErr(t, "nobody", r.c.Connect(context.Background(), "nobody", EndpointConfig{Network: "n1"}), fault.NotFound, "No such container: nobody")
	wantErr(t, "not connected", r.c.Disconnect(context.Background(), "bridge", "c1", false), fault.Internal,
		"container "+b.conf.ID+" is not connected to network bridge")
	wantErr(t, "host", r.c.Disconnect(context.Background(), "host", "c1", false), fault.Internal,
		"container "+b.conf.ID+" is not connected to network host")
}

// TestEndpointOptions is C-co3, C-co4, C-co6 and the options of 2.4: addresses, link addresses and interface as asked.
func TestEndpointOptions(t *testing.T) {
	r := newRig(t)
	yes := true
	r.create("n1", "10.1.0.0/24", func(c *NetworkConfig) {
		c.EnableIPv6 = &yes
		c.IPAM.Subnets = append(c.IPAM.Subnets, Subnet{Prefix: netip.MustParsePrefix("2001:db8::/64")})
	})
	s := sandboxConf("c1")
	s.Networks = []EndpointConfig{{
		Network: "n1", IPv4: netip.MustParseAddr("10.1.0.77"), IPv6: netip.MustParseAddr("2001:db8::77"),
		LinkLocal: []netip.Addr{netip.MustParseAddr("169.254.8.8"), netip.MustParseAddr("fe80::8")},
		DriverOpts: map[string]string{
			"com.docker.network.endpoint.ifname":  "lan7",
			"com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1",
		},
	}}
	b := r.run(s)
	r.check(b)
	l := b.j.Links[0]
	want := plumb.Link{
		EndpointID: l.EndpointID, Name: "lan7", MTU: 1500, MAC: l.MAC, Addr4: netip.MustParsePrefix("10.1.0.77/24"), Addr6: netip.MustParsePrefix("2001:db8::77/64"),
		LinkLocal: []netip.Prefix{netip.MustParsePrefix("169.254.8.8/16"), netip.MustParsePrefix("fe80::8/64")},
	}
	if l.Sysctls["net.ipv4.conf.lan7.log_martians"] != "1" || len(l.Sysctls) != 1 {
		t.Errorf("sysctls are %v", l.Sysctls)
	}
	if l.Sysctls = nil; !slices.Equal(l.LinkLocal, want.LinkLocal) || l.Name != want.Name || l.Addr4 != want.Addr4 || l.Addr6 != want.Addr6 {
		t.Errorf("got  %+v\nwant %+v", l, want)
	}
	if l.MAC[0]&3 != 2 {
		t.Errorf("%s is not a locally administered station", l.MAC)
	}
	old := sandboxConf("c2", "n1")
	old.Profile = Profile2010
	if got := r.run(old).j.Links[0]; got.MAC.String() != "02:42:0a:01:00:02" {
		t.Errorf("with the profile 20.10 %s has %s", got.Addr4, got.MAC)
	}
}

// TestIPv6Only: without IPv4 there is no 127.0.0.11 to ask; the gateway answers, and where there is none nobody does.
func TestIPv6Only(t *testing.T) {
	r := newRig(t)
	no, yes := false, true
	six := func(c *NetworkConfig) { c.EnableIPv4, c.EnableIPv6 = &no, &yes }
	r.create("n6", "fd00:6::/64", six)
	r.create("alone", "fd00:7::/64", six, func(c *NetworkConfig) {
		c.Internal, c.Options = true, map[string]string{"com.docker.network.bridge.gateway_mode_ipv6": "isolated"}
	})
	b := r.run(sandboxConf("c1", "n6"))
	resolv := b.ns.File("/etc/resolv.conf")
	contains(t, "resolv.conf", resolv, "nameserver fd00:6::1\n", "options edns0 ndots:0\n")
	if j := b.j.Routes; strings.Contains(resolv, "127.0.0.11") || !j.Resolver.IsZero() || j.Default6.Addr != netip.MustParseAddr("fd00:6::1") || !j.Default4.IsZero() {
		t.Errorf("routes %+v, resolv.conf %s", j, resolv)
	}
	c := r.run(sandboxConf("c2", "alone"))
	if resolv := c.ns.File("/etc/resolv.conf"); strings.Contains(resolv, "\nnameserver") || strings.HasPrefix(resolv, "nameserver") {
		t.Errorf("without a gateway: %s", resolv)
	}
	r.check(b, c)
}
