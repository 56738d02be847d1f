package pasta

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/usernet/usernet/compat/getopt"
	"github.com/usernet/usernet/stack/l2"
)

// The values of options without a letter.
const (
	optVersion rune = iota + 1
	optUserns
	optNetns
	optNSMAC
	optDHCPDNS
	optNoDHCPDNS
	optDHCPSearch
	optNoDHCPSearch
	optDNSForward
	optNoNetnsQuit
	optTrace
	optRunAs
	optLogSize
	optOutboundIf4
	optOutboundIf6
	optConfigNet
	optNoCopyRoutes
	optNoCopyAddrs
	optNetnsOnly
	optMapLoopback
	optMapGuest
	optHostLo
	optDNSHost
	optVhostUser
	optPrintCapabilities
	optFQDN
	optRepairPath
	optMigrateExit
	optMigrateNoLinger
	optStats
	optChrootFallback
	optNoTCP
	optNoUDP
	optNoICMP
	optNoDHCP
	optNoDHCPv6
	optNoNDP
	optNoRA
	optNoSplice
	optSpliceOnly
	optFreebind
	optNoMapGW
)

// grammar is that of pasta of July 2026. The "+" is its own: options end at the command.
var grammar = getopt.Options{
	Short: "+dqfel:hs:c:F:I:p:P:m:a:n:M:g:i:o:D:S:H:461t:u:T:U:",
	Long: []getopt.Long{
		{Name: "debug", Value: 'd'}, {Name: "quiet", Value: 'q'}, {Name: "foreground", Value: 'f'}, {Name: "stderr", Value: 'e'},
		with("log-file", 'l'), {Name: "help", Value: 'h'}, with("socket", 's'), with("fd", 'F'), with("ns-ifname", 'I'),
		with("pcap", 'p'), with("pid", 'P'), with("mtu", 'm'), with("address", 'a'), with("netmask", 'n'), with("mac-addr", 'M'),
		with("gateway", 'g'), with("interface", 'i'), with("outbound", 'o'), with("dns", 'D'), with("search", 'S'),
		with("hostname", 'H'), {Name: "no-tcp", Value: optNoTCP}, {Name: "no-udp", Value: optNoUDP},
		{Name: "no-icmp", Value: optNoICMP}, {Name: "no-dhcp", Value: optNoDHCP}, {Name: "no-dhcpv6", Value: optNoDHCPv6},
		{Name: "no-ndp", Value: optNoNDP}, {Name: "no-ra", Value: optNoRA}, {Name: "no-splice", Value: optNoSplice},
		{Name: "splice-only", Value: optSpliceOnly}, {Name: "freebind", Value: optFreebind}, {Name: "no-map-gw", Value: optNoMapGW},
		{Name: "ipv4-only", Value: '4'}, {Name: "ipv6-only", Value: '6'}, {Name: "one-off", Value: '1'},
		with("tcp-ports", 't'), with("udp-ports", 'u'), with("tcp-ns", 'T'), with("udp-ns", 'U'),
		with("userns", optUserns), with("netns", optNetns), with("ns-mac-addr", optNSMAC),
		{Name: "dhcp-dns", Value: optDHCPDNS}, {Name: "no-dhcp-dns", Value: optNoDHCPDNS},
		{Name: "dhcp-search", Value: optDHCPSearch}, {Name: "no-dhcp-search", Value: optNoDHCPSearch},
		with("dns-forward", optDNSForward), {Name: "no-netns-quit", Value: optNoNetnsQuit}, {Name: "trace", Value: optTrace},
		with("runas", optRunAs), with("log-size", optLogSize), {Name: "version", Value: optVersion},
		with("outbound-if4", optOutboundIf4), with("outbound-if6", optOutboundIf6), {Name: "config-net", Value: optConfigNet},
		{Name: "no-copy-routes", Value: optNoCopyRoutes}, {Name: "no-copy-addrs", Value: optNoCopyAddrs},
		{Name: "netns-only", Value: optNetnsOnly}, with("map-host-loopback", optMapLoopback), with("map-guest-addr", optMapGuest),
		{Name: "host-lo-to-ns-lo", Value: optHostLo}, with("dns-host", optDNSHost), {Name: "vhost-user", Value: optVhostUser},
		{Name: "print-capabilities", Value: optPrintCapabilities}, with("socket-path", 's'), with("fqdn", optFQDN),
		with("repair-path", optRepairPath), {Name: "migrate-exit", Value: optMigrateExit},
		{Name: "migrate-no-linger", Value: optMigrateNoLinger}, with("stats", optStats), with("conf-path", 'c'),
		{Name: "chroot-fallback", Value: optChrootFallback},
	},
}

