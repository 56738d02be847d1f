package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/system"

	"github.com/usernet/usernet/api"
	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/cnm/driver"
	"github.com/usernet/usernet/cnm/driver/bridge"
	"github.com/usernet/usernet/cnm/driver/host"
	"github.com/usernet/usernet/cnm/driver/null"
	"github.com/usernet/usernet/cnm/ipam"
	"github.com/usernet/usernet/cnm/ipam/hostroutes"
	"github.com/usernet/usernet/cnm/store"
	"github.com/usernet/usernet/internal/control"
	"github.com/usernet/usernet/internal/control/registry"
	"github.com/usernet/usernet/internal/engine"
	"github.com/usernet/usernet/internal/join"
	"github.com/usernet/usernet/internal/trim"
)

// trimUses is how many requests and sandboxes it takes for what they leave behind to be worth a collection.
const trimUses = 64

// parts are the daemon's, in the order in which they are made. They are closed in the reverse order.
type parts struct {
	registry   *registry.Dir
	store      *store.Store
	control    *control.Control
	controller *cnm.Controller
	engine     *engine.Engine
	join       *join.Server
	census     *census
	trim       *trim.Trimmer // of what requests and sandboxes leave behind
	closers    []func() error
}

// assemble makes everything that stands behind the sockets.
func assemble(ctx context.Context, o *Options, cfg Config, log *slog.Logger, idle *idleness, debug func() bool) (p *parts, err error) {
	p = &parts{}
	p.trim = trim.New(trimUses, p.shrink)
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.registry, err = registry.Open(); err != nil {
		return p, err
	}
	p.closers = append(p.closers, p.registry.Close)
	if p.store, err = store.Open(o.Paths.Database(), log); err != nil {
		return p, err
	}
	p.closers = append(p.closers, p.store.Close)
	dp := o.Datapath
	dp.Level, dp.JSON, dp.Stderr, dp.Socket = cfg.Level(), cfg.LogFormat == "json", o.Stderr, o.Paths.Datapath()
	if p.control, err = control.Start(ctx, control.Config{DNS: control.DNS{ResolvConf: cfg.ResolvConf}, Datapath: dp, Log: log}); err != nil {
		return p, err
	}
	p.closers = append(p.closers, p.control.Close)
	if p.controller, err = newController(p, o.Profile, cfg, log); err != nil {
		return p, err
	}
	p.closers = append(p.closers, p.controller.Close)
	p.engine = newEngine(p, o, cfg, log, debug)
	p.closers = append(p.closers, func() error { p.engine.Close(); return nil })
	p.join = join.NewServer(join.Of(p.controller), join.ServerOptions{Log: log, Changed: func(sandboxes int) {
		idle.setSandboxes(sandboxes)
		p.trim.Gone()
	}})
	return p, nil
}

// shrink lets go of the room that sandboxes and Networks took which have gone.
func (p *parts) shrink() {
	p.store.Shrink()
	p.control.Shrink()
	p.controller.Shrink()
	p.join.Shrink()
	p.census.forget()
}

// close ends everything that was made.
func (p *parts) close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i]())
	}
	p.closers = nil
	return errors.Join(errs...)
}

func newController(p *parts, profile cnm.Profile, cfg Config, log *slog.Logger) (*cnm.Controller, error) {
	p.census = &census{list: p.registry.List}
	drivers := &driver.Registry{}
	for _, d := range []driver.Driver{bridge.New(), null.New(), host.New()} {
		if err := drivers.Register(d); err != nil {
			return nil, err
		}
	}
	allocator, err := ipam.New(ipam.Config{
		Blocks: cfg.DefaultAddressPools, HostID: hostID(),
		Reserved: func() []netip.Prefix {
			reserved, err := hostroutes.List(cfg.resolvConf())
			if err != nil {
				log.Warn("the host's routes are not known completely; a new network may hide one", "err", err)
			}
			return reserved
		},
	})
	if err != nil {
		return nil, err
	}
	return cnm.New(cnm.Config{
		Store: p.store, Datapath: p.control, Drivers: drivers,
		IPAM: ipam.Drivers{"default": allocator, "null": ipam.Null{}},
		Bridge: cnm.DefaultBridge{
			BIP: cfg.BIP, BIP6: cfg.BIP6, FixedCIDR: cfg.FixedCIDR, FixedCIDR6: cfg.FixedCIDR6,
			Gateway4: cfg.DefaultGateway4, Gateway6: cfg.DefaultGateway6,
			IPv6: cfg.IPv6, MTU: cfg.MTU, ICC: cfg.ICC, Masquerade: cfg.Masquerade,
		},
		HostIP: cfg.IP, NetworkOptions: cfg.DefaultNetworkOpts, DNS: cfg.dns(), ResolvConf: cfg.ResolvConf,
		HostGateway: cfg.hostGateway(), Profile: profile,
		Alive: p.census.alive,
		Log:   log,
	})
}

