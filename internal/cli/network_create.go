package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/moby/moby/api/types/network"
	"github.com/spf13/cobra"
)

const networkCreateHelp = `Make a network and print its id.

Driver bridge is the default: its own subnet with a gateway to the outside, names for
its sandboxes, and published ports. Options of it (--opt):

  com.docker.network.bridge.enable_icc=false             sandboxes do not reach each other
  com.docker.network.bridge.enable_ip_masquerade=false   none of them reaches the outside
  com.docker.network.bridge.host_binding_ipv4=IP         address that ports are published at
  com.docker.network.bridge.gateway_mode_ipv4=MODE       nat, routed or isolated
  com.docker.network.container_iface_prefix=PREFIX       names of interfaces, instead of eth
  com.docker.network.driver.mtu=MTU                      MTU of the interfaces
  com.docker.network.host_ipv4=IP                        address of the host that connections come from`

const networkCreateExample = `  usernet network create backend
  usernet network create --internal --label tier=data db
  usernet network create --ipv6 --subnet 172.28.0.0/16 --subnet fd12:3456::/64 br0
  usernet network create --opt com.docker.network.driver.mtu=1400 vpn`

// createOptions are the flags of network create.
type createOptions struct {
	driver, scope, configFrom     string
	attachable, internal, ingress bool
	configOnly                    bool
	ipv4, ipv6                    bool
	options, labels               []string
	ipamDriver                    string
	ipamOptions, aux              []string
	subnets, ipRanges, gateways   []string
	ipv4Given, ipv6Given          bool
}

