package slirp4netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/usernet/usernet/compat/getopt"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/tap"
)

// minMTU6 is the least MTU IPv6 works with (RFC 8200 section 5).
const minMTU6 = 1280

// target is what the frames come from.
type target string

const (
	targetPID   target = "pid"
	targetPath  target = "path"
	targetTAPFD target = "tapfd" // since 1.3.0
	targetBESS  target = "bess"
)

// options are a command line that was understood.
type options struct {
	target target
	pid    int
	path   string // of the network namespace, or of the socket to listen on
	tapFD  int
	tap    string // name of the interface
	userns string

	configure       bool
	exitFD, readyFD int // -1: none
	mtu             int
	ipv6            bool
	apiSocket       string
	cidr            netip.Prefix
	noHostLoopback  bool
	noDNS           bool
	out4, out6      netip.Addr
	mac             l2.MAC
	surplus         bool // there were more words than it takes

	help, version bool
}

// Values of the options without a letter.
const (
	optCIDR rune = 0x100 + iota
	optNoHostLoopback
	optNetnsType
	optUserns
	optSandbox
	optSeccomp
	optOutbound4
	optOutbound6
	optNoDNS
	optMAC
	optTargetType
)

var grammar = getopt.Options{
	Short: "ce:r:m:a:6hv",
	Long: []getopt.Long{
		{Name: "configure", Value: 'c'},
		{Name: "exit-fd", Argument: getopt.Required, Value: 'e'},
		{Name: "ready-fd", Argument: getopt.Required, Value: 'r'},
		{Name: "mtu", Argument: getopt.Required, Value: 'm'},
		{Name: "cidr", Argument: getopt.Required, Value: optCIDR},
		{Name: "disable-host-loopback", Value: optNoHostLoopback},
		{Name: "no-host-loopback", Value: optNoHostLoopback}, // until 0.3.0-beta.2
		{Name: "netns-type", Argument: getopt.Required, Value: optNetnsType},
		{Name: "userns-path", Argument: getopt.Required, Value: optUserns},
		{Name: "api-socket", Argument: getopt.Required, Value: 'a'},
		{Name: "enable-ipv6", Value: '6'},
		{Name: "enable-sandbox", Value: optSandbox},
		{Name: "create-sandbox", Value: optSandbox}, // until 0.4.0-beta.2
		{Name: "enable-seccomp", Value: optSeccomp},
		{Name: "help", Value: 'h'},
		{Name: "version", Value: 'v'},
		{Name: "outbound-addr", Argument: getopt.Required, Value: optOutbound4},
		{Name: "outbound-addr6", Argument: getopt.Required, Value: optOutbound6},
		{Name: "disable-dns", Value: optNoDNS},
		{Name: "macaddress", Argument: getopt.Required, Value: optMAC},
		{Name: "target-type", Argument: getopt.Required, Value: optTargetType},
	},
}

// usageError is a command line that cannot be understood: the usage is printed after it. The text may be empty.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// words are the arguments of options, as they were given.
type words struct {
	exitFD, readyFD, mtu, cidr, netnsType, targetType, out4, out6, mac *string
}

// parse reads a command line. addrs lists the addresses of the host's interfaces by their names.
func parse(args []string, posix bool, addrs func(name string) ([]netip.Addr, error)) (*options, error) {
	o := &options{exitFD: -1, readyFD: -1, mtu: defaultMTU, cidr: defaultCIDR}
	g := grammar
	g.Posix = posix
	p := getopt.New(args, g)
	var w words
	for {
		option, ok, err := p.Next()
		if err != nil {
			return nil, &usageError{err.Error()}
		}
		if !ok {
			break
		}
		arg, _ := p.Arg()
		o.take(option, arg, &w)
		if o.help || o.version {
			return o, nil
		}
	}
	if err := o.evaluate(&w, addrs); err != nil {
		return nil, err
	}
	return o, o.position(p.Args())
}

// take notes one option.
func (o *options) take(option rune, arg string, w *words) {
	switch option {
	case 'c':
		o.configure = true
	case 'e':
		w.exitFD = &arg
	case 'r':
		w.readyFD = &arg
	case 'm':
		w.mtu = &arg
	case 'a':
		o.apiSocket = arg
	case '6':
		o.ipv6 = true
	case 'h':
		o.help = true
	case 'v':
		o.version = true
	case optCIDR:
		w.cidr = &arg
	case optNoHostLoopback:
		o.noHostLoopback = true
	case optNetnsType:
		w.netnsType = &arg
	case optUserns:
		o.userns = arg
	case optOutbound4:
		w.out4 = &arg
	case optOutbound6:
		w.out6 = &arg
	case optNoDNS:
		o.noDNS = true
	case optMAC:
		w.mac = &arg
	case optTargetType:
		w.targetType = &arg
	case optSandbox, optSeccomp:
		// The datapath is always confined by more than they ask for.
	}
}

