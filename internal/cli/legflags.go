package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/portfwd"
)

// legOptions are the flags of run and attach that say which networks a sandbox is in, and how. --ip, --ip6 and
// --mac-address are in netOptions: a private network has them too.
type legOptions struct {
	networks   []cnm.EndpointConfig
	aliases    []string
	links      []string
	linkLocal  []netip.Addr
	expose     []portfwd.Spec
	publishAll bool
	domainname string
	labels     []string
	compat     cnm.Profile
}

func (a *app) addLegFlags(cmd *cobra.Command, o *legOptions, networks string) {
	fs := cmd.Flags()
	fs.Var(&list[cnm.EndpointConfig]{to: &o.networks, parse: one(parseNetwork), kind: "network"}, "network", networks)
	fs.Var(&list[cnm.EndpointConfig]{to: &o.networks, parse: one(parseNetwork), kind: "network"}, "net", "Same as --network")
	fs.Var(&list[string]{to: &o.aliases, parse: one(parseWord), kind: "name"}, "network-alias", "Further name in the first network")
	fs.Var(&list[string]{to: &o.aliases, parse: one(parseWord), kind: "name"}, "net-alias", "Same as --network-alias")
	fs.Var(&list[string]{to: &o.links, parse: one(parseLink), kind: "sandbox[:name]"}, "link", "Name of another sandbox, for this one alone")
	fs.Var(&list[netip.Addr]{to: &o.linkLocal, parse: one(parseIP), kind: "ip"}, "link-local-ip", "Further link-local address in the first network")
	fs.Var(&list[portfwd.Spec]{to: &o.expose, parse: parseExpose, kind: "port"}, "expose", "Port, or range of them, that links and --publish-all are about: PORT[-END][/tcp|udp]")
	fs.BoolVarP(&o.publishAll, "publish-all", "P", false, "Publish all exposed ports at free ports of the host")
	addCompatFlag(cmd, &o.compat)
	for _, hidden := range []string{"net", "net-alias"} {
		fs.Lookup(hidden).Hidden = true
	}
	_ = cmd.RegisterFlagCompletionFunc("network", a.completeMode)
	_ = cmd.RegisterFlagCompletionFunc("net", a.completeMode)
	_ = cmd.RegisterFlagCompletionFunc("link", completeSandbox)
	noValueCompletion(cmd, "network-alias", "net-alias", "link-local-ip", "expose")
}

func addCompatFlag(cmd *cobra.Command, to *cnm.Profile) {
	cmd.Flags().Var(&value[cnm.Profile]{to: to, parse: parseProfile, show: func(p cnm.Profile) string { return string(p) }, kind: "version"},
		"compat", "Behave as Docker 20.10 does: variables of links, MAC addresses")
	completeValues(cmd, map[string][]string{"compat": {string(cnm.Profile2010)}})
}

// completeMode offers what --network takes.
func (a *app) completeMode(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	if strings.HasPrefix(word, wordContainer+":") {
		names, directive := completeSandbox(cmd, nil, "")
		for i := range names {
			names[i] = wordContainer + ":" + names[i]
		}
		return names, directive
	}
	names := append([]string{wordPrivate, wordContainer + ":"}, a.networkNames(cmd.Context(), nil)...)
	return names, cobra.ShellCompDirectiveNoFileComp
}

func parseIP(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", s)
	}
	return a, nil
}

func parseProfile(s string) (cnm.Profile, error) {
	switch p := cnm.Profile(s); p {
	case cnm.ProfileCurrent, cnm.Profile2010:
		return p, nil
	}
	return "", fmt.Errorf("unknown version %q; there is %s, and without --compat the current one", s, cnm.Profile2010)
}

// parseExpose reads PORT[-END][/PROTO]; each port becomes a Spec of its own.
func parseExpose(s string) ([]portfwd.Spec, error) {
	bad := fmt.Errorf("invalid range format for --expose: %s", s)
	ports, name, _ := strings.Cut(s, "/")
	proto := portfwd.Proto(strings.ToLower(name))
	if name == "" {
		proto = portfwd.TCP
	}
	if proto != portfwd.TCP && proto != portfwd.UDP || strings.HasSuffix(s, "/") {
		return nil, fmt.Errorf("invalid port format for --expose: %s", s)
	}
	first, last, ranged := strings.Cut(ports, "-")
	if !ranged {
		last = first
	}
	lo, _, err := parsePort(first)
	if err != nil {
		return nil, bad
	}
	hi, _, err := parsePort(last)
	if err != nil || hi < lo {
		return nil, bad
	}
	var specs []portfwd.Spec
	for p := int(lo); p <= int(hi); p++ {
		specs = append(specs, portfwd.Spec{Proto: proto, Port: uint16(p)})
	}
	return specs, nil
}

// impliesNetwork reports whether flags are given that are about other sandboxes, so that without --network the
// sandbox is in the default network rather than in one of its own.
func (o *legOptions) impliesNetwork() bool {
	return len(o.links) > 0 || len(o.expose) > 0 || o.publishAll
}

// settle decides the mode, and gives the first network what flags of their own say.
func (o *legOptions) settle(n *netOptions) (m mode, donor string, err error) {
	if len(o.networks) == 0 {
		word := wordPrivate
		if o.impliesNetwork() {
			word = wordDefault
		}
		o.networks = []cnm.EndpointConfig{{Network: word}}
	}
	if m, donor, err = checkNetworks(o.networks); err != nil {
		return 0, "", &usageError{err}
	}
	if m != modeNamed {
		if err := o.checkUnnamed(n, m); err != nil {
			return 0, "", &usageError{err}
		}
		n.publish = cnm.WantedPorts(n.publish, o.expose, o.publishAll)
		return m, donor, nil
	}
	if err := o.merge(n, &o.networks[0]); err != nil {
		return 0, "", &usageError{err}
	}
	return m, "", nil
}

