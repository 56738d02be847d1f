package pasta

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/usernet/usernet/compat/getopt"
	"github.com/usernet/usernet/compat/pasta/forward"
	"github.com/usernet/usernet/stack/l2"
)

// Options are a command line of pasta, as it was meant. Nothing of the host has been asked for it.
type Options struct {
	// Program is the name it was called by.
	Program string

	Foreground, Quiet, Debug, Trace bool
	LogFile                         string
	LogSize                         int64
	RunAs                           string
	PIDFile                         string
	ConfPath                        string
	Pcap                            string

	// Command is run in new namespaces, when PID is 0 and Netns is empty; empty means the shell.
	Command []string
	PID     int
	Netns   string // a path
	Userns  string // a path
	// NetnsOnly says that no user namespace is entered.
	NetnsOnly   bool
	NoNetnsQuit bool

	// Interface is the template, Outbound the source addresses, and OutboundIf the devices of flows to the outside.
	Interface                string
	Outbound4, Outbound6     netip.Addr
	OutboundIf4, OutboundIf6 string

	// IfName and NSMAC are of the interface in the namespace, MAC is the gateway's.
	IfName     string
	NSMAC, MAC l2.MAC
	MTU        int
	// Addr4 and Addr6 are the addresses given; Addr6 without a length has 64 bits.
	Addr4, Addr6 netip.Addr
	Bits4, Bits6 int // 0: not given
	Gateway4     netip.Addr
	Gateway6     netip.Addr
	NoIPv4       bool
	NoIPv6       bool
	ConfigNet    bool
	NoCopyRoutes bool
	NoCopyAddrs  bool

	DNS                      []netip.Addr
	NoDNS                    bool
	DNSForward4, DNSForward6 netip.Addr
	DNSHost4, DNSHost6       netip.Addr
	Search                   []string
	NoSearch                 bool
	Hostname, FQDN           string
	DHCPDNS, DHCPSearch      bool

	NoTCP, NoUDP, NoICMP, NoDHCP, NoNDP, NoDHCPv6, NoRA bool

	// MapLoopback4 and 6 stand for the host's loopback, MapGuest4 and 6 for its own address.
	MapLoopback4, MapLoopback6, MapGuest4, MapGuest6 netip.Addr
	NoMapGW                                          bool

	HostLoToNSLo, NoSplice, SpliceOnly bool

	// Forward are the values of -t, -u, -T and -U in order. They are read by Tables, when the families are known.
	Forward []ForwardOption

	// Warnings are for the user.
	Warnings []string
}

// ForwardOption is one -t, -u, -T or -U.
type ForwardOption struct {
	Option forward.Option
	Spec   string
}

// The bounds of the original.
const (
	maxMTU         = 65520 // of what it can give a TAP, rounded down to 4 bytes
	maxInterface   = 15
	maxName        = 254 // of a host, with the zero in C
	minLogSize     = 2 * 4096
	defaultLogSize = 1 << 20
)

// usageError is a command line that getopt refuses: its text, and then the usage.
type usageError struct{ error }

// request is an option that is all there is to do.
type request struct{ text string }

func (r request) Error() string { return r.text }

// Parse reads a command line. Its errors are for the user as they stand; usageError and request say what else to
// print.
func Parse(args []string) (*Options, error) {
	r := reader{o: &Options{Program: "pasta", MTU: maxMTU, LogSize: defaultLogSize}}
	if len(args) > 0 {
		r.o.Program = args[0]
	}
	p := getopt.New(args, grammar)
	for {
		v, ok, err := p.Next()
		if err != nil {
			return nil, usageError{err}
		}
		if !ok {
			break
		}
		arg, _ := p.Arg()
		if err := r.option(v, arg); err != nil {
			return nil, err
		}
	}
	if err := r.o.target(p.Args()); err != nil {
		return nil, err
	}
	if err := r.o.settle(); err != nil {
		return nil, err
	}
	return r.o, nil
}

// reader goes through the options; some depend on those before.
type reader struct {
	o             *Options
	addrHasLength bool
}