// evaluate reads the arguments of the options, in the order in which the original does.
func (o *options) evaluate(w *words, addrs func(string) ([]netip.Addr, error)) (err error) {
	for _, f := range []struct {
		word *string
		name string
		to   *int
	}{{w.exitFD, "exit-fd", &o.exitFD}, {w.readyFD, "ready-fd", &o.readyFD}} {
		if f.word == nil {
			continue
		}
		if *f.to, err = number(*f.word); err != nil || *f.to < 0 {
			return usagef("%s must be a non-negative integer", f.name)
		}
	}
	if w.mtu != nil {
		if o.mtu, err = number(*w.mtu); err != nil || o.mtu <= 0 || o.mtu > tap.MaxMTU {
			return usagef("MTU must be a positive integer (< 65522)")
		}
		least := tap.MinMTU
		if o.ipv6 {
			least = minMTU6
		}
		if o.mtu < least {
			return usagef("MTU must be at least %d (1280 with --enable-ipv6)", least)
		}
	}
	if w.cidr != nil {
		if o.cidr, err = parseCIDR(*w.cidr); err != nil {
			return err
		}
	}
	if w.out4 != nil {
		if o.out4, err = outbound(*w.out4, netip.Addr.Is4, addrs); err != nil {
			return errors.New("outbound-addr has to be valid ipv4 address or interface name.")
		}
	}
	if w.out6 != nil {
		if o.out6, err = outbound(*w.out6, isIPv6, addrs); err != nil {
			// With the original's slips: a caller may look for them.
			return errors.New("outbound-addr has to be valid ipv4 address or iterface name.")
		}
	}
	if w.mac != nil {
		if !o.configure {
			return usagef("--macaddr cannot be specified when --configure or -c is not specified")
		}
		if o.mac, err = parseMAC(*w.mac); err != nil {
			return err
		}
	}
	return o.aim(w)
}

// aim finds out what the positional arguments mean.
func (o *options) aim(w *words) error {
	o.target = targetPID
	if w.targetType != nil {
		switch *w.targetType {
		case "netns":
		case "bess":
			o.target = targetBESS
		default:
			return usagef(`--target-type must be either "netns" or "bess"`)
		}
	}
	if o.target == targetBESS {
		switch {
		case o.configure:
			return usagef("--configure conflicts with --target-type=bess")
		case w.netnsType != nil:
			return usagef("--netns-type conflicts with --target-type=bess")
		case o.userns != "":
			return usagef("--userns-path conflicts with --target-type=bess")
		}
		return nil
	}
	if w.netnsType != nil {
		switch *w.netnsType {
		case "pid":
		case "tapfd":
			o.target = targetTAPFD
			if o.configure {
				return usagef("--configure conflicts with --netns-type=tapfd")
			}
		default: // the original takes every other word for it
			o.target = targetPath
		}
	}
	return nil
}

// position reads the arguments that are no options.
func (o *options) position(args []string) (err error) {
	want := 2
	if o.target == targetBESS || o.target == targetTAPFD {
		want = 1
	}
	if len(args) < want {
		return &usageError{}
	}
	if o.target == targetBESS && len(args) > want {
		return usagef("too many arguments")
	}
	o.surplus = len(args) > 2
	if len(args) > 1 {
		o.tap = args[1]
	}
	switch o.target {
	case targetPID:
		if o.pid, err = number(args[0]); err != nil || o.pid <= 0 {
			return usagef("PID must be a positive integer")
		}
	case targetTAPFD:
		if o.tapFD, err = number(args[0]); err != nil || o.tapFD < 0 {
			return usagef("TAP FD must be a non-negative integer")
		}
	case targetPath:
		o.path = args[0]
		if _, err := os.Stat(o.path); err != nil {
			return usagef("existing path expected when --netns-type=path: %s", message(err))
		}
	case targetBESS:
		o.path = args[0]
	}
	if o.userns != "" {
		if _, err := os.Stat(o.userns); err != nil {
			return usagef("userns path doesn't exist: %s", o.userns)
		}
	}
	return nil
}

// number reads what strtol takes in base 10, and nothing behind it. Unlike there, an empty word is none.
func number(s string) (int, error) {
	n, err := strconv.ParseInt(strings.TrimLeft(s, " \t\n\v\f\r"), 10, 32)
	return int(n), err
}