// checkUnnamed refuses what belongs to a leg in a named network where there is none.
func (o *legOptions) checkUnnamed(n *netOptions, m mode) error {
	e := o.networks[0]
	word := e.Network
	e.Network = ""
	fields := !reflect.ValueOf(e).IsZero()
	switch {
	case len(o.aliases) > 0:
		return errors.New("network-scoped aliases are only supported for user-defined networks")
	case fields && m == modePrivate:
		return fmt.Errorf("--network name=%s: only a named network has further fields; use --ip, --ip6 and --mac-address", word)
	case fields:
		return fmt.Errorf("--network name=%s: only a named network has further fields", word)
	case len(o.linkLocal) > 0, m != modePrivate && (n.ip.IsValid() || n.ip6.IsValid()):
		return errors.New("user-specified IP address is supported on user-defined networks only")
	case len(o.links) > 0 && (m == modePrivate || m == modeNone):
		return fmt.Errorf("--link: with --network %s there is nobody to link to; use --network bridge or one of usernet network ls", word)
	}
	return nil
}

// merge gives the primary network the flags that have no network of their own.
func (o *legOptions) merge(n *netOptions, e *cnm.EndpointConfig) error {
	user := userDefined(e.Network)
	for _, c := range []struct {
		both bool
		text string
	}{
		{len(e.Aliases) > 0 && len(o.aliases) > 0, "--network-alias and per-network alias"},
		{e.IPv4.IsValid() && n.ip.IsValid(), "--ip and per-network IPv4 address"},
		{e.IPv6.IsValid() && n.ip6.IsValid(), "--ip6 and per-network IPv6 address"},
		{!e.MAC.IsZero() && !n.mac.IsZero(), "--mac-address and per-network MAC address"},
		{len(e.LinkLocal) > 0 && len(o.linkLocal) > 0, "--link-local-ip and per-network link-local IP addresses"},
	} {
		if c.both {
			return errors.New("conflicting options: cannot specify both " + c.text)
		}
	}
	switch {
	case len(o.aliases) > 0 && !user:
		return errors.New("network-scoped aliases are only supported for user-defined networks")
	case (n.ip.IsValid() || n.ip6.IsValid() || e.IPv4.IsValid() || e.IPv6.IsValid()) && !user:
		return errors.New("user-specified IP address is supported on user-defined networks only")
	}
	e.Aliases = append(e.Aliases, o.aliases...)
	if user {
		// Those of the default network are the sandbox's, not the leg's: /etc/hosts has them.
		e.Links = append(e.Links, o.links...)
	}
	if n.ip.IsValid() {
		e.IPv4 = n.ip
	}
	if n.ip6.IsValid() {
		e.IPv6 = n.ip6
	}
	if !n.mac.IsZero() {
		e.MAC = n.mac
	}
	e.LinkLocal = append(e.LinkLocal, o.linkLocal...)
	return nil
}

// networkOnly are the flags that describe a private network, and where what they say belongs with a named one.
var networkOnly = map[string]string{
	"subnet":         "usernet network create --subnet",
	"mtu":            "usernet network create --opt com.docker.network.driver.mtu=MTU",
	"ipv6":           "usernet network create --ipv6",
	"outbound-addr":  "usernet network create --opt com.docker.network.host_ipv4=IP",
	"outbound-addr6": "usernet network create --opt com.docker.network.host_ipv6=IP",
	"host-loopback":  "",
	"allow-metadata": "",
	"pcap":           "",
}

// checkForeign refuses flags that the mode has no use for.
func checkForeign(fs *pflag.FlagSet, m mode) error {
	if m == modePrivate {
		return nil
	}
	var bad []string
	fs.Visit(func(f *pflag.Flag) {
		if _, ok := networkOnly[f.Name]; ok {
			bad = append(bad, f.Name)
		}
	})
	if len(bad) == 0 {
		return nil
	}
	slices.Sort(bad)
	name := bad[0]
	if place := networkOnly[name]; place != "" && m == modeNamed {
		return usagef("--%s: it is the network's, not the sandbox's; make one with: %s", name, place)
	}
	return usagef("--%s: only a private network has it; use --network private", name)
}

// checkConflicts refuses flags that another sandbox's or the host's network leaves no room for, in Docker's words.
func (o *runOptions) checkConflicts(m mode) error {
	if m == modeHost && len(o.links) > 0 {
		return usagef("conflicting options: host type networking can't be used with links. This would result in undefined behavior")
	}
	if (m == modeHost || m == modeNone) && !o.mac.IsZero() {
		return usagef("conflicting options: mac-address and the network mode")
	}
	if m != modeContainer {
		return nil
	}
	for _, c := range []struct {
		is   bool
		text string
	}{
		{o.hostname != "" || o.domainname != "", "conflicting options: hostname and the network mode"},
		{len(o.links) > 0, "conflicting options: container type network can't be used with links. This would result in undefined behavior"},
		{o.dns != nil || o.search != nil || o.options != nil, "conflicting options: dns and the network mode"},
		{o.hosts != nil, "conflicting options: custom host-to-IP mapping and the network mode"},
		{!o.mac.IsZero(), "conflicting options: mac-address and the network mode"},
		{len(o.publish) > 0 || o.publishAll, "conflicting options: port publishing and the container type network mode"},
		{len(o.expose) > 0, "conflicting options: port exposing and the container type network mode"},
	} {
		if c.is {
			return usagef("%s", c.text)
		}
	}
	return nil
}
