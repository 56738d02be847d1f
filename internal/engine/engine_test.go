package engine

import (
	"context"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/cnm/fault"
)

// C-in1: a Network shows its subnets, its containers and, by ep-, an Endpoint whose sandbox has vanished.
func TestNetworkInspect(t *testing.T) {
	e, _, _ := rig(t)
	n, err := e.Network(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]network.EndpointResource{
		idC1: {
			Name: "c1", EndpointID: strings.Repeat("ee", 32), MacAddress: network.HardwareAddr{0x02, 0x42, 0xac, 0x12, 0, 9},
			IPv4Address: netip.MustParsePrefix("172.18.0.9/16"),
		},
		"ep-" + strings.Repeat("ef", 32): {Name: "vanished", EndpointID: strings.Repeat("ef", 32), IPv4Address: netip.MustParsePrefix("172.18.0.3/16")},
	}
	if d := cmp.Diff(want, n.Containers, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("containers (-want +got):\n%s", d)
	}
	if c := n.IPAM.Config; len(c) != 1 || c[0].Subnet.String() != "172.18.0.0/16" || c[0].Gateway.String() != "172.18.0.1" || n.IPAM.Driver != "default" {
		t.Errorf("IPAM is %+v", n.IPAM)
	}
	if s := n.Status.IPAM.Subnets[netip.MustParsePrefix("172.18.0.0/16")]; s.IPsInUse != 4 || s.DynamicIPsAvailable != 65532 {
		t.Errorf("status is %+v", n.Status)
	}
	if !n.EnableIPv4 || n.EnableIPv6 || n.Scope != "local" || n.Options == nil {
		t.Errorf("inspected %+v", n.Network)
	}
}

