package cnm

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/cnm/store"
)

// TestFreshStart is DN1, DB1, DH1 and C-ls4: the three that are always there, the default bridge in the first pool.
func TestFreshStart(t *testing.T) {
	r := newRig(t)
	drivers := map[string]string{"bridge": "bridge", "host": "host", "none": "null"}
	all := r.c.Networks()
	if len(all) != len(drivers) {
		t.Fatalf("%d networks", len(all))
	}
	ids := make(map[string]string)
	for _, n := range all {
		if drivers[n.Name] != n.Driver || len(n.ID) != 64 || n.Scope != ScopeLocal || !*n.EnableIPv4 {
			t.Errorf("%+v", n)
		}
		ids[n.Name] = n.ID
	}
	b, err := r.c.Network("bridge")
	if err != nil || len(b.Subnets) != 1 || b.Subnets[0].Prefix != netip.MustParsePrefix("172.17.0.0/16") || b.Subnets[0].Gateway != netip.MustParseAddr("172.17.0.1") {
		t.Errorf("the default bridge has %+v, %v", b.Subnets, err)
	}
	if b.Options["com.docker.network.bridge.default_bridge"] != "true" || b.Options["com.docker.network.driver.mtu"] != "1500" {
		t.Errorf("its options are %v", b.Options)
	}
	r.check()
	r.c.Close()
	r.dp.Release(r.dp.Reserved()...)
	r.start()
	for _, n := range r.c.Networks() {
		if ids[n.Name] != n.ID {
			t.Errorf("%s has another id after a restart", n.Name)
		}
	}
	r.check()
}

// TestDefaultBridge is what bip, fixed-cidr, mtu, icc and ip make of it, and that it follows them at a restart.
func TestDefaultBridge(t *testing.T) {
	var b DefaultBridge
	r := newRig(t, func(c *Config) { c.Bridge, c.HostIP = b, netip.MustParseAddr("127.0.0.1") })
	no := false
	b = DefaultBridge{BIP: netip.MustParsePrefix("10.9.0.254/24"), FixedCIDR: netip.MustParsePrefix("10.9.0.128/25"),
		Gateway4: netip.MustParseAddr("10.9.0.3"), MTU: 1400, ICC: &no}
	r.c.Close()
	r.dp.Release(r.dp.Reserved()...)
	r.start()
	box := r.run(sandboxConf("c1"))
	l, routes := box.j.Links[0], box.j.Routes
	if l.Addr4 != netip.MustParsePrefix("10.9.0.128/24") || l.MTU != 1400 || routes.Default4.Addr != netip.MustParseAddr("10.9.0.3") || !routes.Default4.MAC.IsZero() {
		t.Errorf("link %+v, routes %+v", l, routes)
	}
	n := r.dp.Network(box.leg("bridge").NetworkID)
	if !n.Spec.Apart || !n.Spec.NoNames || n.Spec.Gateway4 != netip.MustParseAddr("10.9.0.254") {
		t.Errorf("the datapath has %+v", n.Spec)
	}
	// While a sandbox lives on it, it stays as it is.
	b = DefaultBridge{}
	r.restart()
	if info, _ := r.c.Network("bridge"); info.Subnets[0].Prefix != netip.MustParsePrefix("10.9.0.0/24") || len(info.Endpoints) != 1 {
		t.Errorf("under a living sandbox it became %+v", info)
	}
}

