package portfwd

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// MaxRange is how many ports one --publish value may expand to. Each takes two sockets (IPv4 and
// IPv6) in two processes; 16384 leaves room for the usual media ranges (10000-20000) and keeps a
// slip of the keyboard (1-65535) from eating the file descriptors of the host.
const MaxRange = 16384

// Parse reads one --publish value in Docker's forms and expands ranges:
//
//	[HOSTIP:]HOSTPORT[-END]:PORT[-END][/tcp|udp]   ranges of equal length, or a host range for one container port (first free)
//	[HOSTIP:]:PORT[-END][/tcp|udp]                 free host ports
//	PORT[-END][/tcp|udp]                           free host ports
//	published=5000,target=80,protocol=tcp,mode=host,host_ip=127.0.0.1
//
// IPv6 host addresses stand in brackets; without them, as Docker has it, everything before the
// last two colons is the address. Where Docker has a text for an error, the error has that text.
func Parse(value string) ([]Spec, error) {
	var (
		specs []Spec
		err   error
	)
	if strings.Contains(value, "=") {
		specs, err = parseLong(value)
	} else {
		specs, err = parseShort(value)
	}
	if err != nil {
		return nil, fmt.Errorf("publish %q: %w", value, err)
	}
	return specs, nil
}

func parseShort(value string) ([]Spec, error) {
	hostIP, host, ports, err := splitShort(value)
	if err != nil {
		return nil, err
	}
	ports, protoName, hasProto := strings.Cut(ports, "/")
	if !hasProto || protoName == "" {
		protoName = "tcp"
	}
	if ports == "" {
		return nil, errors.New("no port specified: " + value + "<empty>; give the container's port, as in 8080:80")
	}
	ip, err := parseHostIP(hostIP)
	if err != nil {
		return nil, err
	}
	first, last, err := parseRange(ports)
	if err != nil || first == 0 {
		return nil, errors.New("invalid containerPort: " + ports)
	}
	proto, err := parseProto(protoName)
	if err != nil {
		return nil, err
	}
	base := Spec{Proto: proto, HostIP: ip, Port: first}
	if host == "" {
		return expand(base, last)
	}
	return withHostPorts(base, last, host, ports)
}

// splitShort cuts a value at its colons into address, host port(s) and the rest; absent parts are empty.
func splitShort(value string) (hostIP, host, ports string, err error) {
	rest := value
	if strings.HasPrefix(value, "[") {
		end := strings.IndexByte(value, ']')
		if end < 0 || !strings.HasPrefix(value[end+1:], ":") {
			return "", "", "", errors.New("invalid IP address: " + value)
		}
		hostIP, rest = value[:end+1], value[end+2:]
		if strings.Count(rest, ":") != 1 {
			return "", "", "", fmt.Errorf("no port specified: %s<empty>; write %s::PORT for a free host port", value, hostIP)
		}
	}
	i := strings.LastIndexByte(rest, ':')
	if i < 0 {
		return "", "", rest, nil
	}
	host, ports = rest[:i], rest[i+1:]
	if j := strings.LastIndexByte(host, ':'); j >= 0 {
		hostIP, host = host[:j], host[j+1:]
	}
	return hostIP, host, ports, nil
}

// withHostPorts adds the host's port or range to a Spec of the container ports base.Port to last.
func withHostPorts(base Spec, last uint16, host, ports string) ([]Spec, error) {
	first, hostLast, err := parseRange(host)
	switch {
	case err != nil && isAddr(host):
		return nil, fmt.Errorf("invalid hostPort: %s; write %s::%s for a free host port", host, host, ports)
	case err != nil, first == 0 && hostLast != 0:
		return nil, errors.New("invalid hostPort: " + host)
	}
	base.HostPort = first
	switch {
	case hostLast-first == last-base.Port && first != 0, first == 0 && last == base.Port:
		return expand(base, last)
	case last == base.Port:
		base.HostPortEnd = hostLast
		return []Spec{base}, nil
	}
	return nil, fmt.Errorf("invalid ranges specified for container and host Ports: %s and %s", ports, host)
}

func isAddr(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// expand makes one Spec for each port from base.Port to last, host ports in step unless they are free ones.
func expand(base Spec, last uint16) ([]Spec, error) {
	n := int(last) - int(base.Port) + 1
	if n > MaxRange {
		return nil, fmt.Errorf("range of %d ports is too large; publish at most %d at once", n, MaxRange)
	}
	specs := make([]Spec, n)
	for i := range specs {
		specs[i] = base
		specs[i].Port += uint16(i)
		if base.HostPort != 0 {
			specs[i].HostPort += uint16(i)
		}
	}
	return specs, nil
}

// parseHostIP reads an address, in brackets or not; "" is the zero Addr.
func parseHostIP(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	text := s
	bracketed := s[0] == '['
	if bracketed {
		text = strings.TrimSuffix(s[1:], "]")
		if len(text) != len(s)-2 {
			return netip.Addr{}, errors.New("invalid IP address: " + s)
		}
	}
	ip, err := netip.ParseAddr(text)
	switch {
	case err != nil, bracketed && !ip.Is6(), !oneHost(ip.Unmap()):
		return netip.Addr{}, errors.New("invalid IP address: " + s)
	case ip.Zone() != "":
		// A zone names an interface, which comes and goes while the socket stays.
		return netip.Addr{}, errors.New("invalid IP address: " + s + "; publish on an address without a zone")
	}
	return ip.Unmap(), nil
}

func parseProto(s string) (Proto, error) {
	switch p := strings.ToLower(s); p {
	case "tcp", "udp":
		return Proto(p), nil
	case "sctp":
		return "", errors.New("protocol sctp is not supported; publish tcp or udp")
	}
	return "", errors.New("invalid proto: " + s)
}

// parseRange reads PORT or PORT-END; a single port is a range of one.
func parseRange(s string) (first, last uint16, err error) {
	a, b, isRange := strings.Cut(s, "-")
	first, err = parsePort(a)
	if err != nil || !isRange {
		return first, first, err
	}
	last, err = parsePort(b)
	if err == nil && last < first {
		err = errors.New("invalid range specified for the Ports: " + s)
	}
	return first, last, err
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err
}
