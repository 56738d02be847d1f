package cli

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/usernet/usernet/stack/l2"
)

// value makes a flag of a parser: what the parser refuses is refused with the other flags.
type value[T any] struct {
	to    *T
	parse func(string) (T, error)
	show  func(T) string
	kind  string
	set   bool
}

func (v *value[T]) Set(s string) error {
	t, err := v.parse(s)
	if err != nil {
		return err
	}
	*v.to, v.set = t, true
	return nil
}

func (v *value[T]) String() string {
	if v.to == nil {
		return ""
	}
	return v.show(*v.to)
}

// Type is what the help shows for the value.
func (v *value[T]) Type() string { return v.kind }

// list makes a repeatable flag of a parser.
type list[T any] struct {
	to    *[]T
	parse func(string) ([]T, error)
	kind  string
}

func (l *list[T]) Set(s string) error {
	ts, err := l.parse(s)
	if err != nil {
		return err
	}
	*l.to = append(*l.to, ts...)
	return nil
}

func (l *list[T]) String() string { return "" }

// Type is what the help shows for the value.
func (l *list[T]) Type() string { return l.kind }

// one lifts a parser of a single value to what list wants.
func one[T any](parse func(string) (T, error)) func(string) ([]T, error) {
	return func(s string) ([]T, error) {
		t, err := parse(s)
		return []T{t}, err
	}
}

func quote(s string) string { return strconv.Quote(s) }

// parseAddr4 reads an IPv4 unicast address.
func parseAddr4(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return netip.Addr{}, fmt.Errorf("%q is not an IPv4 address", s)
	}
	return a, nil
}

// parseAddr6 reads an IPv6 unicast address without a zone.
func parseAddr6(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not an IPv6 address", s)
	}
	return a, nil
}

// parseSubnet reads a prefix that is written with its network address, as Docker demands.
func parseSubnet(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is not a subnet; write it as 10.0.2.0/24 or fd00::/64", s)
	}
	if p.Masked() != p {
		return netip.Prefix{}, fmt.Errorf("invalid subnet %s: it should be %s", s, p.Masked())
	}
	return p, nil
}

// parseServer reads a DNS server: an address, or an address and a port.
func parseServer(s string) (netip.AddrPort, error) {
	const dnsPort = 53
	if a, err := netip.ParseAddr(s); err == nil {
		return serverAt(netip.AddrPortFrom(a.Unmap(), dnsPort), s)
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not an ip address; --dns takes numeric addresses", s)
	}
	return serverAt(netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), s)
}

func serverAt(ap netip.AddrPort, s string) (netip.AddrPort, error) {
	if a := ap.Addr(); a.IsUnspecified() || a.IsMulticast() || ap.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("%q is not the address of one server", s)
	}
	return ap, nil
}

// parseMAC reads the address of one station.
func parseMAC(s string) (l2.MAC, error) {
	m, err := l2.ParseMAC(s)
	switch {
	case err != nil:
		return l2.MAC{}, err
	case m.IsMulticast():
		return l2.MAC{}, fmt.Errorf("%s is a group address; clear the lowest bit of its first byte", s)
	case m.IsZero():
		return l2.MAC{}, fmt.Errorf("%s is no address", s)
	}
	return m, nil
}

// maxName is the registry's limit.
const maxName = 64

// parseName reads the name of a sandbox: [a-zA-Z0-9][a-zA-Z0-9_.-]*, as Docker has it for containers.
func parseName(s string) (string, error) {
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("_.-", r)) {
			return "", fmt.Errorf("invalid name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed", s)
		}
	}
	switch {
	case s == "":
		return "", fmt.Errorf("a name cannot be empty")
	case len(s) > maxName:
		return "", fmt.Errorf("a name of %d bytes is too long; %d at most", len(s), maxName)
	case strings.Trim(s, "0123456789") == "":
		// It could not be told from a pid where commands take either.
		return "", fmt.Errorf("invalid name (%s): it needs a character that is not a digit", s)
	}
	return s, nil
}

// parseHostname reads a host name of RFC 1123 section 2.1 that the kernel takes (64 bytes).
func parseHostname(s string) (string, error) {
	const maxHostname, maxLabel = 64, 63
	if s == "" || len(s) > maxHostname {
		return "", fmt.Errorf("invalid hostname format: %q has %d bytes, want 1 to %d", s, len(s), maxHostname)
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return "", fmt.Errorf("invalid hostname format: %s", s)
		}
		for _, r := range label {
			if r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
				return "", fmt.Errorf("invalid hostname format: %s", s)
			}
		}
	}
	return s, nil
}

// hostGateway is Docker's word for the address at which a container reaches its host.
const hostGateway = "host-gateway"

// extraHost is one --add-host.
type extraHost struct {
	name    string
	addr    netip.Addr
	gateway bool // addr is to be found
}

// parseExtraHost reads NAME:ADDR or NAME=ADDR.
func parseExtraHost(s string) (extraHost, error) {
	i := strings.IndexAny(s, ":=")
	if i <= 0 {
		return extraHost{}, fmt.Errorf("bad format for add-host: %q; write NAME:ADDRESS", s)
	}
	name, addr := s[:i], s[i+1:]
	if strings.ContainsAny(name, " \t\r\n#") {
		return extraHost{}, fmt.Errorf("bad format for add-host: %q is not a host name", name)
	}
	if addr == hostGateway {
		return extraHost{name: name, gateway: true}, nil
	}
	if strings.HasPrefix(addr, "[") && strings.HasSuffix(addr, "]") {
		addr = addr[1 : len(addr)-1]
	}
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return extraHost{}, fmt.Errorf("invalid IP address in add-host: %q", addr)
	}
	return extraHost{name: name, addr: a}, nil
}

// parseWord reads an element of a line of resolv.conf.
func parseWord(s string) (string, error) {
	if s == "" || strings.ContainsAny(s, " \t\r\n#;") {
		return "", fmt.Errorf("%q is not one word", s)
	}
	return s, nil
}