// option takes one option.
func (r *reader) option(v rune, arg string) error {
	if set, ok := switches[v]; ok {
		return set(r.o)
	}
	if set, ok := values[v]; ok {
		return set(r.o, arg)
	}
	if set, ok := addresses[v]; ok {
		return set(r.o, arg)
	}
	switch v {
	case 'a':
		return r.address(arg)
	case 'n':
		return r.netmask(arg)
	case 't', 'u', 'T', 'U':
		r.o.Forward = append(r.o.Forward, ForwardOption{forward.Option(v), arg})
		return nil
	case 'h':
		return request{usage(r.o.Program)}
	case optVersion:
		return request{versionText}
	}
	return fmt.Errorf("%s", foreign[v])
}

// address is -a.
func (r *reader) address(arg string) error {
	addr, length, hasLength := strings.Cut(arg, "/")
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(addr, "["), "]"))
	if err != nil || a.Zone() != "" {
		return fmt.Errorf("Invalid guest address: %s", arg)
	}
	a = a.Unmap()
	if !isUnicast(a) || a.IsLoopback() {
		return fmt.Errorf("Invalid guest address: %s", arg)
	}
	bits := 0
	if hasLength {
		n, err := strconv.ParseUint(length, 10, 8)
		switch {
		case err != nil:
			return fmt.Errorf("Invalid guest address: %s", arg)
		case r.o.Bits4 != 0 && !r.addrHasLength && a.Is4():
			return fmt.Errorf("Redundant prefix length specification")
		case n == 0 || int(n) > a.BitLen():
			return fmt.Errorf("Invalid prefix length: %s", arg)
		}
		bits = int(n)
	}
	if a.Is4() {
		r.o.Addr4 = a
		if hasLength {
			r.o.Bits4, r.addrHasLength = bits, true
		}
		return nil
	}
	r.o.Addr6, r.o.Bits6 = a, bits
	return nil
}

// netmask is -n.
func (r *reader) netmask(arg string) error {
	if r.addrHasLength {
		return fmt.Errorf("Redundant prefix length specification")
	}
	bits, ok := parseMask(arg)
	if !ok {
		return fmt.Errorf("Invalid prefix length: %s", arg)
	}
	r.o.Bits4 = bits
	return nil
}

// parseMask reads a length, or a mask in dotted decimal.
func parseMask(s string) (bits int, ok bool) {
	if a, err := netip.ParseAddr(s); err == nil && a.Is4() {
		b := a.As4()
		mask := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		for mask&(1<<31) != 0 {
			mask, bits = mask<<1, bits+1
		}
		return bits, mask == 0 && bits > 0
	}
	n, err := strconv.ParseUint(s, 0, 8)
	return int(n), err == nil && n > 0 && n <= 32
}

func isUnicast(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// target says what is to get a network: the one word that looks like a number is a process.
func (o *Options) target(rest []string) error {
	if o.Netns != "" && len(rest) > 0 {
		return fmt.Errorf("Both --netns and PID or command given")
	}
	if len(rest) == 1 && isDecimal(rest[0]) {
		pid, err := strconv.ParseInt(rest[0], 10, 32)
		if err != nil || pid == 0 {
			return fmt.Errorf("Invalid PID %s", rest[0])
		}
		o.PID = int(pid)
		return nil
	}
	o.Command = rest
	if o.Netns != "" && o.Userns == "" {
		o.NetnsOnly = true
	}
	return nil
}

// Spawns reports whether a command is run in namespaces of its own.
func (o *Options) Spawns() bool { return o.PID == 0 && o.Netns == "" }

func isDecimal(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// settle refuses what contradicts itself and adds what follows from what.
func (o *Options) settle() error {
	if !o.ConfigNet {
		switch {
		case o.NoCopyRoutes:
			return fmt.Errorf("--no-copy-routes needs --config-net")
		case o.NoCopyAddrs:
			return fmt.Errorf("--no-copy-addrs needs --config-net")
		}
	}
	if o.SpliceOnly {
		if o.NoSplice {
			return fmt.Errorf("--splice-only is incompatible with --no-splice")
		}
		o.HostLoToNSLo, o.NoICMP, o.NoDNS, o.NoSearch = true, true, true, true
	}
	if o.NoICMP {
		o.NoNDP = true // neighbour discovery is ICMPv6
	}
	if o.ConfigNet {
		o.NoRA = true
	}
	// A command has the terminal; the original is quiet there, too.
	if o.Spawns() {
		o.Foreground = true
		o.Quiet = o.Quiet || !o.Debug
	}
	return nil
}