func (a *app) networkCreateCommand() *cobra.Command {
	o := &createOptions{}
	cmd := &cobra.Command{
		Use:     "create [flags] NETWORK",
		Short:   "Create a network",
		Long:    networkCreateHelp,
		Example: networkCreateExample,
		Args:    wantArgs(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.ipv4Given, o.ipv6Given = cmd.Flags().Changed("ipv4"), cmd.Flags().Changed("ipv6")
			return a.networkCreate(cmd.Context(), o, args[0])
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVarP(&o.driver, "driver", "d", "bridge", "`DRIVER` to manage the network")
	fs.StringSliceVar(&o.subnets, "subnet", nil, "Subnet in `CIDR` format (default one from the address pools)")
	fs.StringSliceVar(&o.ipRanges, "ip-range", nil, "Take addresses of sandboxes from this part of a subnet, in `CIDR` format")
	fs.StringSliceVar(&o.gateways, "gateway", nil, "`IP` of the gateway of a subnet (default its first)")
	fs.Var(&list[string]{to: &o.aux, parse: one(parseMapping), kind: "name=ip"}, "aux-address", "Address that no sandbox is to get, with a name")
	fs.BoolVar(&o.ipv4, "ipv4", true, "Enable IPv4 addresses")
	fs.BoolVar(&o.ipv6, "ipv6", false, "Enable IPv6 addresses")
	fs.BoolVar(&o.internal, "internal", false, "Let nothing out of the network or in")
	fs.VarP(&list[string]{to: &o.options, parse: one(parseMapping), kind: "key=value"}, "opt", "o", "Option of the driver")
	fs.Var(&list[string]{to: &o.labels, parse: one(parseLabel), kind: "key=value"}, "label", "Metadata of the network")
	fs.StringVar(&o.ipamDriver, "ipam-driver", "default", "`DRIVER` to manage addresses")
	fs.Var(&list[string]{to: &o.ipamOptions, parse: one(parseMapping), kind: "key=value"}, "ipam-opt", "Option of the address driver")
	fs.StringVar(&o.scope, "scope", "", "`SCOPE` of the network: local")
	fs.BoolVar(&o.attachable, "attachable", false, "Let single sandboxes attach, where the network is a swarm's")
	fs.BoolVar(&o.ingress, "ingress", false, "Make a swarm's routing-mesh network")
	fs.BoolVar(&o.configOnly, "config-only", false, "Make only a configuration for other networks")
	fs.StringVar(&o.configFrom, "config-from", "", "`NETWORK` to take the configuration from")
	completeValues(cmd, map[string][]string{"driver": {"bridge", "host", "null"}, "scope": {"local"},
		"ipam-driver": {"default", "null"}, "opt": bridgeOptions})
	// The configurations are networks; an error would mean that the flag does not exist.
	_ = cmd.RegisterFlagCompletionFunc("config-from", a.completeNetworks(-1))
	noValueCompletion(cmd, "subnet", "ip-range", "gateway", "aux-address", "label", "ipam-opt")
	return cmd
}

// bridgeOptions are the options of the bridge driver, for completion.
var bridgeOptions = []string{
	"com.docker.network.bridge.enable_icc=", "com.docker.network.bridge.enable_ip_masquerade=",
	"com.docker.network.bridge.gateway_mode_ipv4=", "com.docker.network.bridge.gateway_mode_ipv6=",
	"com.docker.network.bridge.host_binding_ipv4=", "com.docker.network.bridge.name=",
	"com.docker.network.container_iface_prefix=", "com.docker.network.driver.mtu=",
	"com.docker.network.host_ipv4=", "com.docker.network.host_ipv6=",
}

// parseMapping reads KEY=VALUE; the value may be missing.
func parseMapping(s string) (string, error) {
	if k, _, _ := strings.Cut(s, "="); strings.TrimSpace(k) == "" {
		return "", fmt.Errorf("%q has no name; write KEY=VALUE", s)
	}
	return s, nil
}

// parseLabel reads a label as Docker does.
func parseLabel(s string) (string, error) {
	k, _, _ := strings.Cut(s, "=")
	if k = strings.TrimLeft(k, " \t"); k == "" {
		return "", fmt.Errorf("invalid label format: %q: empty name", s)
	}
	if strings.ContainsAny(k, " \t\r\n") {
		return "", fmt.Errorf("label %q contains whitespaces", k)
	}
	return s, nil
}

// mapping is a list of KEY=VALUE as a map; the last of a key counts.
func mapping(list []string) map[string]string {
	m := map[string]string{}
	for _, kv := range list {
		k, v, _ := strings.Cut(kv, "=")
		m[k] = v
	}
	return m
}

// completeValues completes flags that have a fixed set of values.
func completeValues(cmd *cobra.Command, values map[string][]string) {
	for name, vs := range values {
		directive := cobra.ShellCompDirectiveNoFileComp
		if strings.HasSuffix(vs[0], "=") {
			directive |= cobra.ShellCompDirectiveNoSpace
		}
		// An error would mean that the flag does not exist.
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(vs, directive))
	}
}

// noValueCompletion keeps the shell from offering files where they make no sense.
func noValueCompletion(cmd *cobra.Command, names ...string) {
	for _, name := range names {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
}

func (a *app) networkCreate(ctx context.Context, o *createOptions, name string) error {
	r, err := o.request(name)
	if err != nil {
		return &statusError{exitError, err}
	}
	e, err := a.engine(ctx)
	if err != nil {
		return err
	}
	got, err := e.NetworkCreate(ctx, r)
	if err != nil {
		return engineError(err)
	}
	if got.Warning != "" {
		a.warn(got.Warning)
	}
	return a.print(got.ID + "\n")
}

// request is what the flags ask for.
func (o *createOptions) request(name string) (network.CreateRequest, error) {
	subnets, err := o.ipamConfig()
	if err != nil {
		return network.CreateRequest{}, err
	}
	r := network.CreateRequest{
		Name: name, Driver: o.driver, Scope: o.scope,
		IPAM:     &network.IPAM{Driver: o.ipamDriver, Options: mapping(o.ipamOptions), Config: subnets},
		Internal: o.internal, Attachable: o.attachable, Ingress: o.ingress, ConfigOnly: o.configOnly,
		Options: mapping(o.options), Labels: mapping(o.labels),
	}
	if o.configFrom != "" {
		r.ConfigFrom = &network.ConfigReference{Network: o.configFrom}
	}
	if o.ipv4Given {
		r.EnableIPv4 = &o.ipv4
	}
	if o.ipv6Given {
		r.EnableIPv6 = &o.ipv6
	}
	return r, nil
}

// ipamConfig brings ranges, gateways and auxiliary addresses to the subnets they lie in. What it refuses, it refuses
// in the words of docker network create; the rest is the daemon's to judge.
func (o *createOptions) ipamConfig() ([]network.IPAMConfig, error) {
	if len(o.subnets) < len(o.ipRanges) || len(o.subnets) < len(o.gateways) {
		return nil, errors.New("every ip-range or gateway must have a corresponding subnet")
	}
	configs := make([]network.IPAMConfig, 0, len(o.subnets))
	for _, s := range o.subnets {
		p, err := parseCIDR(s)
		if err != nil {
			return nil, err
		}
		for _, c := range configs {
			if p.Overlaps(c.Subnet) {
				return nil, errors.New("multiple overlapping subnet configuration is not supported")
			}
		}
		configs = append(configs, network.IPAMConfig{Subnet: p})
	}
	for _, r := range o.ipRanges {
		p, err := parseCIDR(r)
		if err != nil {
			return nil, err
		}
		c := subnetOf(configs, p.Addr())
		switch {
		case c == nil:
			return nil, fmt.Errorf("no matching subnet for range %s", r)
		case c.IPRange.IsValid():
			return nil, fmt.Errorf("cannot configure multiple ranges (%s, %s) on the same subnet (%s)", r, c.IPRange, c.Subnet)
		}
		c.IPRange = p
	}
	for _, g := range o.gateways {
		// What is no address is in no subnet.
		addr, _ := netip.ParseAddr(g)
		c := subnetOf(configs, addr)
		switch {
		case c == nil:
			return nil, fmt.Errorf("no matching subnet for gateway %s", g)
		case c.Gateway.IsValid():
			return nil, fmt.Errorf("cannot configure multiple gateways (%s, %s) for the same subnet (%s)", g, c.Gateway, c.Subnet)
		}
		c.Gateway = addr
	}
	return configs, o.addAux(configs)
}

func (o *createOptions) addAux(configs []network.IPAMConfig) error {
	for _, kv := range o.aux {
		name, value, _ := strings.Cut(kv, "=")
		addr, _ := netip.ParseAddr(value)
		c := subnetOf(configs, addr)
		if c == nil {
			return fmt.Errorf("no matching subnet for aux-address %s", value)
		}
		if c.AuxAddress == nil {
			c.AuxAddress = map[string]netip.Addr{}
		}
		c.AuxAddress[name] = addr
	}
	return nil
}

// subnetOf is the one that contains a, or nil.
func subnetOf(configs []network.IPAMConfig, a netip.Addr) *network.IPAMConfig {
	for i := range configs {
		if configs[i].Subnet.Contains(a) {
			return &configs[i]
		}
	}
	return nil
}

// parseCIDR reads a prefix as it is written: whether host bits may be set is the daemon's to say.
func parseCIDR(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("invalid CIDR address: %s", s)
	}
	return p, nil
}
