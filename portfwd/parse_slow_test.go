package portfwd

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The slow twin of Parse: a grammar as regular expressions, and a bind list made by counting up
// from both ends. It knows no error texts, only whether there is a list.
var (
	slowShort = regexp.MustCompile(`^(?s:(?:(?P<ip>.*):)?(?P<host>[^:]*):)?(?P<port>[0-9]+(?:-[0-9]+)?)(?:/(?P<proto>(?i:tcp|udp)?))?$`)
	slowPort  = regexp.MustCompile(`^0*([0-9]{1,5})$`)
	slowV6    = regexp.MustCompile(`^\[([^\[\]]*:[^\[\]]*)\]$`)
)

func parseSlow(in string) ([]Spec, bool) {
	if slices.Contains(strings.Split(in, ""), "=") {
		return parseSlowLong(in)
	}
	m := slowShort.FindStringSubmatch(in)
	if m == nil {
		return nil, false
	}
	ip, ok := slowIP(m[1])
	ports, okPorts := slowPorts(m[3])
	if !ok || !okPorts || ports[0] == 0 {
		return nil, false
	}
	proto := Proto(strings.ToLower(m[4]))
	if proto == "" {
		proto = TCP
	}
	hosts := []int{0}
	if m[2] != "" {
		if hosts, ok = slowPorts(m[2]); !ok {
			return nil, false
		}
		if hosts[0] == 0 && (len(hosts) > 1 || len(ports) > 1) {
			return nil, false
		}
	}
	if len(ports) == 1 && len(hosts) > 1 {
		return []Spec{{Proto: proto, HostIP: ip, HostPort: uint16(hosts[0]), HostPortEnd: uint16(hosts[len(hosts)-1]), Port: uint16(ports[0])}}, true
	}
	if len(ports) > 16384 || hosts[0] != 0 && len(hosts) != len(ports) {
		return nil, false
	}
	var specs []Spec
	for i, p := range ports {
		s := Spec{Proto: proto, HostIP: ip, Port: uint16(p)}
		if hosts[0] != 0 {
			s.HostPort = uint16(hosts[i])
		}
		specs = append(specs, s)
	}
	return specs, true
}

func parseSlowLong(in string) ([]Spec, bool) {
	fields := make(map[string]string)
	for _, f := range strings.Split(in, ",") {
		kv := strings.SplitN(f, "=", 2)
		if len(kv) != 2 || !slices.Contains([]string{"target", "published", "protocol", "mode", "host_ip"}, kv[0]) {
			return nil, false
		}
		if _, twice := fields[kv[0]]; twice {
			return nil, false
		}
		fields[kv[0]] = kv[1]
	}
	s := Spec{Proto: TCP}
	if v, given := fields["protocol"]; given {
		if s.Proto = Proto(v); v != "tcp" && v != "udp" {
			return nil, false
		}
	}
	if v, given := fields["mode"]; given && v != "host" {
		return nil, false
	}
	target, ok := slowNumber(fields["target"])
	if !ok || target == 0 {
		return nil, false
	}
	s.Port = uint16(target)
	if v, given := fields["published"]; given {
		host, ok := slowNumber(v)
		if !ok {
			return nil, false
		}
		s.HostPort = uint16(host)
	}
	if s.HostIP, ok = slowIP(fields["host_ip"]); !ok {
		return nil, false
	}
	return []Spec{s}, true
}

func slowIP(s string) (netip.Addr, bool) {
	if s == "" {
		return netip.Addr{}, true
	}
	if m := slowV6.FindStringSubmatch(s); m != nil {
		s = m[1]
	}
	if strings.Contains(s, "%") {
		return netip.Addr{}, false
	}
	ip, err := netip.ParseAddr(s)
	ip = ip.Unmap()
	return ip, err == nil && !ip.IsMulticast()
}

// slowPorts lists every port of a range.
func slowPorts(s string) ([]int, bool) {
	ends := strings.Split(s, "-")
	first, ok := slowNumber(ends[0])
	if !ok || len(ends) > 2 {
		return nil, false
	}
	if len(ends) == 1 {
		return []int{first}, true
	}
	last, ok := slowNumber(ends[1])
	var all []int
	for p := first; p <= last; p++ {
		all = append(all, p)
	}
	return all, ok && len(all) > 0
}

func slowNumber(s string) (int, bool) {
	m := slowPort.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	n, err := strconv.Atoi(m[1])
	return n, err == nil && n <= 65535
}
