package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/usernet/usernet/cnm/ipam"
)

// Config are the daemon's settings: keys of daemon.json, and flags of the same names. The package comment
// says which of Docker's there are.
type Config struct {
	Debug     bool
	LogLevel  string // debug, info, warn, error, fatal; empty means info
	LogFormat string // text or json; empty means text

	// Hosts are further places for the API: unix:///PATH.
	Hosts []string

	// DefaultAddressPools are where subnets come from; none means Docker's.
	DefaultAddressPools []ipam.Block
	// DefaultNetworkOpts are options of new Networks by driver.
	DefaultNetworkOpts map[string]map[string]string

	DNS        []netip.Addr // empty means the host's
	DNSOpts    []string
	DNSSearch  []string
	ResolvConf string // the host's file; empty means /etc/resolv.conf

	// Of the default bridge.
	BIP, BIP6                        netip.Prefix
	FixedCIDR, FixedCIDR6            netip.Prefix
	DefaultGateway4, DefaultGateway6 netip.Addr
	IPv6                             bool
	MTU                              int // 0 means 1500
	ICC, Masquerade                  *bool
	// IP is what published ports are bound to where nothing else is said.
	IP netip.Addr
	// HostGateway are what host-gateway stands for; of each family the first counts.
	HostGateway []netip.Addr
}

// MaxConfig bounds a configuration file in bytes.
const MaxConfig = 1 << 20

// field is one key: where its value goes.
type field struct {
	key string
	to  any
}

// fields returns the keys that do something, in the order of Docker's manual.
func (c *Config) fields() []field {
	return []field{
		{"debug", &c.Debug}, {"log-level", &c.LogLevel}, {"log-format", &c.LogFormat}, {"hosts", &c.Hosts},
		{"default-address-pools", &c.DefaultAddressPools}, {"default-network-opts", &c.DefaultNetworkOpts},
		{"dns", &c.DNS}, {"dns-opts", &c.DNSOpts}, {"dns-search", &c.DNSSearch}, {"resolv-conf", &c.ResolvConf},
		{"bip", &c.BIP}, {"bip6", &c.BIP6}, {"fixed-cidr", &c.FixedCIDR}, {"fixed-cidr-v6", &c.FixedCIDR6},
		{"default-gateway", &c.DefaultGateway4}, {"default-gateway-v6", &c.DefaultGateway6},
		{"ipv6", &c.IPv6}, {"mtu", &c.MTU}, {"icc", &c.ICC}, {"ip-masq", &c.Masquerade}, {"ip", &c.IP},
		{"host-gateway-ip", &c.HostGateway}, {"host-gateway-ips", &c.HostGateway},
	}
}

// meaningless are Docker's network keys that are accepted with a warning, because a daemon.json of Docker's
// should do: they are about things that are not here.
var meaningless = map[string]string{
	"iptables":                     "there are no firewall rules; networks are kept apart in the datapath",
	"ip6tables":                    "there are no firewall rules; networks are kept apart in the datapath",
	"firewall-backend":             "there are no firewall rules; networks are kept apart in the datapath",
	"bridge-accept-fwmark":         "there are no firewall rules; networks are kept apart in the datapath",
	"ip-forward":                   "the host forwards nothing",
	"ip-forward-no-drop":           "the host forwards nothing",
	"allow-direct-routing":         "the host forwards nothing",
	"userland-proxy":               "published ports are always served by the datapath",
	"userland-proxy-path":          "published ports are always served by the datapath",
	"bridge":                       "there is no kernel bridge; the network bridge is always there",
	"live-restore":                 "sandboxes always outlive the daemon",
	"min-api-version":              "all versions that there are here are served",
	"network-control-plane-mtu":    "there is no swarm",
	"swarm-default-advertise-addr": "there is no swarm",
	"network-diagnostic-port":      "there is no swarm",
	"raw-logs":                     "logs are without colours and timestamps of their own",
}

// ParseConfig reads daemon.json. keys are those that were set, sorted; warnings are for the log. No content
// means no settings. Unknown keys are an error with Docker's text.
func ParseConfig(b []byte) (c Config, keys, warnings []string, err error) {
	if len(bytes.TrimSpace(b)) == 0 {
		return c, nil, nil, nil
	}
	var raw map[string]json.RawMessage
	dec := json.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&raw); err != nil {
		return Config{}, nil, nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Config{}, nil, nil, errors.New("there is something behind the closing brace")
	}
	fields := make(map[string]any)
	for _, f := range c.fields() {
		fields[f.key] = f.to
	}
	var unknown []string
	for _, key := range slices.Sorted(maps.Keys(raw)) {
		why, accepted := meaningless[key]
		to, known := fields[key]
		switch {
		case known:
			keys = append(keys, key)
			if err := decode(raw[key], to); err != nil {
				return Config{}, nil, nil, fmt.Errorf("%s: %w", key, err)
			}
		case accepted:
			warnings = append(warnings, fmt.Sprintf("%q has no effect: %s", key, why))
		default:
			unknown = append(unknown, key)
		}
	}
	if len(unknown) > 0 {
		return Config{}, nil, nil, fmt.Errorf("the following directives don't match any configuration option: %s", strings.Join(unknown, ", "))
	}
	if slices.Contains(keys, "host-gateway-ip") && slices.Contains(keys, "host-gateway-ips") {
		return Config{}, nil, nil, errors.New("host-gateway-ip and host-gateway-ips are the same setting; keep the second")
	}
	return c, keys, warnings, nil
}

