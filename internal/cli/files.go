package cli

import (
	"net/netip"
	"os"
	"strings"

	"github.com/usernet/usernet/cnm/plumb"
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
		rc = rc.WithoutLoopback()
	}
	rc.Search = o.searchList(rc)
	if o.options != nil {
		rc.Options = o.options
	}
	return rc.String(), nil
}

// searchList is that of --dns-search, else the host's.
func (o *netOptions) searchList(host shim.Resolv) []string {
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
func hostResolv() (shim.Resolv, error) {
	f, err := os.Open("/etc/resolv.conf")
	if os.IsNotExist(err) {
		return shim.Resolv{}, nil
	}
	if err != nil {
		return shim.Resolv{}, err
	}
	defer f.Close()
	return shim.ParseResolv(f)
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
		var s strings.Builder
		s.Write(b)
		if len(b) > 0 && b[len(b)-1] != '\n' {
			s.WriteByte('\n')
		}
		shim.AppendHosts(&s, extra)
		return s.String(), nil
	}
	own := ownNames(hostname, o.name)
	if o.network == shim.NetworkNone {
		// No address but lo's; a program that looks its own host name up finds one.
		return shim.HostsFile(append(extra, shim.Host{Addr: netip.AddrFrom4([4]byte{127, 0, 1, 1}), Names: own})), nil
	}
	for _, a := range p.endpoint.Addrs {
		extra = append(extra, shim.Host{Addr: a, Names: own})
	}
	return shim.HostsFile(extra), nil
}

// ownNames are the names of the sandbox, the full one first, as hosts(5) wants it.
func ownNames(hostname, name string) []string {
	short, _, _ := strings.Cut(hostname, ".")
	return names(hostname, short, name)
}

// extraHosts are the lines of --add-host.
func (o *netOptions) extraHosts(p *plan) (hs []shim.Host, err error) {
	for _, h := range o.hosts {
		a := h.addr
		if h.gateway {
			if a, err = p.gatewayAddr(); err != nil {
				return nil, err
			}
		}
		hs = append(hs, shim.Host{Addr: a, Names: []string{h.name}})
	}
	return hs, nil
}
