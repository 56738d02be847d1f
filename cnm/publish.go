package cnm

import (
	"context"
	"slices"

	"github.com/usernet/usernet/cnm/fault"
	"github.com/usernet/usernet/portfwd"
)

// Where the published ports of a sandbox lead. Wishes are kept as they were made; their sockets are bound while a
// leg may have ports, and lead to that leg. When another leg becomes the gateway, the sockets move with it as they
// are: a client that is just connecting waits in their queue.

// WantedPorts are those of publish, -p, and with -P every port of exposed that publish does not have.
func WantedPorts(publish, exposed []portfwd.Spec, all bool) []portfwd.Spec {
	want := slices.Clone(publish)
	if !all {
		return want
	}
	for _, e := range exposed {
		if !slices.ContainsFunc(want, func(p portfwd.Spec) bool { return p.Proto == e.Proto && p.Port == e.Port }) {
			want = append(want, portfwd.Spec{Proto: e.Proto, Port: e.Port})
		}
	}
	return want
}

// wantPorts notes the ports of the sandbox's configuration.
func (sb *Sandbox) wantPorts() {
	want := WantedPorts(sb.conf.Publish, sb.conf.Expose, sb.conf.PublishAll)
	sb.c.mu.Lock()
	sb.want = want
	sb.c.mu.Unlock()
}

// placePorts binds the ports that are wanted while a leg may have them, and leads them to the right leg. op
// is held.
func (sb *Sandbox) placePorts() error {
	sb.c.mu.Lock()
	to := sb.targetsLocked()
	sb.c.mu.Unlock()
	if to[0] == nil {
		sb.dropPorts()
		return nil
	}
	if len(sb.bound) == 0 && len(sb.want) > 0 {
		ls, err := sb.bind(to[0], sb.want)
		if err != nil {
			return err
		}
		sb.setBound(ls)
	}
	for f := range to {
		if err := sb.leadPorts(f, to[f]); err != nil {
			return err
		}
	}
	return nil
}

// bind binds ports as the leg's Network has it.
func (sb *Sandbox) bind(ep *endpoint, want []portfwd.Spec) ([]portfwd.Listener, error) {
	specs := slices.Clone(want)
	for i := range specs {
		if !specs[i].HostIP.IsValid() {
			specs[i].HostIP = ep.net.seg.Bind
		}
	}
	ls, err := sb.c.ports.bind(specs)
	if err != nil {
		return nil, sb.portError(ep, err)
	}
	return ls, nil
}

// portError is what Docker's driver says when ports cannot be had.
func (sb *Sandbox) portError(ep *endpoint, err error) error {
	return fault.New(fault.KindOf(err), "driver failed programming external connectivity on endpoint %s (%s): %w", ep.name, ep.id, err)
}

// leadPorts leads the sockets of family f, 0 for IPv4 and 1 for IPv6, to a leg, or nowhere while that
// one has no TAP yet.
func (sb *Sandbox) leadPorts(f int, to *endpoint) error {
	if to != nil && to.view == nil {
		to = nil
	}
	if sb.lead[f] == to {
		return nil
	}
	ls := ofPortFamily(sb.bound, f)
	if from := sb.lead[f]; from != nil {
		if len(ls) > 0 {
			if err := sb.c.cfg.Datapath.Unpublish(from.net.id, from.id, specsOf(ls)); err != nil {
				return sb.portError(from, err)
			}
		}
		sb.lead[f] = nil
	}
	if to != nil {
		if len(ls) > 0 {
			if err := sb.c.cfg.Datapath.Publish(to.net.id, to.id, ls); err != nil {
				return sb.portError(to, err)
			}
		}
		sb.lead[f] = to
	}
	return nil
}

// dropPorts frees the ports; what is wanted stays. op is held.
func (sb *Sandbox) dropPorts() {
	for f := range sb.lead {
		if err := sb.leadPorts(f, nil); err != nil {
			sb.c.log.Warn("ports not withdrawn", "container", sb.conf.Name, "err", err)
			sb.lead[f] = nil
		}
	}
	ls := sb.bound
	sb.setBound(nil)
	sb.c.ports.release(ls)
}

func (sb *Sandbox) setBound(ls []portfwd.Listener) {
	sb.c.mu.Lock()
	sb.bound = ls
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
