package driver

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/usernet/usernet/cnm/fault"
)

// The options that are Docker's and not one driver's.
const (
	OptMTU         = "com.docker.network.driver.mtu"
	OptIPv4        = "com.docker.network.enable_ipv4"
	OptIPv6        = "com.docker.network.enable_ipv6"
	OptHostIPv4    = "com.docker.network.host_ipv4"
	OptHostIPv6    = "com.docker.network.host_ipv6"
	OptIfacePrefix = "com.docker.network.container_iface_prefix"
	// Of Endpoints.
	OptIfname  = "com.docker.network.endpoint.ifname"
	OptSysctls = "com.docker.network.endpoint.sysctls"
)

// nameHole stands for the interface's name in a sysctl. Docker's command writes it in lower case.
const nameHole = "IFNAME"

// BadOption is Docker's text for an option whose value is no good.
func BadOption(key, value string, why any) error {
	return fault.New(fault.Invalid, "failed to parse %s: %s (%v)", key, value, why)
}

// maxIfname is the kernel's IFNAMSIZ without its NUL.
const maxIfname = 15

// CheckIfname says what is wrong with a name of a network interface, by the kernel's rules.
func CheckIfname(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("interface name is %q", name)
	case len(name) > maxIfname:
		return fmt.Errorf("interface name is longer than %d bytes", maxIfname)
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("/:%", r) }):
		return fmt.Errorf("interface name has characters that are not allowed in one")
	case name == "lo" || name == "all" || name == "default":
		return fmt.Errorf("interface name is taken")
	}
	return nil
}

// ParseSysctls reads net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.…; the names keep IFNAME. It finds what Docker
// finds wrong, and beyond that what would leave the interface's own settings.
func ParseSysctls(s string) (map[string]string, error) {
	all := make(map[string]string)
	for setting := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(setting, "=")
		parts := strings.Split(key, ".")
		if !ok || len(parts) != 5 || parts[0] != "net" || parts[1] != "ipv4" && parts[1] != "ipv6" && parts[1] != "mpls" ||
			parts[3] != nameHole && parts[3] != strings.ToLower(nameHole) || !word(parts[2]) || !word(parts[4]) {
			return nil, fault.New(fault.Invalid, "unrecognised network interface sysctl '%s'; represent 'net.X.Y.ethN.Z=V' "+
				"as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'", setting)
		}
		parts[3] = nameHole
		all[strings.Join(parts, ".")] = value
	}
	return all, nil
}

// word reports whether s is one component of a sysctl's name: nothing of it leaves its directory.
func word(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// withName puts an interface's name into a sysctl's. A name with a dot is written with a slash, as sysctl(8) does.
func withName(key, name string) string {
	parts := strings.Split(key, ".")
	parts[3] = strings.ReplaceAll(name, ".", "/")
	return strings.Join(parts, ".")
}

// Split returns the first subnet of each family; the zero Subnet where there is none, and whether there is
// more than one.
func Split(subnets []Subnet) (v4, v6 Subnet, several bool) {
	for _, s := range subnets {
		first := &v4
		if s.Prefix.Addr().Is6() {
			first = &v6
		}
		if first.Prefix != (netip.Prefix{}) {
			several = true
			continue
		}
		*first = s
	}
	return v4, v6, several
}
