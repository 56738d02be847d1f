package bridge

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/usernet/usernet/cnm/driver"
)

// The driver's own options.
const (
	OptName        = "com.docker.network.bridge.name"
	OptMasquerade  = "com.docker.network.bridge.enable_ip_masquerade"
	OptICC         = "com.docker.network.bridge.enable_icc"
	OptBind        = "com.docker.network.bridge.host_binding_ipv4"
	OptMode4       = "com.docker.network.bridge.gateway_mode_ipv4"
	OptMode6       = "com.docker.network.bridge.gateway_mode_ipv6"
	OptInhibitIPv4 = "com.docker.network.bridge.inhibit_ipv4"
	OptTrusted     = "com.docker.network.bridge.trusted_host_interfaces"
	OptDefault     = "com.docker.network.bridge.default_bridge"
	// OptHostLoopback is not one of Docker's: it lets the gateway's addresses stand for the host's loopback.
	OptHostLoopback = "usernet.host_loopback"

	optAdvertise   = "com.docker.network.advertise_addr_nmsgs"
	optAdvertiseMs = "com.docker.network.advertise_addr_ms"
)

// Mode is how the gateway joins a family of the Network to the world outside.
type Mode string

// The modes.
const (
	NAT            Mode = "nat"
	NATUnprotected Mode = "nat-unprotected" // and no port of a container is closed
	Routed         Mode = "routed"          // no translation
	Isolated       Mode = "isolated"        // no gateway
)

// Options are what -o KEY=VALUE says, with what holds where nothing was said.
type Options struct {
	Name                  string // of the bridge, as Docker's users know it
	Default               bool   // this is the default bridge
	ICC, Masquerade       bool
	InhibitIPv4           bool
	HostLoopback          bool
	Mode4, Mode6          Mode
	MTU                   int
	Prefix                string     // of interface names
	Bind                  netip.Addr // for published ports; not valid: all
	Outbound4, Outbound6  netip.Addr // not valid: the kernel chooses
	TrustedHostInterfaces []string
}

// parse reads the options of the Network with the given id. What it does not know is somebody else's.
func parse(id string, options map[string]string) (Options, error) {
	o := Options{ICC: true, Masquerade: true, Mode4: NAT, Mode6: NAT, MTU: defaultMTU, Prefix: "eth"}
	for _, key := range slices.Sorted(maps.Keys(options)) {
		set, ok := setters[key]
		if !ok {
			continue
		}
		if err := set(&o, options[key]); err != nil {
			return Options{}, driver.BadOption(key, options[key], err)
		}
	}
	if o.Name == "" {
		o.Name = "docker0"
		if !o.Default {
			o.Name = "br-" + id[:min(len(id), 12)]
		}
	}
	return o, nil
}

// setters read one option each. Those of Docker's that mean nothing here are checked all the same, so that a
// typing error is found.
var setters = map[string]func(o *Options, value string) error{
	OptName:         func(o *Options, v string) error { o.Name = v; return ifname(v) },
	OptDefault:      flag(func(o *Options) *bool { return &o.Default }),
	OptICC:          flag(func(o *Options) *bool { return &o.ICC }),
	OptMasquerade:   flag(func(o *Options) *bool { return &o.Masquerade }),
	OptInhibitIPv4:  flag(func(o *Options) *bool { return &o.InhibitIPv4 }),
	OptHostLoopback: flag(func(o *Options) *bool { return &o.HostLoopback }),
	driver.OptIPv4:  flag(func(*Options) *bool { return new(bool) }), // which families are on is the caller's to say
	driver.OptIPv6:  flag(func(*Options) *bool { return new(bool) }),

	OptMode4:           mode(func(o *Options) *Mode { return &o.Mode4 }),
	OptMode6:           mode(func(o *Options) *Mode { return &o.Mode6 }),
	OptBind:            address(func(o *Options) *netip.Addr { return &o.Bind }, netip.Addr.Is4, "IPv4"),
	driver.OptHostIPv4: address(func(o *Options) *netip.Addr { return &o.Outbound4 }, netip.Addr.Is4, "IPv4"),
	driver.OptHostIPv6: address(func(o *Options) *netip.Addr { return &o.Outbound6 }, netip.Addr.Is6, "IPv6"),

	driver.OptMTU: func(o *Options, v string) (err error) { o.MTU, err = strconv.Atoi(v); return err },
	driver.OptIfacePrefix: func(o *Options, v string) error {
		o.Prefix = v
		return ifname(v + "00") // there is room for the number
	},
	OptTrusted: func(o *Options, v string) error {
		o.TrustedHostInterfaces = strings.FieldsFunc(v, func(r rune) bool { return r == ':' })
		return nil
	},
	optAdvertise:   number(0, 3),
	optAdvertiseMs: number(100, 2000),
}

// ifname checks a name; none at all means the usual one.
func ifname(v string) error {
	if v == "" {
		return nil
	}
	return driver.CheckIfname(v)
}

func flag(field func(*Options) *bool) func(*Options, string) error {
	return func(o *Options, v string) (err error) {
		*field(o), err = strconv.ParseBool(v)
		return err
	}
}

func mode(field func(*Options) *Mode) func(*Options, string) error {
	return func(o *Options, v string) error {
		switch m := Mode(v); m {
		case NAT, NATUnprotected, Routed, Isolated:
			*field(o) = m
			return nil
		}
		return fmt.Errorf("unknown gateway mode %s", v)
	}
}

// address reads one of the host's addresses; the unspecified one stands for any, which is to say nothing.
func address(field func(*Options) *netip.Addr, family func(netip.Addr) bool, name string) func(*Options, string) error {
	return func(o *Options, v string) error {
		a, err := netip.ParseAddr(v)
		a = a.Unmap()
		switch {
		case err != nil || a.Zone() != "":
			return fmt.Errorf("nil ip") // Docker's words
		case !family(a):
			return fmt.Errorf("not an %s address", name)
		case a.IsUnspecified():
			a = netip.Addr{}
		}
		*field(o) = a
		return nil
	}
}

func number(low, high int) func(*Options, string) error {
	return func(_ *Options, v string) error {
		n, err := strconv.Atoi(v)
		if err == nil && (n < low || n > high) {
			err = fmt.Errorf("want %d to %d", low, high)
		}
		return err
	}
}
