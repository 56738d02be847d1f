package cli

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/moby/moby/api/types/network"
	"github.com/spf13/cobra"
)

const networkConnectHelp = `Connect a running sandbox to a network: it gets another interface, with an address, at
once, and its names are known there.`

const networkDisconnectHelp = `Disconnect a sandbox from a network: the interface goes, and its names with it. With
--force also an endpoint whose sandbox has vanished, by the sandbox's name.`

// connectOptions are the flags of network connect.
type connectOptions struct {
	aliases, links, linkLocal, driverOpts []string
	ip, ip6                               netip.Addr
	gwPriority                            int
}

func (a *app) networkConnectCommand() *cobra.Command {
	o := &connectOptions{}
	cmd := &cobra.Command{
		Use:     "connect [flags] NETWORK SANDBOX",
		Short:   "Connect a sandbox to a network",
		Long:    networkConnectHelp,
		Example: "  usernet network connect frontend web\n  usernet network connect --ip 172.28.5.10 --alias db br0 postgres",
		Args:    wantArgs(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.networkConnect(cmd.Context(), o, args[0], args[1])
		},
		ValidArgsFunction: a.completeNetworkThenSandbox,
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringSliceVar(&o.aliases, "alias", nil, "`NAME` for the sandbox in this network")
	fs.Var(&value[netip.Addr]{to: &o.ip, parse: parseAddr4, show: showAddr, kind: "ip"}, "ip", "IPv4 address (default one of the network's)")
	fs.Var(&value[netip.Addr]{to: &o.ip6, parse: parseAddr6, show: showAddr, kind: "ip"}, "ip6", "IPv6 address (default one of the network's)")
	fs.Var(&list[string]{to: &o.links, parse: one(parseLink), kind: "sandbox[:name]"}, "link", "Name of another sandbox, for this one alone")
	fs.StringSliceVar(&o.linkLocal, "link-local-ip", nil, "Further link-local `IP`")
	fs.Var(&list[string]{to: &o.driverOpts, parse: one(parseDriverOpt), kind: "key=value"}, "driver-opt", "Option of the network's driver")
	fs.IntVar(&o.gwPriority, "gw-priority", 0, "The network of the highest `NUMBER` has the default route")
	noValueCompletion(cmd, "alias", "ip", "ip6", "link-local-ip", "driver-opt", "gw-priority")
	_ = cmd.RegisterFlagCompletionFunc("link", completeSandbox)
	return cmd
}

// parseLink reads SANDBOX[:NAME].
func parseLink(s string) (string, error) {
	parts := strings.Split(s, ":")
	if s == "" {
		return "", fmt.Errorf("empty string specified for links")
	}
	if len(parts) > 2 || parts[0] == "" || parts[len(parts)-1] == "" {
		return "", fmt.Errorf("bad format for links: %s", s)
	}
	return s, nil
}

// parseDriverOpt reads KEY=VALUE, both there.
func parseDriverOpt(s string) (string, error) {
	if k, _, ok := strings.Cut(s, "="); !ok || k == "" {
		return "", fmt.Errorf("invalid key value pair format in driver options")
	}
	return s, nil
}

func (a *app) networkConnect(ctx context.Context, o *connectOptions, ref, sandbox string) error {
	settings, err := o.settings()
	if err != nil {
		return err
	}
	e, err := a.engine(ctx)
	if err != nil {
		return err
	}
	return engineError(e.NetworkConnect(ctx, ref, network.ConnectRequest{Container: sandbox, EndpointConfig: settings}))
}

func (o *connectOptions) settings() (*network.EndpointSettings, error) {
	s := &network.EndpointSettings{
		IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: o.ip, IPv6Address: o.ip6},
		Links:      o.links, Aliases: o.aliases, GwPriority: o.gwPriority,
	}
	if o.driverOpts != nil {
		s.DriverOpts = mapping(o.driverOpts)
	}
	for _, l := range o.linkLocal {
		addr, err := netip.ParseAddr(l)
		if err != nil {
			return nil, usagef("--link-local-ip: %q is not an IP address", l)
		}
		s.IPAMConfig.LinkLocalIPs = append(s.IPAMConfig.LinkLocalIPs, addr)
	}
	return s, nil
}

func (a *app) networkDisconnectCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "disconnect [flags] NETWORK SANDBOX",
		Short:   "Disconnect a sandbox from a network",
		Long:    networkDisconnectHelp,
		Example: "  usernet network disconnect frontend web\n  usernet network disconnect --force backend gone",
		Args:    wantArgs(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			e, err := a.engine(ctx)
			if err != nil {
				return err
			}
			return engineError(e.NetworkDisconnect(ctx, args[0], network.DisconnectRequest{Container: args[1], Force: force}))
		},
		ValidArgsFunction: a.completeNetworkThenSandbox,
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Also when the sandbox has vanished")
	return cmd
}
