// Package bridge is the driver of Docker's bridge networks: one switch on one host, a gateway that translates
// addresses, ports published on the host.
//
// # Theory of operation
//
// The driver reads options and addresses and says what they mean; the datapath does it. Each of Docker's options
// becomes one thing there:
//
//	enable_icc=false           the switch keeps its ports apart (spec.Network.Apart)
//	enable_ip_masquerade=false nothing leaves: what is not translated could not be answered
//	gateway_mode nat           leaves by the host's sockets; ports are published on the host
//	gateway_mode routed        nothing leaves, no port is published on the host
//	gateway_mode isolated      no gateway at all; internal networks only
//	--internal                 nothing leaves, no default route, no port published
//	host_ipv4, host_ipv6       the host's address that flows leave from
//	inhibit_ipv4               the gateway's IPv4 address is nobody's
//	default_bridge             no names (Docker's default network)
//
// Where the two families differ, the one that is closed is refused by prefix (spec.Policy.Refuse).
//
// bridge.name, trusted_host_interfaces and the advertise options speak of a kernel bridge, which there is not. The
// name is kept, unique as it must be in Docker, and shown.
//
// # Concurrency
//
// One lock over the maps; nothing is called with it.
package bridge

import (
	"context"
	"crypto/rand"
	"maps"
	"sync"

	"github.com/usernet/usernet/cnm/driver"
	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/stack/l2"
)

// Type is the driver's name.
const Type = "bridge"

// Driver makes bridge Networks.
type Driver struct {
	mu sync.Mutex
	// +checklocks:mu
	networks map[string]*network
}

type network struct {
	driver.Network
	options   Options
	segment   driver.Segment
	endpoints map[string]*endpoint
}

// endpoint is an Endpoint and the sandbox it has joined, if it has.
type endpoint struct {
	driver.Endpoint
	name    string // of the interface, where the user chose it
	sysctls map[string]string
	sandbox string
}

var _ driver.Driver = (*Driver)(nil)

// New makes a driver without Networks.
func New() *Driver { return &Driver{networks: make(map[string]*network)} }

// Type returns the driver's name.
func (d *Driver) Type() string { return Type }

// Capability says that its Networks end with the host.
func (d *Driver) Capability() driver.Capability {
	return driver.Capability{Data: driver.Local, Connectivity: driver.Local}
}

// Gateways says that a family wants a gateway unless it is isolated, or nobody would have the address or a
// route to it.
func (d *Driver) Gateways(n driver.Network) (v4, v6 bool, err error) {
	o, err := parse(n.ID, n.Options)
	if err == nil {
		err = checkModes(n, o)
	}
	if err != nil {
		return false, false, err
	}
	return o.Mode4 != Isolated && !(o.InhibitIPv4 && n.Internal), o.Mode6 != Isolated, nil
}

// CreateNetwork checks a Network against its options and those there are.
func (d *Driver) CreateNetwork(_ context.Context, n driver.Network) (driver.Segment, error) {
	o, err := parse(n.ID, n.Options)
	if err != nil {
		return driver.Segment{}, err
	}
	v4, v6, err := check(n, o)
	if err != nil {
		return driver.Segment{}, err
	}
	made := &network{Network: n, options: o, segment: plan(n, o, v4, v6), endpoints: make(map[string]*endpoint)}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.networks[n.ID]; ok {
		return driver.Segment{}, fault.New(fault.Forbidden, "network %s exists", n.ID)
	}
	for _, other := range d.networks {
		if why := other.conflict(made); why != "" {
			return driver.Segment{}, fault.New(fault.Forbidden, "cannot create network %s (%s): conflicts with network %s (%s): %s",
				n.ID, o.Name, other.ID, other.options.Name, why)
		}
	}
	d.networks[n.ID] = made
	return made.segment, nil
}

// conflict says why two Networks cannot be, or nothing.
func (n *network) conflict(o *network) string {
	a, b := n.segment.Network, o.segment.Network
	switch {
	case n.options.Name == o.options.Name:
		return "networks have same bridge name"
	case a.Subnet4.Overlaps(b.Subnet4):
		return "networks have overlapping IPv4"
	case a.Subnet6.Overlaps(b.Subnet6):
		return "networks have overlapping IPv6"
	}
	return ""
}

// DeleteNetwork forgets a Network without Endpoints.
func (d *Driver) DeleteNetwork(_ context.Context, id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.networkLocked(id)
	if err != nil {
		return err
	}
	if len(n.endpoints) > 0 {
		return fault.New(fault.Forbidden, "network %s has active endpoints", id)
	}
	delete(d.networks, id)
	return nil
}