// TestCreateRefused is the error table of 2.11 and M9's other half: what cannot be is refused and leaves nothing.
func TestCreateRefused(t *testing.T) {
	r := newRig(t)
	p, a, yes, no := netip.MustParsePrefix, netip.MustParseAddr, true, false
	r.create("n1", "10.1.0.0/24")
	r.create("cfg", "", func(c *NetworkConfig) { c.ConfigOnly = true })
	operator := "configuration network can only contain network specific fields. Network operator fields like [ ingress | internal | attachable | scope ] are not supported."
	subnets := func(s ...Subnet) IPAMConfig { return IPAMConfig{Subnets: s} }
	rows := []struct {
		conf NetworkConfig
		kind fault.Kind
		text string
	}{
		{NetworkConfig{Name: "bridge"}, fault.Forbidden, "operation is not permitted on predefined bridge network "},
		{NetworkConfig{Name: "host"}, fault.Forbidden, "operation is not permitted on predefined host network "},
		{NetworkConfig{Name: "none"}, fault.Forbidden, "operation is not permitted on predefined none network "},
		{NetworkConfig{Name: "default"}, fault.Forbidden, "operation is not permitted on predefined default network "},
		{NetworkConfig{Name: "private"}, fault.Forbidden, "operation is not permitted on predefined private network "},
		{NetworkConfig{Name: ""}, fault.Invalid, "invalid name: name is empty"},
		{NetworkConfig{Name: "n1"}, fault.Conflict, "network with name n1 already exists"},
		{NetworkConfig{Name: "x", Driver: "foo"}, fault.NotFound, "could not find plugin foo in v1 plugin registry: plugin not found"},
		{NetworkConfig{Name: "x", Driver: "host"}, fault.Forbidden, `only one instance of "host" network is allowed`},
		{NetworkConfig{Name: "x", Driver: "null"}, fault.Forbidden, `only one instance of "null" network is allowed`},
		{NetworkConfig{Name: "x", Driver: "overlay"}, fault.Forbidden,
			`This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`},
		{NetworkConfig{Name: "x", Scope: ScopeSwarm}, fault.Forbidden, "cannot create a swarm scoped network when swarm is not active"},
		{NetworkConfig{Name: "x", Scope: "wide"}, fault.Invalid, `invalid scope "wide": want local, swarm or global`},
		{NetworkConfig{Name: "x", Ingress: true}, fault.Forbidden, "Ingress network can only be global scope network"},
		{NetworkConfig{Name: "x", EnableIPv4: &no}, fault.Invalid, "IPv4 or IPv6 must be enabled"},
		{NetworkConfig{Name: "x", IPAM: subnets(Subnet{Prefix: p("10.0.0.1/8")})}, fault.Invalid, "invalid network config:\ninvalid subnet 10.0.0.1/8: it should be 10.0.0.0/8"},
		{NetworkConfig{Name: "x", IPAM: subnets(Subnet{Prefix: p("10.1.0.0/16")})}, fault.Forbidden, "invalid pool request: Pool overlaps with other one on this address space"},
		{NetworkConfig{Name: "x", IPAM: subnets(Subnet{Prefix: p("10.3.0.0/24")}, Subnet{Prefix: p("10.4.0.0/24")})}, fault.Forbidden, "bridge driver doesn't support multiple subnets"},
		{NetworkConfig{Name: "x", IPAM: subnets(Subnet{Prefix: p("10.3.0.0/24"), Gateway: a("10.4.0.1")})}, fault.Invalid,
			"invalid network config:\ninvalid gateway 10.4.0.1: parent subnet 10.3.0.0/24 doesn't contain this address"},
		{NetworkConfig{Name: "x", Options: map[string]string{"com.docker.network.bridge.enable_icc": "x"}}, fault.Invalid,
			`failed to parse com.docker.network.bridge.enable_icc: x (strconv.ParseBool: parsing "x": invalid syntax)`},
		{NetworkConfig{Name: "x", ConfigOnly: true, Internal: true}, fault.Forbidden, operator},
		{NetworkConfig{Name: "x", ConfigOnly: true, Scope: ScopeLocal}, fault.Forbidden, operator},
		{NetworkConfig{Name: "x", ConfigFrom: "nope"}, fault.NotFound, `configuration network "nope" does not exist`},
		{NetworkConfig{Name: "x", ConfigFrom: "n1"}, fault.NotFound, `configuration network "n1" does not exist`},
		{NetworkConfig{Name: "x", ConfigFrom: "cfg", EnableIPv6: &yes}, fault.Forbidden,
			"user-specified configurations are not supported if the network depends on a configuration network"},
		{NetworkConfig{Name: "x", ConfigFrom: "cfg", Options: map[string]string{"a": "b"}}, fault.Forbidden,
			"network driver options are not supported if the network depends on a configuration network"},
	}
	for _, row := range rows {
		_, _, err := r.c.Create(context.Background(), row.conf)
		wantErr(t, row.conf.Name+" "+row.conf.Driver, err, row.kind, row.text)
		r.check()
	}
}

