package cnm

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/dnsproxy/resolvconf"
	"github.com/usernet/usernet/internal/hostsfile"
)

// The files of a sandbox: /etc/resolv.conf, /etc/hosts, /etc/hostname. They follow from the legs and the
// links, and are written anew whenever those change.

// DNS are what a sandbox's name resolution is made of when it says nothing itself.
type DNS struct {
	Servers []netip.AddrPort // empty means the host's
	Search  []string         // nil means the host's
	Options []string         // nil means the host's
}

// ownResolver is where a sandbox with names finds its resolver.
var ownResolver = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// readResolv reads the host's resolv.conf; a host without one has nothing to say.
func readResolv(path string) (resolvconf.Config, error) {
	b, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return resolvconf.Config{}, fmt.Errorf("read the host's name servers: %w", err)
	}
	return resolvconf.Parse(b, nil), nil
}

// filesLocked are the files that follow from the legs.
func (sb *Sandbox) filesLocked() []plumb.File {
	return []plumb.File{
		{Path: "/etc/resolv.conf", Content: sb.resolvConfLocked()},
		{Path: "/etc/hosts", Content: hostsfile.Format(sb.hostsLocked())},
		{Path: "/etc/hostname", Content: sb.conf.hostname() + "\n"},
	}
}

// searchList is that of the flags, else the daemon's, else the host's; "." alone empties it.
func (sb *Sandbox) searchList() []string {
	list := sb.host.Search
	if sb.dns.Search != nil {
		list = sb.dns.Search
	}
	if sb.conf.DNSSearch != nil {
		list = sb.conf.DNSSearch
	}
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == "." })
}

// options are found as searchList.
func (sb *Sandbox) options() []string {
	switch {
	case sb.conf.DNSOptions != nil:
		return slices.Clone(sb.conf.DNSOptions)
	case sb.dns.Options != nil:
		return slices.Clone(sb.dns.Options)
	}
	return slices.Clone(sb.host.Options)
}

// hasNDots reports whether anybody but us set ndots.
func (sb *Sandbox) hasNDots() bool {
	return slices.ContainsFunc(sb.options(), func(o string) bool { return strings.HasPrefix(o, "ndots:") })
}

// resolvConfLocked is /etc/resolv.conf. With names it points to our resolver and says below, as Docker
// does, whom that one asks (DF3). Without, on the default bridge, it names the servers given, else the
// gateway, which forwards (DB6).
func (sb *Sandbox) resolvConfLocked() string {
	rc := resolvconf.Config{Search: sb.searchList(), Options: sb.options()}
	legs := sb.legsLocked()
	if first(legs, func(ep *endpoint) bool { return ep.net.names }) != nil {
		rc.Nameservers = ownServers(legs)
		from := "host"
		switch {
		case !sb.hasNDots():
			rc.Options, from = append(rc.Options, "ndots:0"), "internal"
		case sb.conf.DNSOptions != nil || sb.dns.Options != nil:
			from = "override"
		}
		return string(rc.Format()) + sb.trailer(from)
	}
	if direct, ok := onPort53(sb.upstreams()); ok {
		rc.Nameservers = direct
	} else {
		for _, ep := range legs {
			for _, a := range []netip.Addr{ep.net.spec.DNS4, ep.net.spec.DNS6} {
				if a.IsValid() {
					rc.Nameservers = append(rc.Nameservers, a)
				}
			}
		}
	}
	return string(rc.Format())
}

// ownServers is where a sandbox with names finds its resolver: 127.0.0.11, which needs IPv4; where there is none the
// gateway, if there is one.
func ownServers(legs []*endpoint) []netip.Addr {
	if first(legs, (*endpoint).resolves4) != nil {
		return []netip.Addr{ownResolver}
	}
	for _, ep := range legs {
		if ep.net.names && ep.net.spec.DNS6.IsValid() {
			return []netip.Addr{ep.net.spec.DNS6}
		}
	}
	return nil
}

// onPort53 are the addresses of servers that a resolv.conf can name: it has no place for a port.
func onPort53(servers []netip.AddrPort) (as []netip.Addr, ok bool) {
	for _, s := range servers {
		if s.Port() != 53 {
			return nil, false
		}
		as = append(as, s.Addr())
	}
	return as, len(as) > 0
}

// trailer says in comments where the file comes from, as Docker's does.
func (sb *Sandbox) trailer(ndots string) string {
	var b bytes.Buffer
	var servers, overrides []string
	for _, s := range sb.upstreams() {
		servers = append(servers, s.Addr().String())
	}
	if servers == nil {
		for _, a := range sb.host.Nameservers {
			servers = append(servers, "host("+a.String()+")")
		}
	} else {
		overrides = append(overrides, "nameservers")
	}
	if sb.conf.DNSSearch != nil || sb.dns.Search != nil {
		overrides = append(overrides, "search")
	}
	if sb.conf.DNSOptions != nil || sb.dns.Options != nil {
		overrides = append(overrides, "options")
	}
	fmt.Fprintf(&b, "\n# Based on host file: '/etc/resolv.conf' (internal resolver)\n# ExtServers: [%s]\n# Overrides: [%s]\n# Option ndots from: %s\n",
		strings.Join(servers, " "), strings.Join(overrides, " "), ndots)
	return b.String()
}

// hostsLocked are the lines of /etc/hosts after the static ones: those asked for, those of legacy links, and
// the sandbox itself once for each address.
func (sb *Sandbox) hostsLocked() []hostsfile.Line {
	var lines []hostsfile.Line
	for _, h := range sb.conf.ExtraHosts {
		if legs := sb.legsLocked(); !h.Addr.IsValid() && len(legs) > 0 {
			h.Addr = sb.c.hostGateway(legs[0].net)
		}
		lines = append(lines, hostsfile.Line{Addr: h.Addr, Names: []string{h.Name}})
	}
	lines = append(lines, sb.linkLinesLocked()...)
	for _, ep := range sb.presentLocked() {
		for _, p := range []netip.Prefix{ep.link.Addr4, ep.link.Addr6} {
			if p.IsValid() {
				lines = append(lines, hostsfile.Line{Addr: p.Addr(), Names: sb.conf.fullNames()})
			}
		}
	}
	return lines
}

// hostGateway is what host-gateway stands for in a Network: what the daemon was told, else the Network's gateway.
// Docker takes the default bridge's, which here no other Network reaches.
func (c *Controller) hostGateway(n *network) netip.Addr {
	if c.cfg.HostGateway != nil {
		if a := c.cfg.HostGateway(); a.IsValid() {
			return a
		}
	}
	if n.spec.Gateway4.IsValid() {
		return n.spec.Gateway4
	}
	return n.spec.Gateway6
}
