package cnm

import (
	"context"
	"fmt"
	"slices"

	"github.com/usernet/usernet/cnm/fault"
)

// How a sandbox starts, in Docker's order: its name is taken; for each Network in turn the Endpoint gets its
// addresses, IPv4 before IPv6, and its lease; its ports are bound. With that its namespaces can be made, and
// each TAP comes back by Attach. Nothing is asked of the Namespace before Started. A failure anywhere takes
// everything back.

// Join gives a sandbox that is about to start its Endpoints, addresses and ports. Its Links then come to be
// by Attach.
func (c *Controller) Join(ctx context.Context, s SandboxConfig, ns Namespace) (*Sandbox, Joined, error) {
	sb, err := c.enter(&s, ns)
	if err != nil {
		return nil, Joined{}, err
	}
	// The last daemon may have died while it joined there: its shim never heard what it got.
	c.dropOrphansOf(s.ID)
	j, err := sb.join(ctx)
	if err != nil {
		sb.Close()
		return nil, Joined{}, err
	}
	c.tellSandbox("create", &sb.conf)
	return sb, j, nil
}

// enter takes the sandbox's id and name.
func (c *Controller) enter(s *SandboxConfig, ns Namespace) (*Sandbox, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if s.Name == "" {
		s.Name = shortID(s.ID)
	}
	links, err := parseLinks(s.Links)
	if err != nil {
		return nil, err
	}
	host, err := readResolv(c.cfg.ResolvConf)
	if err != nil {
		return nil, err
	}
	sb := &Sandbox{c: c, conf: *s, ns: ns, host: host, links: links, started: make(chan struct{}), op: make(chan struct{}, 1)}
	sb.ctx, sb.cancel = context.WithCancel(context.Background())
	c.mu.Lock()
	defer c.mu.Unlock()
	sb.dns = c.dns
	if c.closing {
		return nil, fault.New(fault.Unavailable, "the network controller is closed")
	}
	if c.sandboxes[s.ID] != nil {
		return nil, fault.New(fault.Conflict, "container %s has joined already", s.ID)
	}
	for _, o := range c.sandboxes {
		if o.conf.Name == s.Name {
			return nil, fault.New(fault.Conflict, "Conflict. The container name %q is already in use by container %q. "+
				"You have to remove (or rename) that container to be able to reuse that name.", "/"+s.Name, o.conf.ID)
		}
	}
	c.sandboxes[s.ID] = sb
	return sb, nil
}

// join does the rest of Join.
func (sb *Sandbox) join(ctx context.Context) (j Joined, err error) {
	if err := sb.lock(ctx); err != nil {
		return j, err
	}
	defer sb.unlock()
	for _, e := range sb.legsWanted() {
		if _, err := sb.c.addEndpoint(ctx, sb, e); err != nil {
			return j, err
		}
	}
	if err := sb.checkLinks(); err != nil {
		return j, err
	}
	sb.wantPorts()
	if err := sb.c.step("ports"); err != nil {
		return j, err
	}
	if err := sb.placePorts(); err != nil {
		return j, err
	}
	if len(sb.want) > 0 && len(sb.bound) == 0 {
		j.Warnings = append(j.Warnings, "published ports are discarded: no network of the container publishes ports on the host")
	}
	if err := context.Cause(ctx); err != nil {
		return j, fmt.Errorf("start container %s: %w", sb.conf.Name, err)
	}
	c := sb.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ep := range sb.endpoints {
		j.Links = append(j.Links, ep.link)
	}
	j.Routes, j.Files = sb.routesLocked(), sb.filesLocked()
	if c.cfg.LinkVariables || c.profile(&sb.conf) == Profile2010 {
		j.Env = sb.linkEnvLocked()
	}
	sb.told.routes, sb.told.files = &j.Routes, slices.Clone(j.Files)
	sb.state = joined
	return j, nil
}

// profile is the sandbox's own, else the daemon's.
func (c *Controller) profile(s *SandboxConfig) Profile {
	if s.Profile != ProfileCurrent {
		return s.Profile
	}
	return c.cfg.Profile
}

// legsWanted are the legs asked for; links without a Network belong to the first unless that is the default
// bridge.
func (sb *Sandbox) legsWanted() []EndpointConfig {
	legs := slices.Clone(sb.conf.Networks)
	if len(legs) == 0 {
		legs = []EndpointConfig{{Network: "bridge"}}
	}
	for i := range legs {
		if legs[i].Network == "default" {
			legs[i].Network = "bridge"
		}
	}
	if n, err := sb.c.find(legs[0].Network); err == nil && n.names && len(sb.links) > 0 {
		legs[0].Links = slices.Concat(legs[0].Links, sb.conf.Links)
		sb.links = nil
	}
	return legs
}

func (sb *Sandbox) checkLinks() error {
	sb.c.mu.Lock()
	defer sb.c.mu.Unlock()
	return sb.c.checkLinksLocked(sb)
}