// with is a long option with an argument.
func with(name string, value rune) getopt.Long {
	return getopt.Long{Name: name, Argument: getopt.Required, Value: value}
}

// foreign are options of passt, which connects virtual machines over a socket, and why they are refused.
var foreign = map[rune]string{
	's':                  "-s is for passt / vhost-user mode only",
	'F':                  "--fd is for passt mode only: a descriptor of a virtual machine; usernet connects namespaces",
	'1':                  "--one-off is for passt mode only",
	optNoDHCPDNS:         "--no-dhcp-dns is for passt mode only",
	optNoDHCPSearch:      "--no-dhcp-search is for passt mode only",
	optVhostUser:         "--vhost-user is for virtual machines; usernet connects namespaces",
	optPrintCapabilities: "--print-capabilities is for vhost-user mode only",
	optRepairPath:        "--repair-path is for vhost-user mode only",
	optMigrateExit:       "--migrate-exit is for vhost-user mode only",
	optMigrateNoLinger:   "--migrate-no-linger is for vhost-user mode only",
	optFreebind:          "--freebind is not available: usernet binds the addresses that the host has",
	optStats:             "--stats is not available; \"usernet inspect\" shows the counters of sandboxes, and --debug logs what happens",
}

// switches are the options without an argument.
var switches = map[rune]func(*Options) error{
	'd':      func(o *Options) error { o.Debug, o.Quiet = true, false; return nil },
	optTrace: func(o *Options) error { o.Debug, o.Trace, o.Quiet = true, true, false; return nil },
	'q':      func(o *Options) error { o.Quiet, o.Debug, o.Trace = true, false, false; return nil },
	'f':      func(o *Options) error { o.Foreground = true; return nil },
	'e':      func(o *Options) error { return o.warn("--stderr will be dropped soon") },
	'4':      func(o *Options) error { o.NoIPv4, o.NoIPv6 = false, true; return nil },
	'6':      func(o *Options) error { o.NoIPv4, o.NoIPv6 = true, false; return nil },

	optNoTCP: on(func(o *Options) *bool { return &o.NoTCP }), optNoUDP: on(func(o *Options) *bool { return &o.NoUDP }),
	optNoICMP: on(func(o *Options) *bool { return &o.NoICMP }), optNoDHCP: on(func(o *Options) *bool { return &o.NoDHCP }),
	optNoDHCPv6: on(func(o *Options) *bool { return &o.NoDHCPv6 }), optNoNDP: on(func(o *Options) *bool { return &o.NoNDP }),
	optNoRA: on(func(o *Options) *bool { return &o.NoRA }), optNoSplice: on(func(o *Options) *bool { return &o.NoSplice }),
	optSpliceOnly: on(func(o *Options) *bool { return &o.SpliceOnly }), optNoMapGW: on(func(o *Options) *bool { return &o.NoMapGW }),
	optDHCPDNS: on(func(o *Options) *bool { return &o.DHCPDNS }), optDHCPSearch: on(func(o *Options) *bool { return &o.DHCPSearch }),
	optNoNetnsQuit: on(func(o *Options) *bool { return &o.NoNetnsQuit }), optConfigNet: on(func(o *Options) *bool { return &o.ConfigNet }),
	optHostLo:         on(func(o *Options) *bool { return &o.HostLoToNSLo }),
	optChrootFallback: func(*Options) error { return nil }, // there is no root directory to change to: the datapath has none
	optNetnsOnly:      func(o *Options) error { o.NetnsOnly, o.Userns = true, ""; return nil },
	optNoCopyRoutes: func(o *Options) error {
		o.NoCopyRoutes = true
		return o.warn("--no-copy-routes will be dropped soon")
	},
	optNoCopyAddrs: func(o *Options) error {
		o.NoCopyAddrs = true
		return o.warn("--no-copy-addrs will be dropped soon")
	},
}

