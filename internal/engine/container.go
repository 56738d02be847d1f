package engine

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/internal/control/registry"
)

// Containers implements api.Backend.
func (e *Engine) Containers(ctx context.Context) ([]container.Summary, error) {
	all, err := e.all(ctx)
	if err != nil {
		return nil, err
	}
	ports := e.privatePorts(ctx, all)
	list := make([]container.Summary, len(all))
	for i, c := range all {
		list[i] = e.summary(c, ports[c.ID])
	}
	return list, nil
}

func (e *Engine) summary(c found, p portSet) container.Summary {
	s := container.Summary{
		ID: c.ID, Names: []string{"/" + c.Name}, Command: strings.Join(c.command(), " "), Created: c.created().Unix(),
		Ports: p.summary(), Labels: c.labels(), State: c.state(), Status: "Created",
		NetworkSettings: &container.NetworkSettingsSummary{Networks: e.legs(c)},
		Mounts:          []container.MountPoint{},
	}
	if c.running() {
		s.Status = "Up " + units.HumanDuration(e.now().Sub(c.created()))
	}
	s.HostConfig.NetworkMode = c.mode()
	return s
}

// Container implements api.Backend.
func (e *Engine) Container(ctx context.Context, ref string) (container.InspectResponse, error) {
	c, err := e.find(ctx, ref)
	if err != nil {
		return container.InspectResponse{}, err
	}
	ports := e.privatePorts(ctx, []found{c})[c.ID]
	created := c.created().UTC().Format(time.RFC3339Nano)
	i := container.InspectResponse{
		ID: c.ID, Name: "/" + c.Name, Created: created, Platform: "linux", Mounts: []container.MountPoint{},
		State:      c.fullState(created),
		Config:     c.config(ports),
		HostConfig: c.hostConfig(ports),
		NetworkSettings: &container.NetworkSettings{
			SandboxID: c.ID, Ports: ports.bindings(), Networks: e.legs(c),
		},
	}
	if cmd := c.command(); len(cmd) > 0 {
		i.Path, i.Args = cmd[0], cmd[1:]
	}
	if pid := c.pid(); pid != 0 {
		i.NetworkSettings.SandboxKey = fmt.Sprintf("/proc/%d/ns/net", pid)
	}
	return i, nil
}

// legs are the networks of a container, by name.
func (e *Engine) legs(c found) map[string]*network.EndpointSettings {
	legs := map[string]*network.EndpointSettings{}
	if c.joined != nil {
		for _, ep := range c.joined.Endpoints {
			legs[ep.NetworkName] = endpointSettings(ep)
		}
		return legs
	}
	switch mode := c.mode(); {
	case mode == network.NetworkNone || mode == network.NetworkHost:
		s := &network.EndpointSettings{}
		if n, err := e.c.Network(mode); err == nil {
			s.NetworkID, s.EndpointID = n.ID, derivedID(c.ID, n.ID)
		}
		legs[mode] = s
	case mode == privateMode:
		s := &network.EndpointSettings{}
		for _, a := range c.entry.Addrs {
			if a.Is4() {
				s.IPAddress = a
			} else {
				s.GlobalIPv6Address = a
			}
		}
		legs[mode] = s
	default: // lost its daemon
		for _, name := range c.entry.Networks {
			legs[name] = &network.EndpointSettings{}
		}
	}
	return legs
}

func (c found) state() container.ContainerState {
	if c.running() {
		return container.StateRunning
	}
	return container.StateCreated
}

func (c found) fullState(started string) *container.State {
	s := &container.State{Status: c.state(), Running: c.running(), Pid: c.pid(), StartedAt: started}
	if !s.Running {
		s.StartedAt = time.Time{}.Format(time.RFC3339Nano)
	}
	s.FinishedAt = time.Time{}.Format(time.RFC3339Nano)
	return s
}

func (c found) command() []string {
	if c.joined != nil {
		return c.joined.Command
	}
	return c.entry.Command
}

func (c found) labels() map[string]string {
	if c.entry != nil && c.entry.Labels != nil {
		return c.entry.Labels
	}
	return map[string]string{}
}

func (c found) config(p portSet) *container.Config {
	cfg := &container.Config{Cmd: c.command(), Labels: c.labels(), ExposedPorts: p.exposed(), Env: []string{}}
	if c.joined != nil {
		cfg.Hostname, cfg.Domainname = c.joined.Hostname, c.joined.Domainname
		cfg.Env = append(cfg.Env, c.joined.Env...)
	} else {
		cfg.Hostname = c.entry.Hostname
	}
	if cfg.Hostname == "" && c.mode() != network.NetworkHost && !isContainerMode(c.mode()) {
		cfg.Hostname = registry.ShortID(c.ID)
	}
	return cfg
}

func (c found) hostConfig(p portSet) *container.HostConfig {
	h := &container.HostConfig{NetworkMode: container.NetworkMode(c.mode()), PortBindings: p.wanted(), AutoRemove: true}
	if s := c.joined; s != nil {
		h.PublishAllPorts, h.Links, h.DNSSearch, h.DNSOptions = s.PublishAll, s.Links, s.DNSSearch, s.DNSOptions
		for _, d := range s.DNS {
			h.DNS = append(h.DNS, d.Addr())
		}
		h.ExtraHosts = extraHosts(s.ExtraHosts)
	}
	return h
}

func extraHosts(hosts []cnm.Host) []string {
	var out []string
	for _, x := range hosts {
		addr := "host-gateway"
		if x.Addr.IsValid() {
			addr = x.Addr.String()
		}
		out = append(out, x.Name+":"+addr)
	}
	return out
}
