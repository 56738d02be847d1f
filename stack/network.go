package stack

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/usernet/usernet/dnsproxy"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/autoconf"
	"github.com/usernet/usernet/stack/bridge"
	"github.com/usernet/usernet/stack/capture"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/gateway"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/nat"
	"github.com/usernet/usernet/stack/spec"
)

// Options is what a Network gets from its process.
type Options struct {
	Log *slog.Logger
	// EndpointDown reports that an Endpoint's TAP is gone; nil: nobody is told. It runs on the TAP
	// reader's goroutine and must not call back into the Network.
	EndpointDown func(id string, cause error)
}

// Network is one Network's live datapath. Its methods are safe for concurrent use.
type Network struct {
	host  *Host
	spec  spec.Network
	opts  Options
	log   *slog.Logger
	drops drop.Counters

	bridge  *bridge.Bridge
	gateway *gateway.Gateway
	uplink  *bridge.Port // the gateway's port
	udp     *nat.UDP
	ping    *nat.Ping
	dns     *dnsproxy.Server
	auto    *autoconf.Server
	publish *portfwd.Forwarder
	record  atomic.Pointer[recorder] // nil: nothing is captured

	mu        sync.Mutex
	endpoints map[string]*endpoint // guarded by mu
	published map[string]publish   // by id; guarded by mu
	closed    bool                 // guarded by mu
}

// New makes the datapath of n. Nothing is attached yet.
func (h *Host) New(n spec.Network, o Options) (*Network, error) {
	if o.Log == nil {
		o.Log = h.log
	}
	policy, err := nat.NewPolicy(n, &h.reserved)
	if err != nil {
		return nil, fmt.Errorf("make network %s: %w", n.Name, err)
	}
	nw := &Network{
		host: h, spec: n, opts: o, log: o.Log,
		endpoints: make(map[string]*endpoint), published: make(map[string]publish),
	}
	gw, err := gateway.New(gateway.Config{Spec: n, Policy: policy, Drops: &nw.drops, Log: o.Log, Shared: h.gateways})
	if err != nil {
		return nil, fmt.Errorf("make network %s: %w", n.Name, err)
	}
	nw.gateway = gw
	nw.bridge = bridge.New(bridge.Options{Drops: &nw.drops, Log: o.Log})
	nw.uplink, err = nw.bridge.Attach(gw, bridge.PortConfig{
		ID: "gateway", MAC: n.GatewayMAC, Addrs: nw.ownAddrs(), Trusted: true, VNet: true,
	})
	if err != nil {
		gw.Close()
		return nil, fmt.Errorf("make network %s: %w", n.Name, err)
	}
	env := nat.Env{Emit: gw, Drops: &nw.drops, Log: o.Log, UDPSockets: h.udp, PingSockets: h.ping}
	nw.udp = nat.NewUDP(env, policy, n)
	nw.ping = nat.NewPing(env, policy, n)
	nw.dns = dnsproxy.New(dnsproxy.Env{Drops: &nw.drops, Log: o.Log, Directory: h.names, Station: gw.Station, Inside: gw.DialInside}, n)
	nw.publish = portfwd.NewForwarder(portfwd.Config{
		Dialer: gw, Emit: gw, Gateway4: n.Gateway4, Gateway6: n.Gateway6,
		Subnets: nw.linkSubnets(), Maps: n.Policy.Maps, MTU: n.MTU, Limits: publishLimits(h.descriptors), Drops: &nw.drops, Log: o.Log,
	})
	nw.auto = autoconf.New(autoconf.Env{Emit: gw, Drops: &nw.drops, Log: o.Log}, n, autoconf.Options{
		DNSSearch: n.DNSSearch, Lease: nw.lease, Autonomous: nw.autonomous,
	})
	gw.Use(gateway.Services{
		Link: nw.uplink.Input, Published: nw.publish.InputUDP, FlushPublished: nw.publish.Flush,
		Autoconf: nw.auto, DNS: nw.dns, UDP: nw.udp, Ping: nw.ping,
	})
	return nw, nil
}

// reservedDescriptors stay free for control's requests and for published ports' listeners when
// connections have used up the rest (RX-06).
const reservedDescriptors = 32

