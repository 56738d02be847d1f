package pasta

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/usernet/usernet/compat/pasta/forward"
	"github.com/usernet/usernet/dnsproxy/resolvconf"
)

// exitFailure is the original's code for everything that goes wrong.
const exitFailure = 1

// Main is the whole life of the program: args begin with the name it was called by. It returns the exit code.
func Main(args, env []string, stdio [3]*os.File) int {
	o, err := Parse(args)
	var usageErr usageError
	var req request
	switch {
	case errors.As(err, &req):
		fmt.Fprint(stdio[1], req.text)
		return 0
	case errors.As(err, &usageErr):
		fmt.Fprintf(stdio[2], "%v\n%s", usageErr.error, usage(args[0]))
		return exitFailure
	case err != nil:
		fmt.Fprintln(stdio[2], err)
		return exitFailure
	}
	ready, env, err := inheritedReady(env)
	if err == nil && !o.Foreground && ready == nil {
		return background(args, env, stdio)
	}
	code := exitFailure
	if err == nil {
		code, err = newRunner(o, env, stdio, ready).run()
	}
	if err != nil {
		fmt.Fprintln(stdio[2], bindText(err))
	}
	return code
}

// runner is one pasta with a command line that makes sense.
type runner struct {
	o     *Options
	env   []string
	stdio [3]*os.File
	ready *os.File // nil in the foreground

	log     *slog.Logger
	level   slog.Level
	logFile *logFile // nil without -l
	// stderr is where other processes of ours log; in the background it is not our caller's.
	stderr *os.File
	conf   confSocket
	pcap   *os.File

	plan    *Plan
	in, out forward.Table
}

func newRunner(o *Options, env []string, stdio [3]*os.File, ready *os.File) *runner {
	return &runner{o: o, env: env, stdio: stdio, ready: ready}
}

// run does what the command line asks for, to its end.
func (r *runner) run() (code int, err error) {
	defer func() { err = errors.Join(err, r.release()) }()
	if err := r.prepare(); err != nil {
		return exitFailure, err
	}
	if r.o.Spawns() {
		return r.spawn()
	}
	return r.attach()
}

// prepare decides everything and opens what can be refused, before anything is made.
func (r *runner) prepare() error {
	if err := checkRunAs(r.o.RunAs); err != nil {
		return err
	}
	if err := r.openFiles(); err != nil {
		return err
	}
	for _, w := range r.o.Warnings {
		r.say(w)
	}
	template4, template6 := r.o.Interface, r.o.Interface
	if template4 == "" {
		template4, template6 = r.o.OutboundIf4, r.o.OutboundIf6
	}
	var host Host
	var err error
	if !r.o.SpliceOnly {
		if host, err = readHost(template4, template6, !r.o.NoIPv4, !r.o.NoIPv6); err != nil {
			return err
		}
	}
	resolv, err := readResolv()
	if err != nil {
		return fmt.Errorf("Error reading /etc/resolv.conf: %w", err)
	}
	if r.plan, err = makePlan(r.o, host, resolv); err != nil {
		return err
	}
	n := &r.plan.Network
	if r.in, r.out, err = r.o.Tables(n.Subnet4.IsValid(), n.Subnet6.IsValid(), forward.Ephemeral()); err != nil {
		return err
	}
	for _, w := range r.plan.Warnings {
		r.say(w)
	}
	if !r.o.Quiet {
		r.say(r.summary(host))
	}
	return nil
}

// openFiles opens all that the command line names, while paths mean what our caller meant.
func (r *runner) openFiles() (err error) {
	var out io.Writer = io.Discard
	r.stderr = r.stdio[2]
	switch {
	case r.o.LogFile != "":
		if r.logFile, err = openLog(r.o.LogFile, r.o.LogSize); err != nil {
			return err
		}
		out = r.logFile
	case r.o.Debug:
		out = r.stdio[2]
	}
	r.level = slog.LevelInfo
	switch {
	case r.o.Debug:
		r.level = slog.LevelDebug
	case r.o.Quiet:
		r.level = slog.LevelWarn
	}
	r.log = slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: r.level}))
	if r.ready != nil || r.o.LogFile != "" {
		if r.stderr, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
			return err
		}
	}
	if r.o.Pcap != "" {
		if r.pcap, err = os.OpenFile(r.o.Pcap, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
			return fmt.Errorf("Couldn't open pcap file %s: %w", r.o.Pcap, err)
		}
	}
	if r.o.ConfPath != "" {
		return r.conf.listen(r.o.ConfPath)
	}
	return nil
}

// release closes what openFiles opened.
func (r *runner) release() error {
	var errs []error
	if r.pcap != nil {
		errs = append(errs, r.pcap.Close())
	}
	if r.stderr != nil && r.stderr != r.stdio[2] {
		errs = append(errs, r.stderr.Close())
	}
	r.conf.close()
	if r.logFile != nil {
		errs = append(errs, r.logFile.Close())
	}
	return errors.Join(errs...)
}

// say tells the user, in the log file if there is one.
func (r *runner) say(text string) {
	if text == "" {
		return
	}
	if r.logFile != nil {
		r.log.Info(text)
		return
	}
	fmt.Fprintln(r.stdio[2], strings.TrimRight(text, "\n"))
}

// summary is what the original says of its configuration.
func (r *runner) summary(h Host) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if r.o.ConfPath != "" {
		line("Configuration socket: %s", r.o.ConfPath)
	}
	var template []string
	for _, t := range []struct{ device, family string }{{h.V4.Device, "IPv4"}, {h.V6.Device, "IPv6"}} {
		if t.device != "" {
			template = append(template, fmt.Sprintf("%s (%s)", t.device, t.family))
		}
	}
	if len(template) > 0 {
		line("Template interface: %s", strings.Join(template, ", "))
	}
	n := &r.plan.Network
	line("Namespace interface: %s", r.plan.Link.Name)
	line("MAC:\n    host: %v", n.GatewayMAC)
	for _, m := range n.Policy.Maps {
		line("    NAT to host %v: %v", m.To, m.From)
	}
	if n.Subnet4.IsValid() && !n.Autoconf.NoDHCP4 {
		line("DHCP:\n    assign: %v\n    mask: %d\n    router: %v", r.plan.Endpoint.Addrs[0], n.Subnet4.Bits(), n.Gateway4)
	}
	if n.Subnet6.IsValid() && !n.Autoconf.NoNDP {
		line("NDP/DHCPv6:\n    prefix: %v\n    router: %v", n.Subnet6, n.Gateway6)
	}
	for _, t := range []struct {
		title string
		table forward.Table
	}{{"Inbound forwarding rules (HOST):", r.in}, {"Outbound forwarding rules (SPLICE):", r.out}} {
		line("%s", t.title)
		for _, rule := range t.table.Rules {
			line("    %v", rule)
		}
	}
	return b.String()
}

// readResolv reads the host's resolv.conf. A host without one has nothing to say.
func readResolv() (Resolv, error) {
	b, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !os.IsNotExist(err) {
		return Resolv{}, err
	}
	// Servers with a zone are of the host's own links.
	c := resolvconf.Parse(b, func(string) (int, bool) { return 0, false })
	return Resolv{c.Nameservers, c.Search}, nil
}

// writePID writes the number of this process; the original does it last, before it goes to the background.
func (r *runner) writePID() error {
	if r.o.PIDFile == "" {
		return nil
	}
	if err := os.WriteFile(r.o.PIDFile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return fmt.Errorf("Couldn't open PID file %s: %w", r.o.PIDFile, err)
	}
	return nil
}
