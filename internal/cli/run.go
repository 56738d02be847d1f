package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/shim"
)

const runHelp = `Run CMD in a sandbox: new user, mount and network namespaces, with a network of its
own. Inside, eth0 has an IPv4 and an IPv6 address, a gateway and a name server; what
CMD connects to is connected to by usernet on the host, as an ordinary process.

The command's exit code is CMD's own, 128+n when signal n ended it, 126 when CMD
cannot be executed, 127 when it was not found, and 125 when usernet itself failed.
Flags end at CMD; -- before it is optional.

Users inside (--map):
  root   you are root, nobody else exists (default)
  keep   you are yourself, nobody else exists, and you have no capabilities
  auto   you are root, and your subordinate ids (/etc/subuid) are the other users;
         what podman and others that make containers need

Networks (--network):
  private   a network of usernet's own (default)
  none      lo only
  host      the host's network; published ports are discarded

host-gateway in --add-host stands for the gateway with --host-loopback, else for the
host's own address on its default route.`

const runExample = `  # a shell
  usernet run -- bash

  # port 80 of the sandbox at port 5000 of the host
  usernet run --publish 5000:80 -- python3 -m http.server 80

  # a free port on the loopback address only, and a name to ask for it
  usernet run --name web -p 127.0.0.1::80 -- python3 -m http.server 80 &
  usernet port ls web

  # services of the host's loopback, at the gateway's address
  usernet run --host-loopback --add-host host:host-gateway -- curl http://host:8080

  # podman inside
  usernet run --map auto -p 5000:80 -- podman run --network host httpd`

// runOptions are the flags of run.
type runOptions struct {
	netOptions
	network  shim.NetworkMode
	mapping  shim.IDMap
	hostname string
	options  []string
	env      []string
	workdir  string
}

func (a *app) runCommand() *cobra.Command {
	o := &runOptions{network: shim.NetworkPrivate, mapping: shim.MapRoot}
	cmd := &cobra.Command{
		Use:     "run [flags] [--] CMD [ARG...]",
		Short:   "Run a command in a sandbox with a network",
		Long:    runHelp,
		Example: runExample,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("a command to run is missing, as in: usernet run -- bash")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			code, err := a.run(cmd.Context(), o, args)
			a.code = code
			return failure(err)
		},
		// What follows CMD is CMD's.
		DisableFlagsInUseLine: true,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.SetInterspersed(false)
	addNetFlags(fs, &o.netOptions)
	fs.Var(&value[shim.NetworkMode]{to: &o.network, parse: parseNetwork, show: func(m shim.NetworkMode) string { return string(m) }, kind: "network"},
		"network", "private, none or host")
	fs.Var(&value[shim.IDMap]{to: &o.mapping, parse: shim.ParseIDMap, show: func(m shim.IDMap) string { return string(m) }, kind: "map"},
		"map", "Users inside: root, keep or auto")
	fs.Var(&value[string]{to: &o.hostname, parse: parseHostname, show: identity, kind: "name"}, "hostname",
		"Host name inside (default the sandbox's name, else the host's)")
	fs.Var(&list[string]{to: &o.options, parse: one(parseWord), kind: "option"}, "dns-option",
		"Option for resolv.conf (default those of the host)")
	fs.StringArrayVarP(&o.env, "env", "e", nil, "`KEY=VALUE` for CMD's environment; KEY alone takes the value here")
	fs.StringVarP(&o.workdir, "workdir", "w", "", "`DIR` to run CMD in (default the current one)")
	a.completeFlags(cmd)
	return cmd
}

func parseNetwork(s string) (shim.NetworkMode, error) {
	switch m := shim.NetworkMode(strings.ToLower(s)); m {
	case shim.NetworkPrivate, shim.NetworkNone, shim.NetworkHost:
		return m, nil
	}
	if strings.HasPrefix(s, "container:") {
		return "", fmt.Errorf("network %s: joining another sandbox's network is not supported; use private, none or host", s)
	}
	return "", fmt.Errorf("network %s not found; there are private, none and host", s)
}