func on(field func(*Options) *bool) func(*Options) error {
	return func(o *Options) error {
		*field(o) = true
		return nil
	}
}

func (o *Options) warn(text string) error {
	o.Warnings = append(o.Warnings, text)
	return nil
}

// values are the options with an argument that is no address.
var values = map[rune]func(*Options, string) error{
	'l': path("log file", func(o *Options) *string { return &o.LogFile }),
	'p': path("pcap path", func(o *Options) *string { return &o.Pcap }),
	'P': path("PID file", func(o *Options) *string { return &o.PIDFile }),
	'c': func(o *Options, s string) error {
		if s == "" || len(s) > maxSocketPath {
			return fmt.Errorf("Invalid configuration path: %s", s)
		}
		o.ConfPath = s
		return nil
	},
	'I':            device(func(o *Options) *string { return &o.IfName }),
	'i':            device(func(o *Options) *string { return &o.Interface }),
	optOutboundIf4: device(func(o *Options) *string { return &o.OutboundIf4 }),
	optOutboundIf6: device(func(o *Options) *string { return &o.OutboundIf6 }),
	'm':            setMTU,
	'M':            mac(func(o *Options) *l2.MAC { return &o.MAC }),
	optNSMAC:       mac(func(o *Options) *l2.MAC { return &o.NSMAC }),
	optRunAs:       func(o *Options, s string) error { o.RunAs = s; return nil },
	optLogSize: func(o *Options, s string) error {
		n, err := strconv.ParseUint(s, 0, 31)
		if err != nil || n < minLogSize {
			return fmt.Errorf("Invalid --log-size: %s", s)
		}
		o.LogSize = int64(n)
		return nil
	},
	optUserns: func(o *Options, s string) error {
		if s == "" || len(s) >= maxPath {
			return fmt.Errorf("Invalid userns: %s", s)
		}
		o.Userns, o.NetnsOnly = s, false
		return nil
	},
	optNetns: func(o *Options, s string) error {
		if s == "" || len(s) >= maxPath {
			return fmt.Errorf("Network namespace name/path %s too long", s)
		}
		if o.Netns = s; !strings.Contains(s, "/") {
			o.Netns = "/run/netns/" + s // as in ip-netns(8)
		}
		return nil
	},
	'S': func(o *Options, s string) error {
		if s == "none" {
			o.Search, o.NoSearch = nil, true
			return nil
		}
		if s == "" || len(s) > maxName || len(o.Search) == maxSearch {
			return fmt.Errorf("Cannot use DNS search domain %s", s)
		}
		o.NoSearch = false
		o.Search = append(o.Search, strings.Fields(s)...)
		return nil
	},
	'H':     name("hostname", func(o *Options) *string { return &o.Hostname }),
	optFQDN: name("FQDN", func(o *Options) *string { return &o.FQDN }),
}

const (
	maxPath       = 4096
	maxSocketPath = 107
	maxSearch     = 32
)

func path(what string, field func(*Options) *string) func(*Options, string) error {
	return func(o *Options, s string) error {
		if s == "" || len(s) >= maxPath {
			return fmt.Errorf("Invalid %s: %s", what, s)
		}
		*field(o) = s
		return nil
	}
}

func device(field func(*Options) *string) func(*Options, string) error {
	return func(o *Options, s string) error {
		if s == "" || len(s) > maxInterface || s == "." || s == ".." || strings.ContainsAny(s, "/: \t\n\v\f\r") {
			return fmt.Errorf("Invalid interface name: %s", s)
		}
		*field(o) = s
		return nil
	}
}