// decode reads one value. Docker has a single address for host-gateway-ip, so an address stands for a list of
// one; an empty one means that nothing is set, as there.
func decode(raw json.RawMessage, to any) error {
	if list, ok := to.(*[]netip.Addr); ok && len(raw) > 0 && raw[0] == '"' {
		var a netip.Addr
		if err := json.Unmarshal(raw, &a); err != nil {
			return err
		}
		*list = nil
		if a.IsValid() {
			*list = []netip.Addr{a}
		}
		return nil
	}
	return json.Unmarshal(raw, to)
}

// Source is where settings come from: a file, and flags beside it.
type Source struct {
	// File is read at start and at each reload. One that is not Explicit need not exist.
	File     string
	Explicit bool
	// Flags has the values of the flags that were given; Set names them by their keys, such as dns-opts.
	Flags Config
	Set   []string
}

// Load reads the file, puts the flags beside it and checks the result. Errors have Docker's texts.
func (s Source) Load() (c Config, warnings []string, err error) {
	b, err := readConfig(s.File)
	absent := errors.Is(err, fs.ErrNotExist) && !s.Explicit
	if absent {
		b, err = nil, nil
	}
	if err == nil {
		c, warnings, err = s.beside(b)
	}
	switch {
	case err == nil:
		return c, warnings, nil
	case absent: // nobody would look for the reason in a file that is not there
		return Config{}, nil, fmt.Errorf("unable to configure the daemon: %w", err)
	}
	return Config{}, nil, fmt.Errorf("unable to configure the daemon with file %s: %w", s.File, err)
}

// beside puts the flags beside a file's content, and checks the result.
func (s Source) beside(b []byte) (Config, []string, error) {
	c, keys, warnings, err := ParseConfig(b)
	if err != nil {
		return Config{}, nil, err
	}
	from := make(map[string]any)
	for _, f := range s.Flags.fields() {
		from[f.key] = f.to
	}
	var conflicts []string
	for _, f := range c.fields() {
		if !slices.Contains(s.Set, f.key) {
			continue
		}
		flag, file := reflect.ValueOf(from[f.key]).Elem(), reflect.ValueOf(f.to).Elem()
		if slices.Contains(keys, f.key) {
			conflicts = append(conflicts, fmt.Sprintf("%s: (from flag: %v, from file: %v)", f.key, show(flag), show(file)))
			continue
		}
		file.Set(flag)
	}
	if len(conflicts) > 0 {
		return Config{}, nil, fmt.Errorf("the following directives are specified both as a flag and in the configuration file: %s", strings.Join(conflicts, ", "))
	}
	return c, warnings, c.Validate()
}

func show(v reflect.Value) any {
	if v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	return v.Interface()
}

func readConfig(path string) ([]byte, error) {
	if path == "" {
		return nil, fs.ErrNotExist
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxConfig+1))
	if err == nil && len(b) > MaxConfig {
		err = fmt.Errorf("it is longer than %d bytes", MaxConfig)
	}
	return b, err
}

// levels are what log-level may be. There is no graver level in slog, so fatal shows what ends the daemon
// and nothing else.
var levels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "": slog.LevelInfo, "warn": slog.LevelWarn,
	"error": slog.LevelError, "fatal": levelFatal,
}

const levelFatal = slog.LevelError + 4

// Level is what the log shows: everything with debug, else what log-level says.
func (c Config) Level() slog.Level {
	if c.Debug {
		return slog.LevelDebug
	}
	return levels[c.LogLevel]
}

// Validate checks what can be checked of settings alone; whether subnets fit the host, the Controller knows.
func (c Config) Validate() error {
	if _, ok := levels[c.LogLevel]; !ok {
		return fmt.Errorf("invalid logging level: %s", c.LogLevel)
	}
	if c.LogFormat != "" && c.LogFormat != "text" && c.LogFormat != "json" {
		return fmt.Errorf("invalid log format: %s", c.LogFormat)
	}
	if c.MTU < 0 {
		return fmt.Errorf("invalid default MTU: %d", c.MTU)
	}
	for _, g := range []struct {
		key        string
		gateway    netip.Addr
		bip, fixed netip.Prefix
		names      string
	}{
		{"default-gateway", c.DefaultGateway4, c.BIP, c.FixedCIDR, "bip or fixed-cidr"},
		{"default-gateway-v6", c.DefaultGateway6, c.BIP6, c.FixedCIDR6, "bip6 or fixed-cidr-v6"},
	} {
		if g.gateway.IsValid() && !g.bip.IsValid() && !g.fixed.IsValid() {
			return fmt.Errorf("invalid %s %s: say what subnet it is in with %s", g.key, g.gateway, g.names)
		}
	}
	for _, p := range c.DefaultAddressPools {
		if err := p.Validate(); err != nil {
			return fmt.Errorf("invalid default-address-pools: %w", err)
		}
	}
	for _, h := range c.Hosts {
		if _, err := socketOf(h); err != nil {
			return err
		}
	}
	return nil
}

// socketOf reads an element of hosts; fd:// is whatever systemd gave, which is taken anyway.
func socketOf(host string) (path string, err error) {
	if strings.HasPrefix(host, "fd://") {
		return "", nil
	}
	path, ok := strings.CutPrefix(host, "unix://")
	if !ok {
		return "", fmt.Errorf("invalid hosts entry %q: the API is served on unix sockets only, because there whoever connects is known; use unix:///PATH", host)
	}
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("invalid hosts entry %q: use an absolute path, unix:///PATH", host)
	}
	return path, nil
}
