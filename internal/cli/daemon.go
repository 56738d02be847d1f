package cli

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/usernet/usernet/cnm"
	"github.com/usernet/usernet/cnm/ipam"
	"github.com/usernet/usernet/internal/daemon"
	"github.com/usernet/usernet/internal/datapath"
	"github.com/usernet/usernet/internal/version"
)

const daemonHelp = `Run the process that has your named networks, in the foreground. There is one for each
user. Commands that need it start it by themselves; it then ends when it has had
nothing to do for five minutes. With systemd, "systemctl --user enable --now
usernet.socket" has it started by the first command.

Settings are in ~/.config/usernet/daemon.json, with the keys of Docker's daemon.json that
are about networks; each has a flag here, and one that is given twice is an error.
SIGHUP reads the file again. Sandboxes outlive the daemon: they wait for the next one.`

const daemonExample = `  usernet daemon --log-level debug
  usernet daemon --default-address-pool base=10.10.0.0/16,size=24
  DOCKER_HOST=unix://$XDG_RUNTIME_DIR/usernet/usernet.sock docker network ls`

// daemonOptions are the flags of daemon.
type daemonOptions struct {
	daemon.Config
	configFile  string
	idleTimeout time.Duration
	icc, masq   bool
	compat      cnm.Profile
}

func (a *app) daemonCommand() *cobra.Command { return a.daemonCommandWith(&daemonOptions{}) }

// daemonCommandWith makes the command with o to hold its flags.
func (a *app) daemonCommandWith(o *daemonOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "daemon [flags]",
		Short:   "Run the daemon of named networks",
		Long:    daemonHelp,
		Example: daemonExample,
		Args:    wantArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.daemon(cmd.Context(), o, cmd.Flags())
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&o.configFile, "config-file", "", "`FILE` of the settings (default ~/.config/usernet/daemon.json)")
	fs.DurationVar(&o.idleTimeout, "idle-timeout", 0, "End after so long without sandboxes and requests, such as 5m; 0 for never")
	addCompatFlag(cmd, &o.compat)
	addDaemonLogFlags(fs, o)
	addPoolFlags(fs, o)
	addDefaultBridgeFlags(fs, o)
	completeValues(cmd, map[string][]string{"log-level": {"debug", "info", "warn", "error", "fatal"}, "log-format": {"text", "json"}})
	noValueCompletion(cmd, "idle-timeout", "default-address-pool", "default-network-opt", "dns", "dns-opt", "dns-search",
		"bip", "bip6", "fixed-cidr", "fixed-cidr-v6", "default-gateway", "default-gateway-v6", "mtu", "ip", "host-gateway-ip", "host")
	return cmd
}

// settingKeys are the keys of settings whose flags are called otherwise.
var settingKeys = map[string]string{
	"host": "hosts", "default-address-pool": "default-address-pools", "default-network-opt": "default-network-opts",
	"dns-opt": "dns-opts", "host-gateway-ip": "host-gateway-ips",
}

func addDaemonLogFlags(fs *pflag.FlagSet, o *daemonOptions) {
	fs.BoolVarP(&o.Debug, "debug", "D", false, "Log everything")
	fs.StringVarP(&o.LogLevel, "log-level", "l", "info", "Log debug, info, warn, error or fatal and what is graver: `LEVEL`")
	fs.StringVar(&o.LogFormat, "log-format", "text", "Log as text or json: `FORMAT`")
	fs.StringArrayVarP(&o.Hosts, "host", "H", nil, "Serve the API on a further `SOCKET`, unix:///PATH")
}

func addPoolFlags(fs *pflag.FlagSet, o *daemonOptions) {
	fs.Var(&list[ipam.Block]{to: &o.DefaultAddressPools, parse: one(ipam.ParseBlock), kind: "base=cidr,size=bits"}, "default-address-pool",
		"Where subnets come from (default Docker's)")
	o.DefaultNetworkOpts = map[string]map[string]string{}
	fs.Var(networkOpts(o.DefaultNetworkOpts), "default-network-opt", "Option of new networks of a driver")
	fs.Var(&list[netip.Addr]{to: &o.DNS, parse: one(parseIP), kind: "ip"}, "dns", "DNS server of sandboxes that name none (default the host's)")
	fs.StringSliceVar(&o.DNSOpts, "dns-opt", nil, "`OPTION` for their resolv.conf")
	fs.StringSliceVar(&o.DNSSearch, "dns-search", nil, "`DOMAIN` they search")
	fs.StringVar(&o.ResolvConf, "resolv-conf", "", "The host's resolv.conf: `FILE` (default /etc/resolv.conf)")
	fs.Var(&list[netip.Addr]{to: &o.HostGateway, parse: one(parseIP), kind: "ip"}, "host-gateway-ip", "What host-gateway stands for in --add-host")
}

