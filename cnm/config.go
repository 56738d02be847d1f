package cnm

import (
	"net/netip"
	"time"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/portfwd"
	"github.com/usernet/usernet/stack/l2"
)

// Scope says how far a Network reaches.
type Scope string

// The scopes, in Docker's words.
const (
	ScopeLocal  Scope = "local"
	ScopeSwarm  Scope = "swarm"
	ScopeGlobal Scope = "global"
)

// Profile selects which Docker's behaviour is followed where Docker itself changed.
type Profile string

// The profiles.
const (
	ProfileCurrent Profile = ""      // Engine 29
	Profile2010    Profile = "20.10" // link variables, MAC addresses 02:42:…
)

// NetworkConfig is what a Network is made of. It is what the caller asked for; what was chosen for him
// (subnet, gateway) is in NetworkInfo.
type NetworkConfig struct {
	Name       string            `json:"name"`
	Driver     string            `json:"driver"` // empty means bridge
	Scope      Scope             `json:"scope,omitempty"`
	EnableIPv4 *bool             `json:"enable_ipv4,omitempty"` // nil means true
	EnableIPv6 *bool             `json:"enable_ipv6,omitempty"` // nil means false
	IPAM       IPAMConfig        `json:"ipam"`
	Internal   bool              `json:"internal,omitempty"`
	Attachable bool              `json:"attachable,omitempty"`
	Ingress    bool              `json:"ingress,omitempty"`
	ConfigOnly bool              `json:"config_only,omitempty"`
	ConfigFrom string            `json:"config_from,omitempty"`
	Options    map[string]string `json:"options,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
}

// IPAMConfig says where a Network's addresses come from.
type IPAMConfig struct {
	Driver  string            `json:"driver,omitempty"` // empty means default
	Options map[string]string `json:"options,omitempty"`
	Subnets []Subnet          `json:"subnets,omitempty"`
}

// Subnet is one subnet of a Network. In a request everything but Prefix may be missing, and an unspecified
// Prefix (0.0.0.0/24, ::/56) asks for any of its size.
type Subnet struct {
	Prefix  netip.Prefix          `json:"prefix"`
	Range   netip.Prefix          `json:"range,omitzero"`
	Gateway netip.Addr            `json:"gateway,omitzero"`
	Aux     map[string]netip.Addr `json:"aux,omitempty"`
}

// NetworkInfo is what a Controller says of a Network.
type NetworkInfo struct {
	ID      string
	Created time.Time
	NetworkConfig
	// Subnets are the real ones, with their gateways.
	Subnets   []Subnet
	Endpoints []EndpointInfo
	// InUse and Free count addresses by subnet, as Docker's Status does.
	InUse, Free map[netip.Prefix]uint64
}

// EndpointConfig is what a caller asks of one leg of a sandbox.
type EndpointConfig struct {
	// Network is a name, an id or the prefix of one.
	Network    string            `json:"network"`
	Aliases    []string          `json:"aliases,omitempty"`
	Links      []string          `json:"links,omitempty"` // NAME[:ALIAS]
	IPv4       netip.Addr        `json:"ipv4,omitzero"`
	IPv6       netip.Addr        `json:"ipv6,omitzero"`
	LinkLocal  []netip.Addr      `json:"link_local,omitempty"`
	MAC        l2.MAC            `json:"mac,omitzero"`
	DriverOpts map[string]string `json:"driver_opts,omitempty"`
	GwPriority int               `json:"gw_priority,omitempty"`
}

// EndpointInfo is what a Controller says of an Endpoint.
type EndpointInfo struct {
	ID          string
	NetworkID   string
	NetworkName string
	// SandboxID is empty for one whose sandbox has vanished.
	SandboxID   string
	SandboxName string
	Config      EndpointConfig
	Interface   string
	MAC         l2.MAC
	// Addr4 and Addr6 have the lengths of their subnets. Gateway4 and Gateway6 are those of the Network.
	Addr4, Addr6       netip.Prefix
	Gateway4, Gateway6 netip.Addr
	// Names are all it is known by in the Network: name, aliases, short id, hostname.
	Names []string
}

// SandboxConfig is what a sandbox wants when it starts. The shim repeats it to the next daemon.
type SandboxConfig struct {
	ID         string    `json:"id"` // 64 hexadecimal digits
	Name       string    `json:"name"`
	Hostname   string    `json:"hostname,omitempty"`
	Domainname string    `json:"domainname,omitempty"`
	Kind       string    `json:"kind"` // run or attach
	Command    []string  `json:"command,omitempty"`
	Env        []string  `json:"env,omitempty"` // given by the user; links copy it
	Created    time.Time `json:"created"`
	ShimPID    int       `json:"shim_pid"`
	Profile    Profile   `json:"profile,omitempty"`

	// Networks are its legs, the first the primary one; none means the default bridge.
	Networks []EndpointConfig `json:"networks,omitempty"`
	// Links are --link of the default bridge; those of other Networks are in Networks.
	Links   []string       `json:"links,omitempty"`
	Publish []portfwd.Spec `json:"publish,omitempty"`
	// Expose are the ports that PublishAll publishes and links tell of. HostPort and HostIP are zero.
	Expose     []portfwd.Spec `json:"expose,omitempty"`
	PublishAll bool           `json:"publish_all,omitempty"`

	DNS        []netip.AddrPort `json:"dns,omitempty"`
	DNSSearch  []string         `json:"dns_search,omitempty"`
	DNSOptions []string         `json:"dns_options,omitempty"`
	ExtraHosts []Host           `json:"extra_hosts,omitempty"`
}

// Host is a line of /etc/hosts that the user asked for. An invalid Addr stands for host-gateway.
type Host struct {
	Name string     `json:"name"`
	Addr netip.Addr `json:"addr,omitzero"`
}

// SandboxInfo is what a Controller says of a sandbox.
type SandboxInfo struct {
	SandboxConfig
	PID       int // of a process in its namespaces; 0 until it is known
	Endpoints []EndpointInfo
	Ports     []portfwd.Spec // as bound
}

// Joined is what a sandbox gets when it starts.
type Joined struct {
	Links    []plumb.Link
	Routes   plumb.Routes
	Files    []plumb.File
	Env      []string // variables of links
	Warnings []string
}

// Rejoin is what a sandbox that outlived a daemon has: the next one takes it over as it is.
type Rejoin struct {
	PID       int              `json:"pid"`
	Endpoints []RejoinEndpoint `json:"endpoints"`
}

// RejoinEndpoint is one leg.
type RejoinEndpoint struct {
	Config    EndpointConfig `json:"config"`
	NetworkID string         `json:"network_id"`
	Link      plumb.Link     `json:"link"`
}

// Event is a change that others may want to hear of, in Docker's words.
type Event struct {
	Type       string // network or container
	Action     string // create, connect, disconnect, destroy, prune; create, start, die, destroy
	ID         string
	Attributes map[string]string
	Time       time.Time
}