// TestLU07NetworkNames: names that nothing should be called by are refused by whoever asks, and change nothing. That a
// warning of the driver's reaches who creates is shown with them.
func TestLU07NetworkNames(t *testing.T) {
	r := newRig(t)
	for name, ok := range map[string]bool{
		"../../x": false, "a/b": false, `a\b`: false, "..": false, ".": false, "a\nb": false, "a\x00b": false, "a\u0085b": false,
		"a\xffb": false, strings.Repeat("x", 256): false, "": false, "  ": false,
		"web": true, "my net": true, "a.b-c_d": true, "%2e%2e": true, "réseau": true, "...": true,
	} {
		_, warning, err := r.c.Create(context.Background(), NetworkConfig{
			Name: name, Options: map[string]string{"com.docker.network.bridge.trusted_host_interfaces": "eth0"},
		})
		switch {
		case ok && (err != nil || !strings.Contains(warning, "has no effect")):
			t.Errorf("%q: %v, warning %q", name, err, warning)
		case !ok && (fault.KindOf(err) != fault.Invalid || !strings.HasPrefix(err.Error(), "invalid name: ")):
			t.Errorf("%q: %v", name, err)
		}
	}
	r.check()
}

// TestConfigFrom: settings come from the one that only holds them, which stays while it is needed.
func TestConfigFrom(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	r.create("cfg", "10.5.0.0/24", func(c *NetworkConfig) {
		c.ConfigOnly = true
		c.Labels, c.Options = map[string]string{"a": "b"}, map[string]string{"com.docker.network.driver.mtu": "1400"}
	})
	r.create("n1", "", func(c *NetworkConfig) { c.ConfigFrom = "cfg" })
	n, _ := r.c.Network("n1")
	if n.Subnets[0].Prefix != netip.MustParsePrefix("10.5.0.0/24") || n.Labels["a"] != "b" || n.Options["com.docker.network.driver.mtu"] != "1400" {
		t.Errorf("n1 is %+v", n)
	}
	cfg, _ := r.c.Network("cfg")
	if cfg.Driver != "null" || cfg.Scope != ScopeLocal || len(cfg.Subnets) != 0 {
		t.Errorf("cfg is %+v", cfg)
	}
	wantErr(t, "in use", r.c.Remove(ctx, "cfg"), fault.Forbidden, `configuration network "cfg" is in use`)
	r.check()
	for _, name := range []string{"n1", "cfg"} {
		if err := r.c.Remove(ctx, name); err != nil {
			t.Error(err)
		}
	}
	r.check()
}

// TestLookup is the order of 2.11: whole id, name, beginning of an id.
func TestLookup(t *testing.T) {
	r := newRig(t)
	id := r.create("n1", "")
	twin := r.create(id[:12], "") // a name that is the beginning of another's id
	find := func(ref, want string) {
		t.Helper()
		if n, err := r.c.Network(ref); err != nil || n.ID != want {
			t.Errorf("Network(%q) = %s, %v; want %s", ref, n.ID, err, want)
		}
	}
	find("n1", id)
	find(id, id)
	find(id[:12], twin)
	find(id[:20], id)
	_, err := r.c.Network("nope")
	wantErr(t, "unknown", err, fault.NotFound, "network nope not found")
	_, err = r.c.Network("")
	wantErr(t, "empty", err, fault.NotFound, "network  not found")
	for i := range 17 { // seventeen ids begin with sixteen digits
		r.create("more"+strings.Repeat("x", i), "", func(c *NetworkConfig) { c.ConfigOnly = true })
	}
	count := make(map[string]int)
	for _, n := range r.c.Networks() {
		count[n.ID[:1]]++
	}
	for digit, n := range count {
		if n == 2 {
			_, err := r.c.Network(digit)
			wantErr(t, "ambiguous", err, fault.Invalid, "network "+digit+" is ambiguous (2 matches found based on ID prefix)")
		}
	}
}

