package cli

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/usernet/usernet/cnm/plumb"
	"github.com/usernet/usernet/internal/shim"
)

const attachHelp = `Give the network namespace of process PID, or the one at --netns PATH, a network.
usernet stays in the foreground: the network ends with the process, with the path,
or with SIGINT or SIGTERM, and the interface goes with it.

The user namespace that owns the network namespace is entered too; --userns names
another.

In a private network the files of PID are not touched: the name server is at 10.0.2.3
(the 3rd address of --subnet), and names of --add-host are answered by it. In a named
one /etc/resolv.conf, hosts and hostname are written, as in a container of Docker, where
PID has its own and not the host's; with --netns there is nothing to write to.

--ready-fd N: when the network works, "1" is written to descriptor N, which usernet
inherited, and it is closed.`

const attachExample = `  # a container that podman made without a network
  podman run --detach --network none --name web httpd
  usernet attach --publish 5000:80 $(podman inspect --format '{{.State.Pid}}' web)

  # a namespace with a name, from a script that waits until the network works
  usernet attach --netns /run/user/1000/netns/build --ready-fd 3 3>ready.fifo &
  read -N1 < ready.fifo`

// attachOptions are the flags of attach.
type attachOptions struct {
	legOptions
	netOptions
	mode          mode
	netns, userns string
	dev           string
	readyFD       int
	pid           int
}

func (a *app) attachCommand() *cobra.Command {
	o := &attachOptions{}
	cmd := &cobra.Command{
		Use:     "attach [flags] PID | --netns PATH",
		Short:   "Give an existing namespace a network",
		Long:    attachHelp,
		Example: attachExample,
		Args: func(_ *cobra.Command, args []string) (err error) {
			switch {
			case len(args) == 0 && o.netns != "":
				return nil
			case len(args) != 1 || o.netns != "":
				return usagef("want one PID or --netns PATH")
			}
			if o.pid, err = strconv.Atoi(args[0]); err != nil || o.pid <= 0 {
				return usagef("%q is not the number of a process", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(cmd.Flags()); err != nil {
				return err
			}
			return failure(a.attach(cmd.Context(), o))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&o.netns, "netns", "", "`PATH` of the network namespace")
	fs.StringVar(&o.userns, "userns", "", "`PATH` of the user namespace (default the one that owns the network namespace)")
	fs.Var(&value[string]{to: &o.dev, parse: parseInterface, show: identity, kind: "name"}, "interface",
		"Name of the interface to make")
	o.dev = "eth0"
	fs.IntVar(&o.readyFD, "ready-fd", -1, "Descriptor `N` to write \"1\" to when the network works")
	fs.Lookup("ready-fd").DefValue = "0" // as the help has it: none
	addNetFlags(fs, &o.netOptions)
	a.addLegFlags(cmd, &o.legOptions, "Network to be in: private (default) or the name of one, with fields as in run")
	a.completeFlags(cmd)
	return cmd
}

// parseInterface reads a name that the kernel takes (dev_valid_name in net/core/dev.c).
func parseInterface(s string) (string, error) {
	const maxInterface = 15
	if s == "" || len(s) > maxInterface || s == "." || s == ".." {
		return "", fmt.Errorf("invalid interface name %q: want 1 to %d bytes", s, maxInterface)
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c == '/' || c == ':' || c >= 0x7f {
			return "", fmt.Errorf("invalid interface name %q: it has a blank, a slash or a colon", s)
		}
	}
	return s, nil
}

// check refuses what cannot be before anything is made.
func (o *attachOptions) check(fs *pflag.FlagSet) (err error) {
	if o.mode, _, err = o.settle(&o.netOptions); err != nil {
		return err
	}
	if o.mode != modePrivate && o.mode != modeNamed {
		return usagef("--network %s: there is nothing to attach; use private or the name of a network", o.networks[0].Network)
	}
	if err := checkForeign(fs, o.mode); err != nil {
		return err
	}
	if o.mode == modeNamed && fs.Changed("interface") {
		return usagef("--interface: the network names its interfaces; make one with: " +
			"usernet network create --opt com.docker.network.container_iface_prefix=PREFIX")
	}
	return o.checkHost()
}

// attach serves a namespace to its end.
func (a *app) attach(ctx context.Context, o *attachOptions) error {
	ready, err := openReady(o.readyFD)
	if err != nil {
		return err
	}
	s := a.newSession("attach", &o.netOptions, o.command())
	s.entry.Mode = o.networks[0].Network
	cfg := shim.AttachConfig{
		PID: o.pid, Netns: o.netns, Userns: o.userns, Ready: ready, Log: s.log, HelperLog: o.log.forInit(),
	}
	if err := s.open(); err != nil {
		return err
	}
	defer s.close()
	if o.mode == modeNamed {
		client, joined, err := s.join(ctx, o.sandboxConfig(&o.netOptions, s.entry))
		if err != nil {
			return err
		}
		// The shim closes it too, if it comes to that.
		defer client.Close()
		cfg.Links, cfg.Routes, cfg.Files, cfg.Start = joined.Links, joined.Routes, joined.Files, s.startJoined(client)
		return shim.Attach(ctx, cfg)
	}
	p, err := makePlan(&o.netOptions, s.entry.Name, o.dev)
	if err != nil {
		return err
	}
	p.endpoint.Names = names(o.name)
	cfg.Links, cfg.Routes, cfg.Start = []plumb.Link{p.link}, p.routes, s.startPrivate(p)
	return shim.Attach(ctx, cfg)
}

// command is what ps shows of an attached namespace.
func (o *attachOptions) command() []string {
	if o.netns != "" {
		return []string{o.netns}
	}
	return []string{"process", strconv.Itoa(o.pid)}
}

// openReady takes over the descriptor that our caller left open for us.
func openReady(fd int) (*os.File, error) {
	if fd < 0 {
		return nil, nil
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return nil, usagef("--ready-fd %d: %w; open it in the shell, as in: usernet attach --ready-fd 3 ... 3>ready.fifo", fd, err)
	}
	return os.NewFile(uintptr(fd), "ready descriptor"), nil
}
