package slirp4netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/usernet/usernet/stack/l2"
)

// maxBits is the longest prefix: net+100 must be in it.
const maxBits = 25

// cidrForm is what the original looks at before anything else.
const cidrForm = `^(([0-9]{1,3}\.){3}[0-9]{1,3})/([0-9]{1,2})$`

// parseCIDR reads --cidr, with the original's texts.
func parseCIDR(s string) (netip.Prefix, error) {
	m := regexp.MustCompile(cidrForm).FindStringSubmatch(s)
	if m == nil {
		return netip.Prefix{}, fmt.Errorf("invalid CIDR: %s", s)
	}
	bits, err := strconv.Atoi(m[3])
	if err != nil || bits < 1 || bits > maxBits {
		return netip.Prefix{}, fmt.Errorf("prefix length needs to be 1-%d", maxBits)
	}
	addr, err := netip.ParseAddr(m[1])
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("invalid network address: %s", m[1])
	}
	p := netip.PrefixFrom(addr, bits)
	if p.Masked() != p {
		return netip.Prefix{}, errors.New("CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24")
	}
	// The original goes on with these, and nothing works then.
	for _, reserved := range []string{"0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3"} {
		if p.Overlaps(netip.MustParsePrefix(reserved)) {
			return netip.Prefix{}, fmt.Errorf("invalid network address: %s: it overlaps %s, which no network may have", m[1], reserved)
		}
	}
	return p, nil
}

// parseMAC reads --macaddress: six bytes in hex, of one or two digits.
func parseMAC(s string) (m l2.MAC, err error) {
	invalid := func(more string) error {
		return fmt.Errorf("%q is an invalid MAC address.%s\n"+
			"macaddress has to be a valid MAC address (hex string, 6 bytes, each byte separated by a ':').", s, more)
	}
	parts := strings.FieldsFunc(s, func(r rune) bool { return r == ':' || r == '-' })
	if len(parts) > len(m) {
		return m, invalid("  Is it too long?")
	}
	if len(parts) < len(m) || strings.Count(s, ":")+strings.Count(s, "-") != len(m)-1 {
		return m, invalid("")
	}
	for i, p := range parts {
		b, err := strconv.ParseUint(p, 16, 8)
		if err != nil || len(p) > 2 {
			return m, invalid("")
		}
		m[i] = byte(b)
	}
	if m.IsMulticast() || m.IsZero() {
		// The kernel refuses it for an interface.
		return l2.MAC{}, invalid("  It is no station's.")
	}
	return m, nil
}

// outbound reads an address of one family, or takes that of an interface.
func outbound(s string, of func(netip.Addr) bool, addrs func(string) ([]netip.Addr, error)) (netip.Addr, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		if !of(a) || a.Zone() != "" {
			return netip.Addr{}, fmt.Errorf("%s is of the other family", s)
		}
		return a, nil
	}
	all, err := addrs(s)
	if err != nil {
		return netip.Addr{}, err
	}
	// A link-local address reaches nothing but the link: it is the last choice.
	var last netip.Addr
	for _, a := range all {
		switch {
		case !of(a):
		case !a.IsLinkLocalUnicast():
			return a, nil
		case !last.IsValid():
			last = a
		}
	}
	if !last.IsValid() {
		return netip.Addr{}, fmt.Errorf("interface %s has no address of the family", s)
	}
	return last, nil
}

func isIPv6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() }

// interfaceAddrs lists the addresses of an interface of the host.
func interfaceAddrs(name string) ([]netip.Addr, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	list, err := i.Addrs()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, n := range list {
		if p, err := netip.ParsePrefix(n.String()); err == nil {
			addrs = append(addrs, p.Addr().Unmap())
		}
	}
	return addrs, nil
}

// message is the text of an error of the system as the C library has it.
func message(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		s := errno.Error()
		return strings.ToUpper(s[:1]) + s[1:]
	}
	return err.Error()
}
