package cnm

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/usernet/usernet/cnm/driver"
	"github.com/usernet/usernet/cnm/ipam"
	"github.com/usernet/usernet/internal/trim"
)

// Config is what a Controller is made of. Store, Datapath, Drivers and IPAM are needed; the rest may be left
// out.
type Config struct {
	// Store and Datapath stay the caller's; they outlive the Controller.
	Store    Store
	Datapath Datapath
	// Drivers are the network drivers, bridge, host and null at least; IPAM are the address drivers, default
	// and null at least.
	Drivers *driver.Registry
	IPAM    ipam.Drivers

	// Bridge is the default bridge, made anew at each start unless sandboxes live on it.
	Bridge DefaultBridge
	// HostIP is what published ports are bound to in Networks that do not say; the zero Addr means all
	// addresses.
	HostIP netip.Addr
	// NetworkOptions are options of new Networks by driver, where the request does not give them.
	NetworkOptions map[string]map[string]string
	DNS            DNS
	// ResolvConf is the host's file; empty means /etc/resolv.conf.
	ResolvConf string
	// HostGateway is what host-gateway and host.docker.internal stand for; nil, or an invalid Addr, means the
	// gateway of the Network that is asked in. It does not call the Controller.
	HostGateway func() netip.Addr
	// LinkVariables sets the variables of legacy links also without the profile 20.10.
	LinkVariables bool
	Profile       Profile

	// Alive reports whether a sandbox lives, by its id; nil means that none outlived the last Controller.
	Alive func(sandboxID string) bool
	Log   *slog.Logger     // nil discards
	Now   func() time.Time // nil means time.Now
}

// DefaultBridge are the settings of the Network called bridge, in the words of Docker's daemon.
type DefaultBridge struct {
	BIP, BIP6             netip.Prefix // the gateway's address with the length of the subnet
	FixedCIDR, FixedCIDR6 netip.Prefix // what containers' addresses are taken from
	Gateway4, Gateway6    netip.Addr   // another default gateway than BIP
	IPv6                  bool
	MTU                   int   // 0 means 1500
	ICC, Masquerade       *bool // nil means true
}

// Store is where Networks and leases are kept: JSON by bucket and key. What returned without an error outlives the daemon;
// a Network outlives the machine too.
// *store.Store is one.
type Store interface {
	Put(bucket, key string, v any) error
	Delete(bucket, key string) error
	Each(bucket string, f func(key string, raw []byte) error) error
}

// Controller owns the Networks of one user. Its methods are safe for concurrent use.
type Controller struct {
	cfg    Config
	log    *slog.Logger
	ports  portTable
	events events

	// ctx ends with Close, and with it the goroutines that wg counts.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// failpoint is nil but in tests: it is told each step before it is taken, and may refuse it.
	failpoint func(step string) error

	// mu guards what follows and whatever says so elsewhere. It is the last lock but those of the address
	// drivers and events, and nothing that can block is called while it is held.
	mu        sync.Mutex
	networks  map[string]*network // by id
	names     map[string]*network // by name
	sandboxes map[string]*Sandbox // by id
	dns       DNS
	pruning   bool
	closing   bool
	watching  bool // watchOrphans runs
}

// New restores the Networks of the store, makes those that are always there, and sets the leases of living
// sandboxes aside until they Rejoin.
func New(cfg Config) (*Controller, error) {
	if cfg.Store == nil || cfg.Datapath == nil || cfg.Drivers == nil || cfg.IPAM == nil {
		return nil, errors.New("make network controller: the store, the datapath or a driver registry is missing")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Alive == nil {
		cfg.Alive = func(string) bool { return false }
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	c := &Controller{
		cfg: cfg, log: cfg.Log, dns: cfg.DNS,
		networks: make(map[string]*network), names: make(map[string]*network), sandboxes: make(map[string]*Sandbox),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if err := c.restore(); err != nil {
		c.cancel()
		return nil, err
	}
	c.watch()
	return c, nil
}

// Reload takes over settings that can change while sandboxes live; they count for those that join from now
// on.
func (c *Controller) Reload(dns DNS) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dns = dns
}

// Shrink lets go of the room that Networks and sandboxes took which have gone.
func (c *Controller) Shrink() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.networks, c.names, c.sandboxes = trim.Map(c.networks), trim.Map(c.names), trim.Map(c.sandboxes)
}

// Close ends what the Controller does on its own and waits for it. Sandboxes live on, and so do their leases:
// another Controller takes them over with Rejoin. Sockets of published ports are closed; the shims have theirs.
func (c *Controller) Close() error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
	c.mu.Lock()
	sandboxes := c.sandboxesLocked()
	c.mu.Unlock()
	for _, sb := range sandboxes {
		c.ports.release(sb.abandon())
	}
	return nil
}

// step is a place where tests make things go wrong.
func (c *Controller) step(name string) error {
	if c.failpoint == nil {
		return nil
	}
	return c.failpoint(name)
}