// TestRemoveAndPrune is C-rm1, C-pr1 and FT-15.
func TestRemoveAndPrune(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	for _, name := range []string{"bridge", "host", "none"} {
		wantErr(t, name, r.c.Remove(ctx, name), fault.Forbidden, name+" is a pre-defined network and cannot be removed")
	}
	wantErr(t, "unknown", r.c.Remove(ctx, "x"), fault.NotFound, "network x not found")
	r.create("used", "")
	r.create("idle", "")
	r.create("kept", "", func(c *NetworkConfig) { c.Labels = map[string]string{"keep": ""} })
	r.create("cfg", "", func(c *NetworkConfig) { c.ConfigOnly = true })
	b := r.run(sandboxConf("c1", "used"))
	got, err := r.c.Prune(ctx, func(n NetworkInfo) bool {
		_, keep := n.Labels["keep"]
		if _, err := r.c.Prune(ctx, nil); fault.KindOf(err) != fault.Conflict || err.Error() != "a prune operation is already running" {
			t.Errorf("a second prune: %v", err)
		}
		return !keep
	})
	if err != nil || !slices.Equal(got, []string{"idle"}) {
		t.Errorf("Prune = %v, %v", got, err)
	}
	r.check(b)
	r.disconnect("used", "c1")
	if err := r.c.Remove(ctx, "used"); err != nil {
		t.Error(err)
	}
	r.check(b)
}

// TestStoreFails is FT-09: what cannot be written has not happened.
func TestStoreFails(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	r.create("n1", "")
	b := r.run(sandboxConf("c1", "n1"))
	r.settled()
	r.store.Fail = func(method, bucket string) error {
		if method == "Put" || bucket == store.Networks {
			return errDisk
		}
		return nil
	}
	if _, _, err := r.c.Create(ctx, NetworkConfig{Name: "n2"}); err == nil {
		t.Error("a network was made")
	}
	if err := r.c.Connect(ctx, "c1", EndpointConfig{Network: "bridge"}); err == nil {
		t.Error("a leg was made")
	}
	if _, err := r.tryRun(sandboxConf("c2", "n1")); err == nil {
		t.Error("a sandbox joined")
	}
	r.disconnect("n1", "c1")
	if err := r.c.Remove(ctx, "n1"); err == nil {
		t.Error("a network was removed")
	}
	r.settled()
	r.check(b)
	r.store.Fail = nil
	if err := r.c.Remove(ctx, "n1"); err != nil {
		t.Error(err)
	}
}

// TestEvents tells what subscribers hear, in order.
func TestEvents(t *testing.T) {
	r := newRig(t)
	var got []string
	cancel := r.c.Subscribe(func(e Event) {
		name := e.Attributes["name"]
		if e.Attributes["container"] != "" {
			name += " " + e.Attributes["container"][:4]
		}
		got = append(got, e.Type+" "+e.Action+" "+name)
		r.c.Networks() // a subscriber may ask
	})
	r.create("n1", "")
	b := r.run(sandboxConf("c1", "n1"))
	r.connect("c1", "bridge")
	r.disconnect("bridge", "c1")
	b.Close()
	if err := r.c.Remove(context.Background(), "n1"); err != nil {
		t.Fatal(err)
	}
	cancel()
	r.create("n2", "")
	short := b.conf.ID[:4]
	want := []string{
		"network create n1", "container create c1", "network connect n1 " + short, "container start c1",
		"network connect bridge " + short, "network disconnect bridge " + short,
		"container die c1", "network disconnect n1 " + short, "container destroy c1", "network destroy n1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