func newEngine(p *parts, o *Options, cfg Config, log *slog.Logger, debug func() bool) *engine.Engine {
	blocks := cfg.DefaultAddressPools
	if len(blocks) == 0 {
		blocks = ipam.LocalBlocks()
	}
	pools := make([]system.NetworkAddressPool, len(blocks))
	for i, b := range blocks {
		pools[i] = system.NetworkAddressPool{Base: b.Base, Size: b.Size}
	}
	return engine.New(p.controller, p.registry, engine.Options{
		Version: o.Version, Commit: o.Commit, BuildTime: o.BuildTime, StateDir: o.Paths.State,
		Drivers: []string{bridge.Type, host.Type, null.Type}, Pools: pools, Debug: debug, Log: log,
	})
}

// dns is what sandboxes that say nothing themselves resolve names with.
func (c Config) dns() cnm.DNS {
	d := cnm.DNS{Search: c.DNSSearch, Options: c.DNSOpts}
	for _, a := range c.DNS {
		d.Servers = append(d.Servers, netip.AddrPortFrom(a, 53))
	}
	return d
}

func (c Config) resolvConf() string {
	if c.ResolvConf != "" {
		return c.ResolvConf
	}
	return "/etc/resolv.conf"
}

// hostGateway is the first address of host-gateway-ips, IPv4 before IPv6; nil leaves it to the Controller.
func (c Config) hostGateway() func() netip.Addr {
	var found netip.Addr
	for _, a := range c.HostGateway {
		if !found.IsValid() || found.Is6() && a.Is4() {
			found = a
		}
	}
	if !found.IsValid() {
		return nil
	}
	return func() netip.Addr { return found }
}

// hostID tells this host from others, for its IPv6 prefix. Without a machine id the host's name does.
func hostID() string {
	if f, err := os.Open("/etc/machine-id"); err == nil {
		defer f.Close()
		if b, err := io.ReadAll(io.LimitReader(f, 64)); err == nil && len(b) > 0 {
			return strings.TrimSpace(string(b))
		}
	}
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}

// census answers whether sandboxes live from one reading of the registry for all who ask within a moment:
// at start each lease is asked for.
type census struct {
	list func(context.Context) ([]registry.Entry, error)

	// mu guards what follows.
	mu   sync.Mutex
	at   time.Time
	live map[string]bool // nil when the registry could not be read
}

// censusAge is how old an answer may be.
const censusAge = 500 * time.Millisecond

func (c *census) alive(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.at) > censusAge {
		c.live = nil
		if all, err := c.list(context.Background()); err == nil {
			c.live = make(map[string]bool, len(all))
			for _, e := range all {
				c.live[e.ID] = true
			}
		}
		c.at = time.Now()
	}
	// Nobody is declared dead because a directory could not be read.
	return c.live == nil || c.live[id]
}

// forget lets go of the last reading.
func (c *census) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live, c.at = nil, time.Time{}
}

// serve answers on all sockets until ctx ends.
func (p *parts) serve(ctx context.Context, s *sockets, idle *idleness, o *Options, log *slog.Logger) error {
	served := idle.watch(api.NewServer(p.engine, api.Options{Version: o.Version, Log: log}))
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer p.trim.Gone()
		served.ServeHTTP(w, r)
	})
	ended := make(chan error, len(s.api)+1)
	trimming, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { p.trim.Run(trimming) })
	for _, l := range s.api {
		wg.Go(func() { ended <- serveAPI(ctx, l, h, log) })
	}
	wg.Go(func() { ended <- p.join.Serve(s.join) })
	var err error
	select {
	case <-ctx.Done():
	case err = <-ended:
		if err == nil && ctx.Err() == nil {
			err = errors.New("a socket was closed")
		}
	}
	cancel()
	s.close()
	wg.Wait()
	return err
}

func serveAPI(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	if err := api.Serve(ctx, l, h, log); err != nil {
		return fmt.Errorf("serve the API: %w", err)
	}
	return nil
}
