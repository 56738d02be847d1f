package cnm

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/portfwd"
)

// local is -p 127.0.0.1:HOST:PORT.
func local(host, port uint16) portfwd.Spec {
	return portfwd.Spec{Proto: portfwd.TCP, HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: host, Port: port}
}

// leads is where the datapath leads the sandbox's ports, by Network name.
func (r *rig) leads(b *box) (names []string) {
	for _, n := range r.c.Networks() {
		if d := r.dp.Network(n.ID); d != nil {
			for _, ep := range d.Ports {
				if ep == b.leg(n.Name).ID {
					names = append(names, n.Name)
				}
			}
		}
	}
	return names
}

// TestPortConflict is DB7 with both of Docker's texts.
func TestPortConflict(t *testing.T) {
	r := newRig(t)
	first := sandboxConf("c1")
	first.Publish = []portfwd.Spec{local(0, 80)}
	b := r.run(first)
	port := b.Ports()[0].HostPort
	other, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	taken := uint16(other.Addr().(*net.TCPAddr).Port)
	for _, row := range []struct {
		port uint16
		text string
	}{
		{port, fmt.Sprintf("Bind for 127.0.0.1:%d failed: port is already allocated", port)},
		{taken, fmt.Sprintf("failed to bind host port 127.0.0.1:%d/tcp: address already in use", taken)},
	} {
		s := sandboxConf("c2")
		s.Publish = []portfwd.Spec{local(row.port, 81)}
		var id string
		r.store.Fail = func(_, _ string) error {
			if sb := r.c.sandboxes[s.ID]; id == "" && sb != nil && len(sb.endpoints) > 0 {
				id = sb.endpoints[0].id
			}
			return nil
		}
		_, err := r.tryRun(s)
		r.store.Fail = nil
		wantErr(t, "second", err, fault.Internal, "driver failed programming external connectivity on endpoint c2 ("+id+"): "+row.text)
		r.settled()
		r.check(b)
	}
	// Freed with its sandbox, at once.
	b.Close()
	s := sandboxConf("c2")
	s.Publish = []portfwd.Spec{local(port, 81)}
	r.run(s)
}

// TestPortsFollowGateway: the ports lead to the leg that is the gateway, and to none while all legs are internal (2.6).
func TestPortsFollowGateway(t *testing.T) {
	r := newRig(t)
	r.create("m", "10.1.0.0/24")
	r.create("a", "10.2.0.0/24")
	r.create("inside", "10.3.0.0/24", func(c *NetworkConfig) { c.Internal = true })
	r.create("routed", "10.4.0.0/24", func(c *NetworkConfig) {
		c.Options = map[string]string{"com.docker.network.bridge.gateway_mode_ipv4": "routed"}
	})
	s := sandboxConf("c1", "inside")
	s.Publish, s.PublishAll = []portfwd.Spec{local(0, 80)}, true
	s.Expose = []portfwd.Spec{{Proto: portfwd.TCP, Port: 80}, {Proto: portfwd.UDP, Port: 53}}
	b := r.run(s)
	if len(b.Ports()) != 0 || len(b.j.Warnings) != 1 {
		t.Errorf("ports %v, warnings %v", b.Ports(), b.j.Warnings)
	}
	r.connect("c1", "routed")
	if len(b.Ports()) != 0 {
		t.Errorf("ports %v with a routed gateway", b.Ports())
	}
	r.connect("c1", "m")
	ports := b.Ports()
	if len(ports) != 3 || ports[0].Port != 80 || ports[1].Proto != portfwd.UDP { // 80 is published once, 53 on both families
		t.Errorf("ports %v", ports)
	}
	r.settled()
	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() {}, "m"},
		{func() { r.connect("c1", "a") }, "a"},
		{func() { r.disconnect("a", "c1") }, "m"},
	} {
		step.do()
		if got := r.leads(b); len(got) != 3 || got[0] != step.want || !slices.Equal(b.Ports(), ports) {
			t.Errorf("ports lead to %v and are %v, want %s and %v", got, b.Ports(), step.want, ports)
		}
		r.settled()
		r.check(b)
	}
	r.settled()
	if !slices.Equal(b.ns.Kept(), ports) {
		t.Errorf("the shim keeps %v", b.ns.Kept())
	}
	r.disconnect("m", "c1")
	r.settled()
	if len(b.Ports()) != 0 || len(b.ns.Kept()) != 0 {
		t.Errorf("ports %v, kept %v without a leg for them", b.Ports(), b.ns.Kept())
	}
	r.check(b)
}

// TestPublishLive is `usernet port`: more and fewer, all or none.
func TestPublishLive(t *testing.T) {
	r := newRig(t)
	b := r.run(sandboxConf("c1"))
	bound, err := b.Publish([]portfwd.Spec{local(0, 80), local(0, 81)})
	if err != nil || len(bound) != 2 {
		t.Fatalf("Publish = %v, %v", bound, err)
	}
	r.settled()
	r.check(b)
	if _, err := b.Publish([]portfwd.Spec{local(0, 82), bound[0]}); err == nil {
		t.Error("one port twice")
	}
	r.dp.Fail = func(method string) error {
		if method == "Publish" {
			return errDisk
		}
		return nil
	}
	if _, err := b.Publish([]portfwd.Spec{local(0, 82)}); err == nil {
		t.Error("published without a datapath")
	}
	r.dp.Fail = nil
	r.check(b)
	if !slices.Equal(b.Ports(), bound) {
		t.Errorf("ports are %v, want %v", b.Ports(), bound)
	}
	wantErr(t, "unknown", b.Unpublish([]portfwd.Spec{bound[0], local(1, 2)}), fault.NotFound, "unpublish 127.0.0.1:1:2/tcp: it is not published")
	if err := b.Unpublish([]portfwd.Spec{{Proto: portfwd.TCP, HostPort: bound[0].HostPort}}); err != nil {
		t.Error(err)
	}
	r.settled()
	r.check(b)
	if got := b.Ports(); !slices.Equal(got, bound[1:]) || !slices.Equal(b.ns.Kept(), bound[1:]) {
		t.Errorf("ports are %v, kept %v", got, b.ns.Kept())
	}
}

// TestHostBinding is host_binding_ipv4 of 2.6.
func TestHostBinding(t *testing.T) {
	r := newRig(t)
	r.create("n1", "", func(c *NetworkConfig) {
		c.Options = map[string]string{"com.docker.network.bridge.host_binding_ipv4": "127.0.0.1"}
	})
	s := sandboxConf("c1", "n1")
	s.Publish = []portfwd.Spec{{Proto: portfwd.TCP, Port: 80}}
	if got := r.run(s).Ports(); len(got) != 1 || got[0].HostIP != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("bound %v", got)
	}
}

// TestConnectTakesPorts: a leg whose ports cannot be had is not made.
func TestConnectTakesPorts(t *testing.T) {
	r := newRig(t)
	r.create("inside", "", func(c *NetworkConfig) { c.Internal = true })
	first := sandboxConf("c1")
	first.Publish = []portfwd.Spec{local(0, 80)}
	a := r.run(first)
	s := sandboxConf("c2", "inside")
	s.Publish = []portfwd.Spec{local(a.Ports()[0].HostPort, 80)}
	b := r.run(s)
	if err := r.c.Connect(context.Background(), "c2", EndpointConfig{Network: "bridge"}); err == nil {
		t.Error("connected although its port is another's")
	}
	r.settled()
	r.check(a, b)
}
