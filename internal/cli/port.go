package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/usernet/usernet/internal/control/registry"
	"github.com/usernet/usernet/portfwd"
)

const portHelp = `Show and change the published ports of a running sandbox, which is named by --name, by
the id that ps shows, or by its process id.`

const portExample = `  usernet port web
  usernet port ls web
  usernet port ls web 80/tcp
  usernet port add web 8080:80 127.0.0.1:8443:443
  usernet port rm web 8080:80
  usernet port rm web 8443`

func (a *app) portCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "port COMMAND | SANDBOX [PORT[/tcp|udp]]",
		Short:   "Show and change the ports of a running sandbox",
		Long:    portHelp,
		Example: portExample,
		Args:    cobra.MatchAll(atMost(2, "a sandbox and a port")),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			// As docker port has it.
			return a.portList(cmd.Context(), args[0], args[1:])
		},
		ValidArgsFunction: completeSandbox,
	}
	ls := &cobra.Command{
		Use:     "ls SANDBOX [PORT[/tcp|udp]]",
		Short:   "List the published ports",
		Example: "  usernet port ls web\n  usernet port ls web 80",
		Args:    cobra.MatchAll(atLeast(1, "a sandbox"), atMost(2, "a sandbox and a port")),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.portList(cmd.Context(), args[0], args[1:])
		},
	}
	add := &cobra.Command{
		Use:     "add SANDBOX PUBLISH...",
		Short:   "Publish more ports, all or none",
		Long:    "Publish more ports of a running sandbox, all or none, in the forms of run --publish,\nand print them as they were bound.",
		Example: "  usernet port add web 8080:80\n  usernet port add web 127.0.0.1::53/udp",
		Args:    atLeast(2, "a sandbox and what to publish"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.portAdd(cmd.Context(), args[0], args[1:])
		},
	}
	rm := &cobra.Command{
		Use:   "rm SANDBOX PORT...",
		Short: "End published ports, all or none",
		Long: `End published ports of a running sandbox, all or none. Connections that were made
through them are reset. A port is named as it was published, HOSTPORT:PORT, or by the
host's port alone; without an address it is ended on all.`,
		Example: "  usernet port rm web 8080:80\n  usernet port rm web 5353/udp",
		Args:    atLeast(2, "a sandbox and its ports"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.portRemove(cmd.Context(), args[0], args[1:])
		},
	}
	for _, c := range []*cobra.Command{ls, add, rm} {
		c.ValidArgsFunction = completeSandbox
		cmd.AddCommand(c)
	}
	return cmd
}

func atLeast(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < n {
			return usagef("want %s", what)
		}
		return nil
	}
}

func atMost(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > n {
			return usagef("want %s, no more", what)
		}
		return nil
	}
}

// completeSandbox offers the names of running sandboxes as first argument.
func completeSandbox(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	d, err := registry.Open()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	defer d.Close()
	entries, err := d.List(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name+"\t"+shorten(strings.Join(e.Command, " ")))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// withSandbox finds a running sandbox and does something with it.
func withSandbox(ctx context.Context, nameOrPID string, do func(d *registry.Dir, id string) error) error {
	e, err := findSandbox(ctx, nameOrPID)
	if err != nil {
		return err
	}
	d, err := registry.Open()
	if err != nil {
		return err
	}
	defer d.Close()
	return do(d, e.Name)
}

func (a *app) portList(ctx context.Context, sandbox string, port []string) error {
	want := func(portfwd.Spec) bool { return true }
	if len(port) == 1 {
		n, proto, err := parsePort(port[0])
		if err != nil {
			return err
		}
		want = func(s portfwd.Spec) bool { return s.Port == n && (proto == "" || s.Proto == proto) }
	}
	return withSandbox(ctx, sandbox, func(d *registry.Dir, id string) error {
		all, err := d.Ports(ctx, id)
		if err != nil {
			return err
		}
		shown := slices.DeleteFunc(all, func(s portfwd.Spec) bool { return !want(s) })
		if len(port) == 1 && len(shown) == 0 {
			return fmt.Errorf("no public port %s published for %s", port[0], sandbox)
		}
		return a.print(listPorts(shown, len(port) == 0))
	})
}

// listPorts is what docker port prints: container side and host side, or the host side alone.
func listPorts(ports []portfwd.Spec, both bool) string {
	var b strings.Builder
	for _, s := range ports {
		if both {
			fmt.Fprintf(&b, "%d/%s -> ", s.Port, s.Proto)
		}
		b.WriteString(hostSide(s) + "\n")
	}
	return b.String()
}

// parsePort reads PORT[/PROTO]; proto is empty when none is given.
func parsePort(s string) (port uint16, proto portfwd.Proto, err error) {
	number, name, has := strings.Cut(s, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 {
		return 0, "", usagef("%q is not a port; write 80 or 80/udp", s)
	}
	if proto = portfwd.Proto(strings.ToLower(name)); has && proto != portfwd.TCP && proto != portfwd.UDP {
		return 0, "", usagef("%q is not a port: invalid proto: %s", s, name)
	}
	return uint16(n), proto, nil
}

func (a *app) portAdd(ctx context.Context, sandbox string, publish []string) error {
	var specs []portfwd.Spec
	for _, p := range publish {
		ss, err := portfwd.Parse(p)
		if err != nil {
			return &usageError{err}
		}
		specs = append(specs, ss...)
	}
	return withSandbox(ctx, sandbox, func(d *registry.Dir, id string) error {
		bound, err := d.AddPorts(ctx, id, specs)
		if err != nil {
			return err
		}
		return a.print(listPorts(bound, true))
	})
}

func (a *app) portRemove(ctx context.Context, sandbox string, ports []string) error {
	var specs []portfwd.Spec
	for _, p := range ports {
		ss, err := parseBound(p)
		if err != nil {
			return err
		}
		specs = append(specs, ss...)
	}
	return withSandbox(ctx, sandbox, func(d *registry.Dir, id string) error {
		return d.RemovePorts(ctx, id, specs)
	})
}

// parseBound reads a published port: any form of --publish that names the host's port, or that port
// alone. A Spec without a container's port stands for any.
func parseBound(s string) ([]portfwd.Spec, error) {
	if !strings.ContainsAny(s, ":=") {
		n, proto, err := parsePort(s)
		if err != nil {
			return nil, err
		}
		if proto == "" {
			proto = portfwd.TCP
		}
		return []portfwd.Spec{{Proto: proto, HostPort: n}}, nil
	}
	specs, err := portfwd.Parse(s)
	if err != nil {
		return nil, &usageError{err}
	}
	for _, spec := range specs {
		if spec.HostPort == 0 {
			return nil, usagef("%q: name the host's port", s)
		}
	}
	return specs, nil
}
