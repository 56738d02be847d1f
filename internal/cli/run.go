package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/control/registry"
	"github.com/usernet/usernet/internal/daemon"
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
  private          a network of usernet's own, for this sandbox alone (default)
  NAME             a network of "usernet network create", with the others that are in it;
                   repeatable, or with fields: name=NAME,alias=NAME,ip=IP,ip6=IP,
                   mac-address=MAC,link-local-ip=IP,gw-priority=N,driver-opt=KEY=VALUE
  bridge, default  the default network; what --link, --expose and --publish-all imply
  none             lo only
  host             the host's network; published ports are discarded
  container:NAME   that of another sandbox

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
	legOptions
	netOptions
	// mode and, with modeContainer, donor are what the networks come to; network is mode as the shim has it.
	mode     mode
	donor    string
	network  shim.NetworkMode
	detach   bool
	reportFD int
	mapping  shim.IDMap
	hostname string
	options  []string
	env      []string
	workdir  string
}

func (a *app) runCommand() *cobra.Command {
	return a.runCommandWith(&runOptions{mapping: shim.MapRoot})
}

// runCommandWith makes the command with o to hold its flags.
func (a *app) runCommandWith(o *runOptions) *cobra.Command {
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
			if o.reportFD >= 0 {
				a.reporter = openReporter(o.reportFD)
			}
			if err := o.check(a, cmd.Flags()); err != nil {
				return failure(err)
			}
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
	a.addLegFlags(cmd, &o.legOptions, "Network to be in, as above (default private)")
	fs.Var(&value[shim.IDMap]{to: &o.mapping, parse: shim.ParseIDMap, show: func(m shim.IDMap) string { return string(m) }, kind: "map"},
		"map", "Users inside: root, keep or auto")
	fs.Var(&value[string]{to: &o.hostname, parse: parseHostname, show: identity, kind: "name"}, "hostname",
		"Host name inside (default the sandbox's name, else the host's)")
	fs.Var(&list[string]{to: &o.options, parse: one(parseWord), kind: "option"}, "dns-option",
		"Option for resolv.conf (default those of the host)")
	fs.StringArrayVarP(&o.env, "env", "e", nil, "`KEY=VALUE` for CMD's environment; KEY alone takes the value here")
	fs.StringVarP(&o.workdir, "workdir", "w", "", "`DIR` to run CMD in (default the current one)")
	fs.Var(&value[string]{to: &o.domainname, parse: parseHostname, show: identity, kind: "name"}, "domainname", "Domain of the host name")
	fs.Var(&list[string]{to: &o.labels, parse: one(parseLabel), kind: "key=value"}, "label", "Metadata, for ps and inspect")
	fs.BoolVarP(&o.detach, "detach", "d", false, "Run in the background; print the id once CMD runs")
	fs.IntVar(&o.reportFD, reportFlag, -1, "Descriptor of the report of a detached start")
	_ = fs.MarkHidden(reportFlag)
	addIgnored(fs, "rm", "interactive", "tty")
	a.completeFlags(cmd)
	noValueCompletion(cmd, "domainname", "label")
	return cmd
}

// ignored are flags of docker run that say here what is so anyway.
var ignored = map[string]struct{ short, usage string }{
	"rm":          {"", "Accepted: a sandbox never leaves anything behind"},
	"interactive": {"i", "Accepted: CMD has the standard input there is"},
	"tty":         {"t", "Accepted: CMD has the terminal there is"},
}

// addIgnored defines some of them, for who types them out of habit.
func addIgnored(fs *pflag.FlagSet, names ...string) {
	for _, name := range names {
		fs.BoolP(name, ignored[name].short, false, ignored[name].usage)
	}
}

// check refuses what cannot be before anything is made, and settles what depends on several flags.
func (o *runOptions) check(a *app, fs *pflag.FlagSet) (err error) {
	if o.mode, o.donor, err = o.settle(&o.netOptions); err != nil {
		return err
	}
	o.network = shimModes[o.mode]
	if err := checkForeign(fs, o.mode); err != nil {
		return err
	}
	if err := o.checkConflicts(o.mode); err != nil {
		return err
	}
	if err := checkEnv(o.env); err != nil {
		return err
	}
	if o.workdir != "" {
		if st, err := os.Stat(o.workdir); err != nil {
			return usagef("--workdir: %w", err)
		} else if !st.IsDir() {
			return usagef("--workdir %s: not a directory", o.workdir)
		}
	}
	switch o.mode {
	case modeHost:
		if len(o.publish) > 0 {
			a.warn("Published ports are discarded when using host network mode")
			o.publish = nil
		}
	case modeNone:
		if len(o.publish) > 0 {
			return usagef("--publish: with --network none there is nothing to forward to; use --network private")
		}
	}
	return o.checkHost()
}

