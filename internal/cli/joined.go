package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/internal/control/registry"
	"github.com/usernet/usernet/internal/daemon"
	"github.com/usernet/usernet/internal/join"
	"github.com/usernet/usernet/internal/shim"
)

// sandboxConfig is what a sandbox in named networks asks of the daemon.
func (o *legOptions) sandboxConfig(n *netOptions, e registry.Entry) cnm.SandboxConfig {
	c := cnm.SandboxConfig{
		ID: e.ID, Name: e.Name, Hostname: e.Hostname, Domainname: o.domainname, Kind: e.Kind, Command: e.Command,
		Created: e.Created, ShimPID: e.ShimPID, Profile: o.compat,
		Networks: o.networks, Publish: n.publish, Expose: o.expose, PublishAll: o.publishAll,
		DNS: n.dns, DNSSearch: n.search,
	}
	if !userDefined(o.networks[0].Network) {
		c.Links = o.links
	}
	for _, h := range n.hosts {
		c.ExtraHosts = append(c.ExtraHosts, cnm.Host{Name: h.name, Addr: h.addr})
	}
	return c
}

// join joins the sandbox to its networks, with a daemon that is started if none runs. Whoever calls it closes the
// client.
func (s *session) join(ctx context.Context, c cnm.SandboxConfig) (*join.Client, cnm.Joined, error) {
	d, err := registry.Open()
	if err != nil {
		return nil, cnm.Joined{}, err
	}
	defer d.Close()
	client, joined, err := join.Dial(ctx, filepath.Join(d.Path(), daemon.JoinSocketName), c, join.Options{
		Start: startDaemon, Log: s.log,
	})
	if _, ok := errors.AsType[*join.RefusedError](err); ok {
		return nil, cnm.Joined{}, fmt.Errorf("Error response from daemon: %w", err)
	}
	if err != nil {
		return nil, cnm.Joined{}, err
	}
	s.warnings = joined.Warnings
	if s.reporter == nil {
		for _, w := range joined.Warnings {
			s.warn(w)
		}
	}
	for _, l := range joined.Links {
		for _, p := range []netip.Prefix{l.Addr4, l.Addr6} {
			if p.IsValid() {
				s.entry.Addrs = append(s.entry.Addrs, p.Addr())
			}
		}
	}
	for _, e := range c.Networks {
		s.entry.Networks = append(s.entry.Networks, e.Network)
	}
	return client, joined, nil
}

// startJoined is for a sandbox that joined its networks before it was made.
func (s *session) startJoined(client *join.Client) func(context.Context, int) (shim.Network, error) {
	return func(_ context.Context, pid int) (shim.Network, error) { return s.show(pid, client, client) }
}