// addDefaultBridgeFlags defines those of the network bridge.
func addDefaultBridgeFlags(fs *pflag.FlagSet, o *daemonOptions) {
	prefix := func(to *netip.Prefix, name, usage string) {
		fs.Var(&value[netip.Prefix]{to: to, parse: parseCIDR, show: showPrefix, kind: "cidr"}, name, usage)
	}
	addr := func(to *netip.Addr, name, usage string) {
		fs.Var(&value[netip.Addr]{to: to, parse: parseIP, show: showAddr, kind: "ip"}, name, usage)
	}
	prefix(&o.BIP, "bip", "Gateway of the network bridge, with its subnet")
	prefix(&o.BIP6, "bip6", "The same for IPv6")
	prefix(&o.FixedCIDR, "fixed-cidr", "Part of the subnet to take addresses from")
	prefix(&o.FixedCIDR6, "fixed-cidr-v6", "The same for IPv6")
	addr(&o.DefaultGateway4, "default-gateway", "Default gateway of the network bridge")
	addr(&o.DefaultGateway6, "default-gateway-v6", "The same for IPv6")
	fs.BoolVar(&o.IPv6, "ipv6", false, "Enable IPv6 in the network bridge")
	fs.IntVar(&o.MTU, "mtu", 0, "`MTU` of the network bridge (default 1500)")
	fs.BoolVar(&o.icc, "icc", true, "Let sandboxes in the network bridge reach each other")
	fs.BoolVar(&o.masq, "ip-masq", true, "Let sandboxes in the network bridge reach the outside")
	addr(&o.IP, "ip", "Address that ports are published at where nothing else is said (default all)")
}

func showPrefix(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

// networkOpts collects DRIVER=KEY=VALUE.
type networkOpts map[string]map[string]string

// Set implements pflag.Value.
func (n networkOpts) Set(s string) error {
	driver, rest, ok := strings.Cut(s, "=")
	key, v, valued := strings.Cut(rest, "=")
	if !ok || !valued || driver == "" || key == "" {
		return errors.New("invalid network option; write DRIVER=KEY=VALUE")
	}
	if n[driver] == nil {
		n[driver] = map[string]string{}
	}
	n[driver][key] = v
	return nil
}

// String implements pflag.Value.
func (n networkOpts) String() string { return "" }

// Type is what the help shows for the value.
func (n networkOpts) Type() string { return "driver=key=value" }

// source is where the settings come from.
func (o *daemonOptions) source(fs *pflag.FlagSet) daemon.Source {
	src := daemon.Source{File: o.configFile, Explicit: fs.Changed("config-file"), Flags: o.Config}
	fs.Visit(func(f *pflag.Flag) {
		switch f.Name {
		case "config-file", "idle-timeout", "compat":
			return
		case "icc":
			src.Flags.ICC = &o.icc
		case "ip-masq":
			src.Flags.Masquerade = &o.masq
		}
		key := f.Name
		if k, ok := settingKeys[key]; ok {
			key = k
		}
		src.Set = append(src.Set, key)
	})
	return src
}

// daemon runs the daemon to its end.
func (a *app) daemon(ctx context.Context, o *daemonOptions, fs *pflag.FlagSet) error {
	return daemon.Run(ctx, daemon.Options{
		Source: o.source(fs), IdleTimeout: o.idleTimeout, Stderr: a.stdio.Err,
		Datapath: datapath.Config{Args: []string{"usernet", datapath.Role}},
		Profile:  o.compat, Version: version.Number, Commit: strings.TrimSpace(version.Revision()),
	})
}

// startDaemon starts the user's daemon if none answers.
func startDaemon(ctx context.Context) error { return daemon.Ensure(ctx, daemon.Start{}) }
