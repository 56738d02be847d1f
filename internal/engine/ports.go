package engine

import (
	"context"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/usernet/usernet/portfwd"
)

const (
	// portsTimeout is how long the sockets of private sandboxes have to say what is published, all of them
	// together, and portsAtOnce how many are asked at a time.
	portsTimeout = 2 * time.Second
	portsAtOnce  = 16
)

// portSet is what is published of a container, what was asked for, and what is only exposed.
type portSet struct {
	bound, asked, expose []portfwd.Spec
}

// privatePorts returns the ports of containers by their ids. Those of private sandboxes only their
// shims know; one that does not say is shown without.
func (e *Engine) privatePorts(ctx context.Context, all []found) map[string]portSet {
	ctx, cancel := context.WithTimeout(ctx, portsTimeout)
	defer cancel()
	var (
		mu    sync.Mutex // guards ports
		ports = make(map[string]portSet, len(all))
		wg    sync.WaitGroup
		slots = make(chan struct{}, portsAtOnce)
	)
	for _, c := range all {
		if s := c.joined; s != nil {
			mu.Lock()
			ports[c.ID] = portSet{bound: s.Ports, asked: s.Publish, expose: s.Expose}
			mu.Unlock()
			continue
		}
		if c.mode() != privateMode {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			bound, err := e.reg.Ports(ctx, c.Name)
			if err != nil {
				e.log.Debug("sandbox does not say what it publishes", "sandbox", c.Name, "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			ports[c.ID] = portSet{bound: bound, asked: bound}
		})
	}
	wg.Wait()
	return ports
}

// hosts are the addresses that a Spec binds: the zero one stands for all of either family.
func hosts(s portfwd.Spec) []netip.Addr {
	if s.HostIP.IsValid() {
		return []netip.Addr{s.HostIP}
	}
	return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
}

func portOf(s portfwd.Spec) network.Port {
	p, _ := network.PortFrom(s.Port, network.IPProtocol(s.Proto)) // false only without a protocol
	return p
}

// summary is for lists of containers.
func (p portSet) summary() []container.PortSummary {
	list := []container.PortSummary{}
	bound := map[network.Port]bool{}
	for _, s := range p.bound {
		bound[portOf(s)] = true
		for _, h := range hosts(s) {
			list = append(list, container.PortSummary{IP: h, PrivatePort: s.Port, PublicPort: s.HostPort, Type: string(s.Proto)})
		}
	}
	for _, s := range p.expose {
		if !bound[portOf(s)] {
			list = append(list, container.PortSummary{PrivatePort: s.Port, Type: string(s.Proto)})
		}
	}
	return list
}

// bindings is what `docker port` reads: ports that are only exposed have none.
func (p portSet) bindings() network.PortMap {
	m := network.PortMap{}
	for _, s := range p.expose {
		m[portOf(s)] = nil
	}
	for _, s := range p.bound {
		for _, h := range hosts(s) {
			m[portOf(s)] = append(m[portOf(s)], network.PortBinding{HostIP: h, HostPort: strconv.Itoa(int(s.HostPort))})
		}
	}
	return m
}

// wanted is what was asked for: an address or port that was left open is empty.
func (p portSet) wanted() network.PortMap {
	m := network.PortMap{}
	for _, s := range p.asked {
		b := network.PortBinding{HostIP: s.HostIP}
		if s.HostPort != 0 {
			b.HostPort = strconv.Itoa(int(s.HostPort))
		}
		if s.HostPortEnd != 0 {
			b.HostPort += "-" + strconv.Itoa(int(s.HostPortEnd))
		}
		m[portOf(s)] = append(m[portOf(s)], b)
	}
	return m
}

// exposed are all ports that anybody spoke of.
func (p portSet) exposed() network.PortSet {
	set := network.PortSet{}
	for _, list := range [][]portfwd.Spec{p.expose, p.asked} {
		for _, s := range list {
			set[portOf(s)] = struct{}{}
		}
	}
	return set
}
