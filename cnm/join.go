package cnm

import (
	"context"
	"fmt"
	"slices"

	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/portfwd"
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

// wantPorts is -p, and with -P every exposed port that -p does not publish.
func (sb *Sandbox) wantPorts() {
	want := slices.Clone(sb.conf.Publish)
	if sb.conf.PublishAll {
		for _, e := range sb.conf.Expose {
			if !slices.ContainsFunc(want, func(p portfwd.Spec) bool { return p.Proto == e.Proto && p.Port == e.Port }) {
				want = append(want, portfwd.Spec{Proto: e.Proto, Port: e.Port})
			}
		}
	}
	sb.c.mu.Lock()
	sb.want = want
	sb.c.mu.Unlock()
}

// Ports are those that are published now.
func (sb *Sandbox) Ports() []portfwd.Spec {
	sb.c.mu.Lock()
	defer sb.c.mu.Unlock()
	return specsOf(sb.bound)
}

// Publish publishes more ports, all or none, and returns what was bound.
func (sb *Sandbox) Publish(specs []portfwd.Spec) ([]portfwd.Spec, error) {
	if err := sb.lock(context.Background()); err != nil {
		return nil, err
	}
	defer sb.unlock()
	sb.c.mu.Lock()
	to := sb.targetsLocked()
	sb.c.mu.Unlock()
	if to[0] == nil {
		return nil, fault.New(fault.Invalid, "publish ports of container %s: none of its networks publishes ports on the host", sb.conf.Name)
	}
	ls, err := sb.bind(to[0], specs)
	if err != nil {
		return nil, err
	}
	for f := range to {
		of := ofPortFamily(ls, f)
		if sb.lead[f] == nil || len(of) == 0 {
			continue // led there when its TAP comes
		}
		if err := sb.c.cfg.Datapath.Publish(sb.lead[f].net.id, sb.lead[f].id, of); err != nil {
			sb.withdraw(ls, f)
			return nil, sb.portError(sb.lead[f], err)
		}
	}
	sb.setPorts(slices.Concat(sb.want, specsOf(ls)), slices.Concat(sb.bound, ls))
	sb.c.later(sb)
	return specsOf(ls), nil
}

// withdraw ends sockets that are led to the families below f.
func (sb *Sandbox) withdraw(ls []portfwd.Listener, f int) {
	for f--; f >= 0; f-- {
		if of := ofPortFamily(ls, f); sb.lead[f] != nil && len(of) > 0 {
			if err := sb.c.cfg.Datapath.Unpublish(sb.lead[f].net.id, sb.lead[f].id, specsOf(of)); err != nil {
				sb.c.log.Warn("ports not withdrawn", "container", sb.conf.Name, "err", err)
			}
		}
	}
	sb.c.ports.release(ls)
}

// Unpublish ends ports, all or none. A Spec without an address stands for all addresses its port is bound
// to, one without a container port for any.
func (sb *Sandbox) Unpublish(specs []portfwd.Spec) error {
	if err := sb.lock(context.Background()); err != nil {
		return err
	}
	defer sb.unlock()
	goes := make(map[portfwd.Spec]bool)
	for _, s := range specs {
		found := false
		for _, l := range sb.bound {
			if covers(s, l.Spec) {
				goes[l.Spec], found = true, true
			}
		}
		if !found {
			return fault.New(fault.NotFound, "unpublish %s: it is not published", s)
		}
	}
	var ends, stays []portfwd.Listener
	for _, l := range sb.bound {
		if goes[l.Spec] {
			ends = append(ends, l)
		} else {
			stays = append(stays, l)
		}
	}
	sb.withdraw(ends, len(sb.lead))
	// What is left of the wish is what is left of the sockets: a wish for both families may have lost one.
	sb.setPorts(specsOf(stays), stays)
	sb.c.later(sb)
	return nil
}

func (sb *Sandbox) setPorts(want []portfwd.Spec, bound []portfwd.Listener) {
	sb.c.mu.Lock()
	sb.want, sb.bound = want, bound
	sb.c.mu.Unlock()
}

// covers reports whether s, which may be less exact, means the bound one.
func covers(s, bound portfwd.Spec) bool {
	return s.Proto == bound.Proto && s.HostPort == bound.HostPort &&
		(!s.HostIP.IsValid() || s.HostIP == bound.HostIP) && (s.Port == 0 || s.Port == bound.Port)
}

// ofPortFamily are the sockets of family f, 0 for IPv4 and 1 for IPv6.
func ofPortFamily(ls []portfwd.Listener, f int) []portfwd.Listener {
	return slices.DeleteFunc(slices.Clone(ls), func(l portfwd.Listener) bool { return l.Spec.HostIP.Is4() != (f == 0) })
}
