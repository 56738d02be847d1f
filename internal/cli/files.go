package cli

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/dnsproxy/resolvconf"
	"github.com/usernet/usernet/internal/hostsfile"
	"github.com/usernet/usernet/internal/shim"
)

// files are those the sandbox has of its own. In the host's network they are the host's, but for what
// flags change.
func (o *runOptions) files(p *plan, hostname string) ([]plumb.File, error) {
	hosts, err := o.hostsFile(p, hostname)
	if err != nil {
		return nil, err
	}
	resolv, err := o.resolvConf(p)
	if err != nil {
		return nil, err
	}
	files := []plumb.File{{Path: "/etc/resolv.conf", Content: resolv}, {Path: "/etc/hosts", Content: hosts},
		{Path: "/etc/hostname", Content: hostname + "\n"}}
	if o.network != shim.NetworkHost {
		return files, nil
	}
	var changed []plumb.File
	for i, is := range []bool{o.dns != nil || o.search != nil || o.options != nil, o.hosts != nil, o.hostname != ""} {
		if is {
			changed = append(changed, files[i])
		}
	}
	return changed, nil
}

// resolvConf is the sandbox's: the Network's name server, and the host's search list and options
// unless flags give others.
func (o *runOptions) resolvConf(p *plan) (string, error) {
	rc, err := hostResolv()
	if err != nil {
		return "", err
	}
	var servers []netip.Addr
	for _, s := range o.dns {
		servers = append(servers, s.Addr())
	}
	switch {
	case o.network == shim.NetworkPrivate:
		// Servers given by --dns are whom the Network's own asks.
		rc.Nameservers = []netip.Addr{p.network.DNS4}
		if p.network.DNS6.IsValid() {
			rc.Nameservers = append(rc.Nameservers, p.network.DNS6)
		}
	case servers != nil:
		rc.Nameservers = servers
	case o.network == shim.NetworkNone:
		// Those that only the host itself reaches.
		rc.Nameservers = slices.DeleteFunc(rc.Nameservers, func(a netip.Addr) bool { return a.IsLoopback() || a.IsUnspecified() })
	}
	rc.Search = o.searchList(rc)
	if o.options != nil {
		rc.Options = o.options
	}
	return string(rc.Format()), nil
}

// searchList is that of --dns-search, else the host's.
func (o *netOptions) searchList(host resolvconf.Config) []string {
	if o.search == nil {
		return host.Search
	}
	var list []string
	for _, s := range o.search {
		if s != "." {
			list = append(list, s)
		}
	}
	return list
}

// hostResolv reads the host's resolv.conf. A host without one has nothing to say.
func hostResolv() (resolvconf.Config, error) {
	b, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !os.IsNotExist(err) {
		return resolvconf.Config{}, err
	}
	return resolvconf.Parse(b, func(name string) (int, bool) {
		i, err := net.InterfaceByName(name)
		if err != nil {
			return 0, false
		}
		return i.Index, true
	}), nil
}

// hostsFile is the sandbox's /etc/hosts.
func (o *runOptions) hostsFile(p *plan, hostname string) (string, error) {
	extra, err := o.extraHosts(p)
	if err != nil {
		return "", err
	}
	if o.network == shim.NetworkHost {
		b, err := os.ReadFile("/etc/hosts")
		if err != nil && !os.IsNotExist(err) {
			return "", err
		}
		if len(b) > 0 && b[len(b)-1] != '\n' {
			b = append(b, '\n')
		}
		return string(b) + hostsfile.Lines(extra), nil
	}
	own := ownNames(hostname, o.domainname, o.name)
	if o.network == shim.NetworkNone {
		// No address but lo's; a program that looks its own host name up finds one.
		return hostsfile.Format(append(extra, hostsfile.Line{Addr: netip.AddrFrom4([4]byte{127, 0, 1, 1}), Names: own})), nil
	}
	for _, a := range p.endpoint.Addrs {
		extra = append(extra, hostsfile.Line{Addr: a, Names: own})
	}
	return hostsfile.Format(extra), nil
}

// ownNames are the names of the sandbox, the full one first, as hosts(5) wants it.
func ownNames(hostname, domain, name string) []string {
	if domain != "" {
		return names(hostname+"."+domain, hostname, name)
	}
	short, _, _ := strings.Cut(hostname, ".")
	return names(hostname, short, name)
}

// extraHosts are the lines of --add-host.
func (o *netOptions) extraHosts(p *plan) (hs []hostsfile.Line, err error) {
	for _, h := range o.hosts {
		a := h.addr
		if h.gateway {
			if a, err = p.gatewayAddr(); err != nil {
				return nil, err
			}
		}
		hs = append(hs, hostsfile.Line{Addr: a, Names: []string{h.name}})
	}
	return hs, nil
}