// C-in1: containers without a network or on the host's are shown in these networks.
func TestUnmanagedNetworks(t *testing.T) {
	e, _, _ := rig(t)
	got := map[string][]string{}
	for _, name := range []string{"none", "host"} {
		n, err := e.Network(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range n.Containers {
			got[name] = append(got[name], c.Name)
		}
	}
	if d := cmp.Diff(map[string][]string{"none": {"alone"}, "host": {"onhost"}}, got); d != "" {
		t.Errorf("containers (-want +got):\n%s", d)
	}
}

// M6, C-run1: every mode has its container, with the mode in Docker's words and its networks by name.
func TestContainers(t *testing.T) {
	e, _, _ := rig(t)
	list, err := e.Containers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	type row struct{ Name, Mode, Networks, State, Status, Command string }
	var got []row
	for _, c := range list {
		var names []string
		for n, s := range c.NetworkSettings.Networks {
			names = append(names, n+"="+s.IPAddress.String())
		}
		got = append(got, row{c.Names[0], c.HostConfig.NetworkMode, strings.Join(names, ","), string(c.State), c.Status, c.Command})
	}
	want := []row{
		{"/c2", "bridge", "", "created", "Created", ""},
		{"/c1", "web", "web=172.18.0.9", "running", "Up 5 minutes", "nginx -g x"},
		{"/alone", "none", "none=invalid IP", "running", "Up 6 minutes", "sh -c sleep 9"},
		{"/onhost", "host", "host=invalid IP", "running", "Up 6 minutes", ""},
		{"/priv", "private", "private=10.0.2.100", "running", "Up 6 minutes", ""},
		{"/with", "container:" + idC1, "", "running", "Up 6 minutes", ""},
		{"/lost", "web", "web=invalid IP", "running", "Up 6 minutes", ""},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("containers (-want +got):\n%s", d)
	}
	// 8080 without an address is bound in both families; 443 is only exposed.
	var ports []string
	for _, p := range list[1].Ports {
		ports = append(ports, netip.AddrPortFrom(p.IP, p.PublicPort).String()+" "+p.Type)
	}
	if d := cmp.Diff([]string{"0.0.0.0:8080 tcp", "[::]:8080 tcp", "invalid AddrPort tcp"}, ports); d != "" {
		t.Errorf("ports (-want +got):\n%s", d)
	}
	if p := list[4].Ports; len(p) != 2 || p[0].PublicPort != 5000 {
		t.Errorf("ports of the private one are %+v", p)
	}
}

// MN2, C-run5: docker inspect -f '{{.State.Pid}}' is a process in the sandbox's namespaces.
func TestContainerInspect(t *testing.T) {
	e, _, _ := rig(t)
	for _, ref := range []string{idC1, "c1", "/c1", idC1[:7]} {
		c, err := e.Container(t.Context(), ref)
		if err != nil {
			t.Fatalf("%s: %v", ref, err)
		}
		if c.ID != idC1 || c.State.Pid != 101 || !c.State.Running || c.NetworkSettings.SandboxKey != "/proc/101/ns/net" {
			t.Errorf("%s: %s has state %+v and key %s", ref, c.ID, c.State, c.NetworkSettings.SandboxKey)
		}
	}
	c, err := e.Container(t.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	if c.Config.Hostname != "front" || c.Config.Labels["tier"] != "front" || c.Path != "nginx" || len(c.Args) != 2 {
		t.Errorf("config is %+v, path %s %v", c.Config, c.Path, c.Args)
	}
	leg := c.NetworkSettings.Networks["web"]
	if leg.IPAddress.String() != "172.18.0.9" || leg.IPPrefixLen != 16 || leg.Gateway.String() != "172.18.0.1" || leg.IPAMConfig.IPv4Address.String() != "172.18.0.9" ||
		len(leg.DNSNames) != 3 || leg.Aliases[0] != "www" {
		t.Errorf("leg is %+v", leg)
	}
	ports := c.NetworkSettings.Ports
	if b := ports[network.MustParsePort("80/tcp")]; len(b) != 2 || b[0].HostPort != "8080" || b[0].HostIP.String() != "0.0.0.0" || b[1].HostIP.String() != "::" {
		t.Errorf("bindings are %+v", ports)
	}
	if b, ok := ports[network.MustParsePort("443/tcp")]; !ok || b != nil {
		t.Errorf("443/tcp is exposed only and has %+v, %v", b, ok)
	}
	if b := c.HostConfig.PortBindings[network.MustParsePort("80/tcp")]; len(b) != 1 || b[0].HostIP.IsValid() {
		t.Errorf("wanted are %+v", c.HostConfig.PortBindings)
	}
	for ref, want := range map[string]fault.Kind{"d": fault.Invalid, "nobody": fault.NotFound, "": fault.NotFound, "../../x": fault.NotFound} {
		if _, err := e.Container(t.Context(), ref); fault.KindOf(err) != want || err == nil {
			t.Errorf("%q: %v", ref, err)
		}
	}
}

// C-co1, C-di1, DN, DH, DC: what the mode of a container forbids is forbidden in Docker's words.
func TestConnect(t *testing.T) {
	const (
		shared  = "container sharing network namespace with another container or host cannot be connected to any other network"
		private = "container cannot be connected to multiple networks with one of the networks in private (none) mode"
	)
	for _, row := range []struct {
		id, network, container string
		disconnect, force      bool
		want                   string // of the error
		call                   string // of the controller
	}{
		{id: "C-co1", network: "web", container: "c1", call: "connect " + idC1 + " " + netWeb},
		{id: "C-co1", network: netWeb, container: idC2[:5], call: "connect " + idC2 + " " + netWeb},
		{id: "C-co1", network: "nix", container: "c1", want: "network nix not found"},
		{id: "C-co1", network: "web", container: "nobody", want: "No such container: nobody"},
		{id: "DC", network: "web", container: "with", want: shared},
		{id: "DH", network: "web", container: "onhost", want: shared},
		{id: "DH", network: "host", container: "c1", want: "cannot connect container to host network - container must be created in host network mode"},
		{id: "DN", network: "web", container: "alone", want: private},
		{id: "DN", network: "none", container: "c1", want: private},
		{id: "M5", network: "web", container: "priv", want: "container priv has a private network, which no other can be added to; start it with --network NAME"},
		{id: "lost", network: "web", container: "lost", want: "container lost is not connected to this daemon yet; try again"},
		{id: "C-di1", network: "web", container: "c1", disconnect: true, call: "disconnect " + netWeb + " " + idC1},
		{id: "C-di1", network: "web", container: "alone", disconnect: true, want: "container " + idNone + " is not connected to network web"},
		{id: "C-di1", network: "web", container: "ghost", disconnect: true, want: "No such container: ghost"},
		{id: "C-di2", network: "web", container: "ghost", disconnect: true, force: true, call: "tear " + netWeb + " ghost"},
		{id: "lost", network: "web", container: "lost", disconnect: true, want: "container lost is not connected to this daemon yet; try again"},
		{id: "lost", network: "web", container: "lost", disconnect: true, force: true, call: "tear " + netWeb + " lost"},
		{id: "DH", network: "host", container: "onhost", disconnect: true, want: "cannot disconnect container from host network - container was created in host network mode"},
		{id: "DN", network: "none", container: "alone", disconnect: true, want: "cannot disconnect container from none network - container was created without a network"},
	} {
		e, c, _ := rig(t)
		var err error
		if row.disconnect {
			err = e.NetworkDisconnect(t.Context(), row.network, network.DisconnectRequest{Container: row.container, Force: row.force})
		} else {
			err = e.NetworkConnect(t.Context(), row.network, network.ConnectRequest{Container: row.container})
		}
		got := ""
		if err != nil {
			got = err.Error()
		}
		if calls := strings.Join(c.calls, "; "); got != row.want || calls != row.call {
			t.Errorf("%s %+v: error %q, calls %q", row.id, row, got, calls)
		}
	}
}

// C-co2 to C-co6: what connect asks arrives; what only the daemon can say does not.
func TestEndpointConfig(t *testing.T) {
	got, err := endpointConfig(network.EndpointSettings{
		IPAMConfig: &network.EndpointIPAMConfig{
			IPv4Address: netip.MustParseAddr("172.18.0.7"), IPv6Address: netip.MustParseAddr("fd00::7"),
			LinkLocalIPs: []netip.Addr{netip.MustParseAddr("169.254.3.3")},
		},
		Aliases: []string{"a"}, Links: []string{"c1:x"}, DriverOpts: map[string]string{"k": "v"}, GwPriority: 3,
		MacAddress: network.HardwareAddr{2, 0, 0, 0, 0, 1}, IPAddress: netip.MustParseAddr("9.9.9.9"), EndpointID: "mine",
	})
	want := cnm.EndpointConfig{
		Aliases: []string{"a"}, Links: []string{"c1:x"}, DriverOpts: map[string]string{"k": "v"}, GwPriority: 3, MAC: [6]byte{2, 0, 0, 0, 0, 1},
		IPv4: netip.MustParseAddr("172.18.0.7"), IPv6: netip.MustParseAddr("fd00::7"), LinkLocal: []netip.Addr{netip.MustParseAddr("169.254.3.3")},
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" || err != nil {
		t.Errorf("(-want +got):\n%s%v", d, err)
	}
	for _, bad := range []network.EndpointSettings{
		{MacAddress: make([]byte, 8)},
		{IPAMConfig: &network.EndpointIPAMConfig{LinkLocalIPs: []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}}},
	} {
		if _, err := endpointConfig(bad); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// C-cr1 to C-cr12: what create asks arrives.
func TestNetworkCreate(t *testing.T) {
	e, c, _ := rig(t)
	no, yes := false, true
	_, err := e.NetworkCreate(t.Context(), network.CreateRequest{
		Name: "n", Driver: "bridge", Scope: "local", EnableIPv4: &no, EnableIPv6: &yes, Internal: true, Attachable: true, ConfigFrom: &network.ConfigReference{Network: "cfg"},
		Options: map[string]string{"o": "1"}, Labels: map[string]string{"l": "2"},
		IPAM: &network.IPAM{Driver: "default", Options: map[string]string{"i": "3"}, Config: []network.IPAMConfig{{
			Subnet: netip.MustParsePrefix("10.1.0.0/16"), IPRange: netip.MustParsePrefix("10.1.5.0/24"), Gateway: netip.MustParseAddr("10.1.5.254"),
			AuxAddress: map[string]netip.Addr{"h": netip.MustParseAddr("10.1.0.5")},
		}}},
	})
	want := cnm.NetworkConfig{
		Name: "n", Driver: "bridge", Scope: "local", EnableIPv4: &no, EnableIPv6: &yes, Internal: true, Attachable: true, ConfigFrom: "cfg",
		Options: map[string]string{"o": "1"}, Labels: map[string]string{"l": "2"},
		IPAM: cnm.IPAMConfig{Driver: "default", Options: map[string]string{"i": "3"}, Subnets: []cnm.Subnet{{
			Prefix: netip.MustParsePrefix("10.1.0.0/16"), Range: netip.MustParsePrefix("10.1.5.0/24"), Gateway: netip.MustParseAddr("10.1.5.254"),
			Aux: map[string]netip.Addr{"h": netip.MustParseAddr("10.1.0.5")},
		}}},
	}
	eq := cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}
	if d := cmp.Diff([]cnm.NetworkConfig{want}, c.created, eq); d != "" || err != nil {
		t.Errorf("(-want +got):\n%s%v", d, err)
	}
	_, err = e.NetworkCreate(t.Context(), network.CreateRequest{Name: "n", IPAM: &network.IPAM{Config: []network.IPAMConfig{{Gateway: netip.MustParseAddr("fe80::1%lo")}}}})
	if fault.KindOf(err) != fault.Invalid || len(c.created) != 1 {
		t.Errorf("a gateway with a zone: %v", err)
	}
}

// LC7: who ends a container waits until the registry and the controller have let go of it.
func TestSignals(t *testing.T) {
	kill := func(e *Engine, ref string) error { return e.ContainerKill(t.Context(), ref, syscall.SIGKILL) }
	for _, row := range []struct {
		name string
		do   func(e *Engine) error
		want string
		told string
	}{
		{"kill", func(e *Engine) error { return kill(e, "c1") }, "", "c1 killed"},
		{"kill private", func(e *Engine) error { return kill(e, idPriv[:4]) }, "", "priv killed"},
		{"kill nobody", func(e *Engine) error { return kill(e, "nobody") }, "No such container: nobody", ""},
		{"kill one that starts", func(e *Engine) error { return kill(e, "c2") }, "container " + idC2 + " is not running", ""},
		{"stop", func(e *Engine) error { return e.ContainerStop(t.Context(), "c1", syscall.SIGTERM, time.Minute) }, "", "c1 terminated"},
		{"stop at once", func(e *Engine) error { return e.ContainerStop(t.Context(), "c1", syscall.SIGTERM, 0) }, "", "c1 killed"},
		{"rm", func(e *Engine) error { return e.ContainerRemove(t.Context(), "c1", false) },
			`cannot remove container "/c1": container is running: stop the container before removing or force remove`, ""},
		{"rm -f", func(e *Engine) error { return e.ContainerRemove(t.Context(), "c1", true) }, "", "c1 killed"},
	} {
		e, c, reg := rig(t)
		err := row.do(e)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if told := strings.Join(reg.signals, "; "); got != row.want || told != row.told {
			t.Errorf("%s: error %q, signals %q", row.name, got, told)
		}
		if _, err := c.Sandbox(idC1); row.want == "" && strings.HasPrefix(row.told, "c1") && err == nil {
			t.Errorf("%s returned before the controller had let go", row.name)
		}
	}
}

// LC7: a sandbox that has been killed is waited for until it is listed no more. A shim that ends stops answering before that.
func TestRemoveWaits(t *testing.T) {
	e, c, reg := rig(t)
	lists := 0
	reg.onSignal = func(name string, _ syscall.Signal) error {
		c.lose(idC1)
		reg.onList = func() {
			if lists++; lists == 3 {
				reg.end(name)
			}
		}
		return nil
	}
	if err := e.ContainerRemove(t.Context(), "c1", true); err != nil || lists != 3 {
		t.Errorf("rm -f: %v, after looking %d times", err, lists)
	}
}

// One that does not heed SIGTERM is killed when its time is up; one that outlives its client's patience is not an error
// of anybody else's.
func TestStopStubborn(t *testing.T) {
	e, c, reg := rig(t)
	reg.onSignal = func(name string, sig syscall.Signal) error {
		if sig == syscall.SIGKILL {
			reg.end(name)
			c.lose(idC1)
		}
		return nil
	}
	if err := e.ContainerStop(t.Context(), "c1", syscall.SIGTERM, time.Millisecond); err != nil || strings.Join(reg.signals, "; ") != "c1 terminated; c1 killed" {
		t.Errorf("stop: %v, signals %v", err, reg.signals)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.ContainerStop(ctx, "priv", syscall.SIGTERM, -1); err != context.Canceled {
		t.Errorf("stop whose client has gone: %v", err)
	}
}

// LG: events are kept in a ring; a reader gets what is kept and what follows, and one that does not read is let go.
func TestEvents(t *testing.T) {
	e, c, _ := rig(t)
	for i := range keptEvents + 10 {
		c.sub(cnm.Event{Type: "network", Action: "create", ID: netWeb, Time: epoch.Add(time.Duration(i)), Attributes: map[string]string{"name": "web"}})
	}
	past, live, cancel := e.Events()
	if len(past) != keptEvents || past[0].TimeNano != epoch.Add(10).UnixNano() {
		t.Fatalf("kept %d events, the first of %d", len(past), past[0].TimeNano-epoch.UnixNano())
	}
	c.sub(cnm.Event{Type: "container", Action: "start", ID: idC1, Time: epoch})
	want := events.Message{Type: "container", Action: "start", Actor: events.Actor{ID: idC1}, Scope: "local", Time: epoch.Unix(), TimeNano: epoch.UnixNano()}
	if d := cmp.Diff(want, <-live); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	cancel()
	cancel()
	_, slow, _ := e.Events()
	for range queuedEvents + 1 {
		c.sub(cnm.Event{Type: "network"})
	}
	n := 0
	for range slow { // it is closed
		n++
	}
	if n != queuedEvents || e.events.listeners() != 0 {
		t.Errorf("a slow reader got %d events and %d are left", n, e.events.listeners())
	}
	_, last, _ := e.Events()
	e.Close()
	if _, ok := <-last; ok {
		t.Error("a stream outlives the engine")
	}
	if _, after, _ := e.Events(); after != nil {
		if _, ok := <-after; ok {
			t.Error("there are events after the end")
		}
	}
}

func TestInfo(t *testing.T) {
	e, _, _ := rig(t)
	i, err := e.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if i.Containers != 7 || i.ContainersRunning != 6 || i.ContainersStopped != 1 || i.ServerVersion != "1.2.3" || i.SecurityOptions[0] != "name=rootless" ||
		i.Swarm.LocalNodeState != "inactive" || i.MemTotal == 0 || i.KernelVersion == "" || len(i.Plugins.Network) != 3 {
		t.Errorf("info is %+v", i)
	}
	v, err := e.Version(t.Context())
	if err != nil || v.Version != "1.2.3" || v.Os != "linux" {
		t.Errorf("version is %+v, %v", v, err)
	}
}