func name(what string, field func(*Options) *string) func(*Options, string) error {
	return func(o *Options, s string) error {
		if s == "" || len(s) > maxName || strings.ContainsAny(s, " \t\n\x00") {
			return fmt.Errorf("Invalid %s: %s", what, s)
		}
		*field(o) = s
		return nil
	}
}

func mac(field func(*Options) *l2.MAC) func(*Options, string) error {
	return func(o *Options, s string) error {
		m, err := l2.ParseMAC(s)
		if err != nil || len(s) != len("00:00:00:00:00:00") || m.IsZero() || m[0]&1 != 0 {
			return fmt.Errorf("Invalid MAC address: %s", s)
		}
		*field(o) = m
		return nil
	}
}

func setMTU(o *Options, s string) error {
	n, err := strconv.ParseUint(s, 0, 32)
	switch {
	case err != nil:
		return fmt.Errorf("Invalid MTU: %s", s)
	case n > maxMTU:
		return fmt.Errorf("MTU %d too large (max %d)", n, maxMTU)
	}
	o.MTU = int(n)
	return nil
}

// addresses are the options with an address of either family.
var addresses = map[rune]func(*Options, string) error{
	'g': each("Invalid gateway address: %s", func(a netip.Addr) bool { return isUnicast(a) && !a.IsLoopback() },
		func(o *Options) (v4, v6 *netip.Addr) { return &o.Gateway4, &o.Gateway6 }),
	'o': each("Invalid or redundant outbound address: %s", func(a netip.Addr) bool {
		return isUnicast(a) && !a.Is4In6() && (a.Is4() || !a.IsLoopback())
	}, func(o *Options) (v4, v6 *netip.Addr) { return &o.Outbound4, &o.Outbound6 }),
	optDNSForward: each("Invalid DNS forwarding address: %s", func(a netip.Addr) bool { return isUnicast(a) && !a.IsLoopback() },
		func(o *Options) (v4, v6 *netip.Addr) { return &o.DNSForward4, &o.DNSForward6 }),
	optDNSHost: each("Invalid host nameserver address: %s", isUnicast,
		func(o *Options) (v4, v6 *netip.Addr) { return &o.DNSHost4, &o.DNSHost6 }),
	optMapLoopback: func(o *Options, s string) error {
		o.NoMapGW = o.NoMapGW || s == "none"
		return mapAddr(o, s, &o.MapLoopback4, &o.MapLoopback6)
	},
	optMapGuest: func(o *Options, s string) error { return mapAddr(o, s, &o.MapGuest4, &o.MapGuest6) },
	'D': func(o *Options, s string) error {
		if s == "none" {
			o.DNS, o.NoDNS = nil, true
			o.DNSForward4, o.DNSForward6, o.DNSHost4, o.DNSHost6 = netip.Addr{}, netip.Addr{}, netip.Addr{}, netip.Addr{}
			return nil
		}
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" || !isUnicast(a) {
			return fmt.Errorf("Cannot use DNS address %s", s)
		}
		o.NoDNS = false
		o.DNS = append(o.DNS, a)
		return nil
	},
}

// each is an option that can be given once for each family.
func each(refusal string, valid func(netip.Addr) bool, fields func(*Options) (v4, v6 *netip.Addr)) func(*Options, string) error {
	return func(o *Options, s string) error {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" || !valid(a) {
			return fmt.Errorf(refusal, s)
		}
		v4, v6 := fields(o)
		if a.Is4() {
			*v4 = a
		} else {
			*v6 = a
		}
		return nil
	}
}

func mapAddr(o *Options, s string, v4, v6 *netip.Addr) error {
	if s == "none" {
		*v4, *v6 = netip.Addr{}, netip.Addr{}
		return nil
	}
	return each("Invalid address to remap to host: %s", func(a netip.Addr) bool { return isUnicast(a) && !a.IsLoopback() },
		func(*Options) (*netip.Addr, *netip.Addr) { return v4, v6 })(o, s)
}