// checkEnv refuses variables that the kernel would not take.
func checkEnv(env []string) error {
	for _, e := range env {
		if k, _, _ := strings.Cut(e, "="); k == "" {
			return usagef("--env %q: invalid environment variable: it has no name", e)
		}
		if strings.ContainsRune(e, 0) {
			return usagef("--env %q: it contains a zero byte", e)
		}
	}
	return nil
}

// run runs a sandbox to its end.
func (a *app) run(ctx context.Context, o *runOptions, command []string) (int, error) {
	if o.detach && a.reporter == nil {
		return 0, a.detach()
	}
	s := a.newSession("run", &o.netOptions, command)
	s.entry.Mode, s.entry.Labels = o.networks[0].Network, o.labelMap()
	hostname, err := o.hostnameInside(s.entry)
	if err != nil {
		return 0, err
	}
	s.entry.Hostname = hostname
	cfg := shim.Config{
		Command: command, Dir: o.workdir, Map: o.mapping, Network: o.network,
		Stdio: [3]*os.File{a.stdio.In, a.stdio.Out, a.stdio.Err},
		Log:   s.log, InitLog: o.log.forInit(),
		Reap: daemon.Reap,
	}
	if o.network != shim.NetworkHost || o.hostname != "" {
		cfg.Hostname = hostname
	}
	if err := s.open(); err != nil {
		return 0, err
	}
	defer s.close()
	done, err := s.bringUp(ctx, o, &cfg)
	if err != nil {
		return 0, err
	}
	defer done()
	return shim.Run(ctx, cfg)
}

// bringUp says in cfg what the sandbox's network is. done is to be called when the sandbox has ended.
func (s *session) bringUp(ctx context.Context, o *runOptions, cfg *shim.Config) (done func(), err error) {
	done = func() {}
	var links []string // variables
	switch o.mode {
	case modeNamed:
		c := o.sandboxConfig(&o.netOptions, s.entry)
		c.DNSOptions, c.Env = o.options, o.givenEnv(s.env)
		client, joined, err := s.join(ctx, c)
		if err != nil {
			return nil, err
		}
		// The shim closes it too, if it comes to that.
		done = func() { _ = client.Close() }
		cfg.Links, cfg.Routes, cfg.Files, cfg.Start = joined.Links, joined.Routes, joined.Files, s.startJoined(client)
		links = joined.Env
	case modeContainer:
		if err := s.share(ctx, o.donor, cfg); err != nil {
			return nil, err
		}
	default:
		p, err := makePlan(&o.netOptions, s.entry.Name, "eth0")
		if err != nil {
			return nil, err
		}
		p.endpoint.Names = names(o.name, s.entry.Hostname)
		if cfg.Files, err = o.files(p, s.entry.Hostname); err != nil {
			return nil, err
		}
		cfg.Start = s.startBare
		if o.mode == modePrivate {
			cfg.Links, cfg.Routes, cfg.Start = []plumb.Link{p.link}, p.routes, s.startPrivate(p)
		}
	}
	cfg.Env = o.environment(s.env, cfg.Hostname, links)
	return done, nil
}

// shimModes are the modes as the shim has them: whose packets the interface carries is not its business.
var shimModes = map[mode]shim.NetworkMode{
	modePrivate: shim.NetworkPrivate, modeNamed: shim.NetworkPrivate,
	modeNone: shim.NetworkNone, modeContainer: shim.NetworkNone, modeHost: shim.NetworkHost,
}

// labelMap is --label.
func (o *legOptions) labelMap() map[string]string {
	if o.labels == nil {
		return nil
	}
	return mapping(o.labels)
}

// hostnameInside is the host name of the sandbox. In named networks it is a name that others look up, so it is the
// sandbox's own: its short id, as Docker has it.
func (o *runOptions) hostnameInside(e registry.Entry) (string, error) {
	if o.hostname != "" {
		return o.hostname, nil
	}
	if o.mode == modeNamed {
		return registry.ShortID(e.ID), nil
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

// environment is CMD's: the caller's, then what the sandbox makes different, variables of links among it, then --env.
func (o *runOptions) environment(env []string, hostname string, links []string) []string {
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
	for _, kv := range links {
		k, v, _ := strings.Cut(kv, "=")
		e.set(k, v)
	}
	for _, kv := range o.env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			e.set(k, v)
		}
		// KEY alone: the caller's environment is there already.
	}
	return e.list
}

// givenEnv is --env with the values that KEY alone takes from the caller's environment: what links copy.
func (o *runOptions) givenEnv(env []string) []string {
	all := newEnviron(env)
	var given []string
	for _, kv := range o.env {
		if !strings.Contains(kv, "=") {
			i, ok := all.at[kv]
			if !ok {
				continue
			}
			kv = all.list[i]
		}
		given = append(given, kv)
	}
	return given
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