// CreateEndpoint checks an Endpoint's options and makes up its MAC address.
func (d *Driver) CreateEndpoint(_ context.Context, networkID string, e driver.Endpoint) (driver.Endpoint, error) {
	made := &endpoint{Endpoint: e}
	if err := made.parse(); err != nil {
		return driver.Endpoint{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.networkLocked(networkID)
	if err != nil {
		return driver.Endpoint{}, err
	}
	if _, ok := n.endpoints[e.ID]; ok {
		return driver.Endpoint{}, fault.New(fault.Forbidden, "endpoint %s exists", e.ID)
	}
	switch {
	case !made.MAC.IsZero():
	case n.DerivedMAC && made.Addr4.IsValid():
		made.MAC = derivedMAC(made.Addr4.Addr())
	default:
		made.MAC = randomMAC()
	}
	if err := n.freeMAC(made.MAC); err != nil {
		return driver.Endpoint{}, err
	}
	n.endpoints[e.ID] = made
	return made.Endpoint, nil
}

func (e *endpoint) parse() (err error) {
	if e.ID == "" {
		return fault.New(fault.Invalid, "invalid endpoint id: %s", e.ID)
	}
	if e.MAC.IsMulticast() {
		return fault.New(fault.Invalid, "invalid MAC address %s: it is one of a group", e.MAC)
	}
	if name, ok := e.Options[driver.OptIfname]; ok {
		if err := driver.CheckIfname(name); err != nil {
			return driver.BadOption(driver.OptIfname, name, err)
		}
		e.name = name
	}
	if s, ok := e.Options[driver.OptSysctls]; ok {
		e.sysctls, err = driver.ParseSysctls(s)
	}
	return err
}

// freeMAC refuses an address that a port of the switch has: the switch binds a MAC to one port, and whoever came
// second would get nothing.
func (n *network) freeMAC(m l2.MAC) error {
	if m == n.segment.Network.GatewayMAC {
		return fault.New(fault.Forbidden, "MAC address %s is the gateway's; choose another one", m)
	}
	for _, e := range n.endpoints {
		if e.MAC == m {
			return fault.New(fault.Forbidden, "MAC address %s is in use on network %s; choose another one", m, n.Name)
		}
	}
	return nil
}

// DeleteEndpoint forgets an Endpoint that is in no sandbox.
func (d *Driver) DeleteEndpoint(_ context.Context, networkID, endpointID string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, e, err := d.endpointLocked(networkID, endpointID)
	if err != nil {
		return err
	}
	if e.sandbox != "" {
		return fault.New(fault.Forbidden, "endpoint with name %s id %s has active containers", endpointID, endpointID)
	}
	delete(n.endpoints, endpointID)
	return nil
}

// Join puts an Endpoint into a sandbox.
func (d *Driver) Join(_ context.Context, networkID, endpointID, sandboxID string) (driver.Leg, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, e, err := d.endpointLocked(networkID, endpointID)
	if err != nil {
		return driver.Leg{}, err
	}
	if sandboxID == "" {
		return driver.Leg{}, fault.New(fault.Invalid, "join endpoint %s: no sandbox", endpointID)
	}
	if e.sandbox != "" {
		return driver.Leg{}, fault.New(fault.Forbidden, "endpoint %s is in sandbox %s", endpointID, e.sandbox)
	}
	e.sandbox = sandboxID
	return driver.Leg{
		Name: e.name, Prefix: n.options.Prefix, MTU: n.options.MTU, MAC: e.MAC,
		Addr4: e.Addr4, Addr6: e.Addr6, Sysctls: maps.Clone(e.sysctls),
	}, nil
}

// Leave takes an Endpoint out of its sandbox; that it is in none is no error.
func (d *Driver) Leave(_ context.Context, networkID, endpointID string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, e, err := d.endpointLocked(networkID, endpointID)
	if err != nil {
		return err
	}
	e.sandbox = ""
	return nil
}

func (d *Driver) networkLocked(id string) (*network, error) {
	if n, ok := d.networks[id]; ok {
		return n, nil
	}
	return nil, fault.New(fault.NotFound, "network not found: %s", id)
}

func (d *Driver) endpointLocked(networkID, endpointID string) (*network, *endpoint, error) {
	n, err := d.networkLocked(networkID)
	if err != nil {
		return nil, nil, err
	}
	if e, ok := n.endpoints[endpointID]; ok {
		return n, e, nil
	}
	return nil, nil, fault.New(fault.NotFound, "endpoint not found: %s", endpointID)
}

// randomMAC makes a locally administered unicast address.
func randomMAC() (m l2.MAC) {
	rand.Read(m[:]) // never fails
	m[0] = m[0]&^1 | 2
	return m
}