// publishLimits keeps the connections of published ports within the descriptors there are, so that
// a client over the limit is refused instead of waiting in the listener's queue.
func publishLimits(descriptors int) (l portfwd.Limits) {
	if descriptors > 0 {
		l.Conns = max(1, descriptors-reservedDescriptors)
	}
	return l
}

func (n *Network) ownAddrs() []netip.Addr {
	var as []netip.Addr
	for _, a := range []netip.Addr{n.spec.Gateway4, n.spec.DNS4, n.spec.Gateway6, n.spec.DNS6} {
		if a.IsValid() && !slices.Contains(as, a) {
			as = append(as, a)
		}
	}
	return as
}

func (n *Network) subnets() []netip.Prefix {
	var ps []netip.Prefix
	for _, p := range []netip.Prefix{n.spec.Subnet4, n.spec.Subnet6} {
		if p.IsValid() {
			ps = append(ps, p)
		}
	}
	return ps
}

// anywhere is where a container's addresses may lie that has the host's own.
var anywhere = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// sources bound what a container may send from that is not Strict.
func (n *Network) sources() []netip.Prefix {
	if n.spec.AnyNeighbour {
		return anywhere
	}
	ps := n.subnets()
	if a := n.spec.Autoconf.Lease; a.IsValid() {
		ps = append(ps, netip.PrefixFrom(a, a.BitLen()))
	}
	return ps
}

// linkSubnets are where a container looks for its neighbours, and finds only other containers: a client with such
// an address cannot be answered. With AnyNeighbour it finds everybody.
func (n *Network) linkSubnets() []netip.Prefix {
	if n.spec.AnyNeighbour {
		return nil
	}
	return n.subnets()
}

// lease is the DHCP lease of the container with that MAC: the address control gave it, no other.
func (n *Network) lease(mac l2.MAC) (addr netip.Addr, hostname string, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.endpoints {
		first := n.spec.Autoconf.Lease
		if e.spec.Strict {
			first = netip.Addr{}
		}
		if e.spec.MAC != mac && !(first.IsValid() && e.spec.MAC.IsZero()) {
			continue
		}
		for _, a := range slices.Concat([]netip.Addr{first}, e.spec.Addrs) {
			if a.Is4() {
				name := ""
				if len(e.spec.Names) > 0 {
					name = e.spec.Names[0]
				}
				return a, name, true
			}
		}
	}
	return netip.Addr{}, "", false
}

// autonomous reports whether the container with that MAC may make its own IPv6 addresses. The switch
// lets a strict one send from those control gave it only.
func (n *Network) autonomous(mac l2.MAC) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.endpoints {
		if e.spec.MAC == mac {
			return !e.spec.Strict
		}
	}
	return true
}

// Publish serves one listening socket for an Endpoint. The Network owns f, also when it fails.
func (n *Network) Publish(id string, s portfwd.Spec, f *os.File, endpointID string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.endpoints[endpointID]
	if n.closed || e == nil {
		f.Close()
		return fmt.Errorf("publish %s: endpoint %s is not attached", s, endpointID)
	}
	t := portfwd.Target{Inside: &e.inside}
	for _, a := range e.spec.Addrs {
		if a.Is4() && !t.Addr4.IsValid() {
			t.Addr4 = a
		} else if a.Is6() && !t.Addr6.IsValid() {
			t.Addr6 = a
		}
	}
	t.Own = e.spec.Addrs
	if s.To.IsValid() {
		if err := n.reach(e, s.To); err != nil {
			f.Close()
			return fmt.Errorf("publish %s: %w", s, err)
		}
	}
	if err := n.publish.Add(id, s, f, t); err != nil {
		n.leaveLocked(s.To)
		return err
	}
	n.published[id] = publish{endpoint: endpointID, to: s.To}
	return nil
}

// publish is a published port: whose it is, and its Spec's To.
type publish struct {
	endpoint string
	to       netip.Addr
}