// check refuses what cannot be before anything is made, and settles what depends on several flags.
func (o *runOptions) check(a *app) error {
	for _, e := range o.env {
		if k, _, _ := strings.Cut(e, "="); k == "" {
			return usagef("--env %q: invalid environment variable: it has no name", e)
		}
		if strings.ContainsRune(e, 0) {
			return usagef("--env %q: it contains a zero byte", e)
		}
	}
	if o.workdir != "" {
		if st, err := os.Stat(o.workdir); err != nil {
			return usagef("--workdir: %w", err)
		} else if !st.IsDir() {
			return usagef("--workdir %s: not a directory", o.workdir)
		}
	}
	switch o.network {
	case shim.NetworkHost:
		if len(o.publish) > 0 {
			fmt.Fprintf(a.stdio.Err, "%s Published ports are discarded when using host network mode\n",
				painter(a.stdio.Err, a.env).yellow("WARNING:"))
			o.publish = nil
		}
	case shim.NetworkNone:
		if len(o.publish) > 0 {
			return usagef("--publish: with --network none there is nothing to forward to; use --network private")
		}
	}
	return o.checkHost()
}

// run runs a sandbox to its end.
func (a *app) run(ctx context.Context, o *runOptions, command []string) (int, error) {
	if err := o.check(a); err != nil {
		return 0, err
	}
	log := o.log.logger(a.stdio.Err)
	cfg := shim.Config{
		Command: command, Dir: o.workdir, Map: o.mapping, Network: o.network,
		Stdio: [3]*os.File{a.stdio.In, a.stdio.Out, a.stdio.Err},
		Log:   log, InitLog: o.log.forInit(),
	}
	hostname, err := o.hostnameInside()
	if err != nil {
		return 0, err
	}
	if o.network != shim.NetworkHost || o.hostname != "" {
		cfg.Hostname = hostname
	}
	id := sandboxID(o.name)
	p, err := makePlan(&o.netOptions, id, "eth0")
	if err != nil {
		return 0, err
	}
	if cfg.Files, err = o.files(p, hostname); err != nil {
		return 0, err
	}
	cfg.Env = o.environment(a.env, cfg.Hostname)
	if o.network == shim.NetworkPrivate {
		s := &session{app: a, netOptions: &o.netOptions, plan: p, id: id, kind: "run", command: command, log: log}
		p.endpoint.Names = names(o.name, hostname)
		if err := s.open(); err != nil {
			return 0, err
		}
		defer s.close()
		cfg.Links, cfg.Routes, cfg.Start = []plumb.Link{p.link}, p.routes, s.start
	}
	return shim.Run(ctx, cfg)
}

// hostnameInside is the host name of the sandbox.
func (o *runOptions) hostnameInside() (string, error) {
	if o.hostname != "" {
		return o.hostname, nil
	}
	if h, err := parseHostname(o.name); err == nil && o.network != shim.NetworkHost {
		return h, nil
	}
	h, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("get host name: %w; give one with --hostname", err)
	}
	return h, nil
}

// names are those by which the Network's DNS knows the sandbox.
func names(all ...string) (ns []string) {
	seen := map[string]bool{"": true}
	for _, n := range all {
		if !seen[n] {
			ns = append(ns, n)
		}
		seen[n] = true
	}
	return ns
}

// environment is CMD's: the caller's, then what the sandbox makes different, then --env.
func (o *runOptions) environment(env []string, hostname string) []string {
	e := newEnviron(env)
	if hostname != "" {
		e.set("HOSTNAME", hostname)
	}
	if o.mapping == shim.MapAuto && os.Geteuid() != 0 {
		// podman and buildah would make a user namespace of their own otherwise, which the ids left
		// inside are too few for.
		e.setDefault("_CONTAINERS_USERNS_CONFIGURED", "done")
		e.setDefault("_CONTAINERS_ROOTLESS_UID", fmt.Sprint(os.Geteuid()))
		e.setDefault("_CONTAINERS_ROOTLESS_GID", fmt.Sprint(os.Getegid()))
	}
	for _, kv := range o.env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			e.set(k, v)
		}
		// KEY alone: the caller's environment is there already.
	}
	return e.list
}

// environ is an environment in the order it was given, each name once.
type environ struct {
	list []string
	at   map[string]int
}

func newEnviron(env []string) *environ {
	e := &environ{at: map[string]int{}}
	for _, kv := range env {
		if k, v, ok := strings.Cut(kv, "="); ok && k != "" {
			e.set(k, v)
		}
	}
	return e
}

func (e *environ) set(k, v string) {
	if i, ok := e.at[k]; ok {
		e.list[i] = k + "=" + v
		return
	}
	e.at[k] = len(e.list)
	e.list = append(e.list, k+"="+v)
}

func (e *environ) setDefault(k, v string) {
	if _, ok := e.at[k]; !ok {
		e.set(k, v)
	}
}
