package rootlessport

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"strings"

	"github.com/usernet/usernet/portfwd"
)

// config is what podman writes to standard input; the names are its.
type config struct {
	Mappings    []mapping
	NetNSPath   string
	ExitFD      int
	ReadyFD     int
	TmpDir      string
	ChildIP     string
	ContainerID string
	// RootlessCNI says that the container's address may change, and the reload socket is wanted.
	RootlessCNI bool
}

// mapping is a range of ports.
type mapping struct {
	HostIP        string `json:"host_ip"`
	ContainerPort uint16 `json:"container_port"`
	HostPort      uint16 `json:"host_port"`
	Range         uint16 `json:"range"`    // 0 is 1
	Protocol      string `json:"protocol"` // several are separated by commas
}

const (
	// maxConfig is more than 65535 mappings take.
	maxConfig = 16 << 20
	// maxSpecs is every port of both protocols.
	maxSpecs = 2 * math.MaxUint16
)

// readConfig reads all of r.
func readConfig(r io.Reader) (*config, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if len(b) > maxConfig {
		return nil, errors.New("read configuration: more than 16 MiB")
	}
	c := new(config)
	if err := json.Unmarshal(b, c); err != nil {
		return nil, err
	}
	switch { // the texts are the original's
	case c.NetNSPath == "":
		return nil, errors.New("missing NetNSPath")
	case c.ExitFD <= 0:
		return nil, errors.New("missing ExitFD")
	case c.ReadyFD <= 0:
		return nil, errors.New("missing ReadyFD")
	case strings.ContainsRune(c.ContainerID, '/') || c.ContainerID == "." || c.ContainerID == "..":
		return nil, fmt.Errorf("invalid ContainerID %q", c.ContainerID)
	case c.RootlessCNI && c.ContainerID == "":
		return nil, errors.New("missing ContainerID")
	}
	return c, nil
}

// childIP reads the container's address. None is the container's loopback, as in the original.
func childIP(s string) (netip.Addr, error) {
	if s == "" {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
		return netip.Addr{}, fmt.Errorf("invalid ChildIP %q", s)
	}
	return a.Unmap(), nil
}

// specs are the ports to publish, one by one.
func (c *config) specs() ([]portfwd.Spec, error) {
	var all []portfwd.Spec
	for _, m := range c.Mappings {
		for proto := range strings.SplitSeq(m.Protocol, ",") {
			ss, err := m.specs(proto)
			if err != nil {
				return nil, err
			}
			if len(all)+len(ss) > maxSpecs {
				return nil, fmt.Errorf("more than %d ports", maxSpecs)
			}
			all = append(all, ss...)
		}
	}
	return all, nil
}

func (m *mapping) specs(proto string) ([]portfwd.Spec, error) {
	s := portfwd.Spec{Proto: portfwd.TCP}
	var only4, only6 bool
	switch proto {
	case "tcp", "":
	case "tcp4", "tcp6":
		only4, only6 = proto == "tcp4", proto == "tcp6"
	case "udp":
		s.Proto = portfwd.UDP
	case "udp4", "udp6":
		s.Proto, only4, only6 = portfwd.UDP, proto == "udp4", proto == "udp6"
	default:
		return nil, fmt.Errorf("unknown proto: %q", proto)
	}
	if m.HostIP != "" {
		a, err := netip.ParseAddr(m.HostIP)
		if err != nil || a.Zone() != "" {
			return nil, fmt.Errorf("invalid ParentIP: %q", m.HostIP)
		}
		s.HostIP = a.Unmap()
	} else if only4 {
		s.HostIP = netip.IPv4Unspecified()
	} else if only6 {
		s.HostIP = netip.IPv6Unspecified()
	}
	n := max(1, int(m.Range))
	if m.HostPort == 0 || int(m.HostPort)+n-1 > math.MaxUint16 {
		return nil, fmt.Errorf("invalid ParentPort: %d", m.HostPort)
	}
	if m.ContainerPort == 0 || int(m.ContainerPort)+n-1 > math.MaxUint16 {
		return nil, fmt.Errorf("invalid ChildPort: %d", m.ContainerPort)
	}
	all := make([]portfwd.Spec, n)
	for i := range all {
		all[i] = s
		all[i].HostPort, all[i].Port = m.HostPort+uint16(i), m.ContainerPort+uint16(i)
	}
	return all, nil
}