// reach makes sure that a packet to an address arrives at e, of which it may be or which may route it onwards.
func (n *Network) reach(e *endpoint, to netip.Addr) error {
	switch {
	case slices.Contains(e.spec.Addrs, to):
		return nil
	case e.spec.Strict:
		return fmt.Errorf("%s is not an address of endpoint %s", to, e.spec.ID)
	case slices.Contains(n.ownAddrs(), to):
		return fmt.Errorf("%s is the network's own address", to)
	case e.spec.MAC.IsZero():
		return fmt.Errorf("%s is not an address of endpoint %s, and its link address is not known", to, e.spec.ID)
	}
	n.gateway.AddNeighbour(to, e.spec.MAC)
	return nil
}

// leaveLocked undoes reach when no published port needs the address any more.
func (n *Network) leaveLocked(to netip.Addr) {
	if !to.IsValid() {
		return
	}
	for _, p := range n.published {
		if p.to == to {
			return
		}
	}
	for _, e := range n.endpoints {
		if slices.Contains(e.spec.Addrs, to) {
			return
		}
	}
	n.gateway.RemoveNeighbour(to)
}

// Unpublish closes a listening socket and resets its connections.
func (n *Network) Unpublish(id string) error {
	err := n.publish.Remove(id)
	n.mu.Lock()
	defer n.mu.Unlock()
	to := n.published[id].to
	delete(n.published, id)
	n.leaveLocked(to)
	return err
}

// SetDNS replaces what the Network's name server answers from.
func (n *Network) SetDNS(c dnsproxy.Config) { n.dns.Configure(c) }

// HostChanged says that the host's addresses or routes are others now.
func (n *Network) HostChanged() { n.udp.HostChanged() }

// Stats counts what the Network holds and what it dropped.
func (n *Network) Stats() spec.Stats {
	n.mu.Lock()
	endpoints, ports := len(n.endpoints), len(n.published)
	n.mu.Unlock()
	return spec.Stats{
		Drops:    n.drops.Snapshot(),
		TCPFlows: n.gateway.Flows() + n.publish.Spliced(), UDPFlows: n.udp.Flows() + n.publish.Flows(), PingFlows: n.ping.Flows(),
		Endpoints: endpoints, Ports: ports,
	}
}

// Close ends the Network: published ports, TAPs, flows, in this order. It is idempotent.
func (n *Network) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	all := n.endpoints
	n.endpoints, n.published = nil, nil
	n.mu.Unlock()

	var errs []error
	errs = append(errs, n.publish.Close())
	for _, e := range all { // the switch ends with them, so it need not forget each
		errs = append(errs, e.dev.Close(), e.inside.Close())
		e.reader.Wait()
	}
	errs = append(errs, n.auto.Close(), n.dns.Close(), n.gateway.Close(), n.udp.Close(), n.ping.Close())
	if r := n.record.Swap(nil); r != nil {
		errs = append(errs, r.close())
	}
	return errors.Join(errs...)
}

// recordedPort is a container's port whose outgoing frames are captured when capture is on.
type recordedPort struct {
	l2.Port
	n *Network
}

// Output implements l2.Port.
func (p *recordedPort) Output(frames []l2.Frame) int {
	if r := p.n.record.Load(); r != nil {
		r.Record(frames)
	}
	return p.Port.Output(frames)
}

// recorder is a capture and the file it writes to.
type recorder struct {
	*capture.Writer
	f *os.File
}

func (r *recorder) close() error { return errors.Join(r.Writer.Close(), r.f.Close()) }

// Capture writes what passes between containers and the switch to f, which the Network owns from
// now on, in place of an earlier file. When more is set f has a pcap header and packets already.
func (n *Network) Capture(f *os.File, more bool) error {
	w, err := capture.New(f, capture.Options{Log: n.log, Resume: more})
	if err != nil {
		f.Close()
		return fmt.Errorf("capture: %w", err)
	}
	r := &recorder{w, f}
	n.mu.Lock()
	closed, old := n.closed, n.record.Load()
	if !closed {
		n.record.Store(r)
	}
	n.mu.Unlock()
	switch {
	case closed:
		return errors.Join(fmt.Errorf("capture: network %s is closed", n.spec.Name), r.close())
	case old != nil:
		return old.close()
	}
	return nil
}
