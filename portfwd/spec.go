package portfwd

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Proto is the transport of a published port.
type Proto string

// The transports that can be published. Docker's third, sctp, is refused by Parse: the datapath carries none.
const (
	TCP Proto = "tcp"
	UDP Proto = "udp"
)

// Spec says which port of the host stands for which port of a container. It is inert, comparable
// and JSON; Listen makes sockets of it.
type Spec struct {
	Proto Proto `json:"proto"`
	// HostIP is the address to bind; the zero Addr means every address of the host, IPv4 and IPv6.
	// It is never IPv4-mapped and has no zone.
	HostIP netip.Addr `json:"host_ip,omitzero"`
	// HostPort is the port to bind; 0 leaves the choice to the kernel.
	HostPort uint16 `json:"host_port,omitempty"`
	// HostPortEnd, when not 0, is greater than HostPort: the first free port of HostPort..HostPortEnd is bound.
	HostPortEnd uint16 `json:"host_port_end,omitempty"`
	// Port is the container's port, never 0.
	Port uint16 `json:"port"`
	// To is the address in the Network to connect to; the zero Addr means the Endpoint's own of the client's
	// family. It may be one that the container routes onwards, such as that of a bridge in it.
	To netip.Addr `json:"to,omitzero"`
	// Device is the interface of the host that the listener is bound to; empty means any.
	Device string `json:"device,omitempty"`
	// Loopback leads clients on the host's loopback to the container's, where that can be reached (Target.Inside): TCP only.
	Loopback bool `json:"loopback,omitempty"`
	// Reverse turns the two sides round: the socket is one of the container's network namespace (plumb.Socket),
	// HostIP and HostPort are what it is bound to there, and connections and datagrams go to Port on the host's loopback
	// address of the same family. Such a socket is never made by Listen.
	Reverse bool `json:"reverse,omitempty"`
}

// maxDevice is the longest name of an interface in Linux (IFNAMSIZ without its zero).
const maxDevice = 15

// String is the short form of --publish: `[HOSTIP:]HOSTPORT[-END]:PORT/PROTO`, or `[HOSTIP::]PORT/PROTO`
// when the host port is free. Parse reads it back to the same Spec.
//
// What has no short form is told to people, and Parse does not read it: `reverse` in front, `to ADDR` and `on DEVICE` behind.
func (s Spec) String() string {
	var b strings.Builder
	if s.Reverse {
		b.WriteString("reverse ")
	}
	if s.HostIP.IsValid() {
		b.WriteString(hostString(s.HostIP))
		b.WriteByte(':')
	}
	if s.HostPort != 0 {
		b.WriteString(s.hostPorts())
	}
	if s.HostPort != 0 || s.HostIP.IsValid() {
		b.WriteByte(':')
	}
	b.WriteString(strconv.Itoa(int(s.Port)))
	b.WriteByte('/')
	b.WriteString(string(s.Proto))
	if s.To.IsValid() {
		b.WriteString(" to " + s.To.String())
	}
	if s.Device != "" {
		b.WriteString(" on " + s.Device)
	}
	return b.String()
}

// host is the side of the Spec that people look for in an error: `0.0.0.0:8080/tcp`.
func (s Spec) host() string {
	ip := s.HostIP
	if !ip.IsValid() {
		ip = netip.IPv4Unspecified()
	}
	return fmt.Sprintf("%s:%s/%s", hostString(ip), s.hostPorts(), s.Proto)
}

func (s Spec) hostPorts() string {
	if s.HostPortEnd != 0 {
		return fmt.Sprintf("%d-%d", s.HostPort, s.HostPortEnd)
	}
	return strconv.Itoa(int(s.HostPort))
}

// hostString puts an IPv6 address in brackets.
func hostString(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

// oneHost says that an address is not that of many stations. The kernel would bind a socket to it that nobody can connect to.
func oneHost(a netip.Addr) bool {
	return !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// validate refuses what Parse would never make, for Specs that come over the API or a socket.
func (s Spec) validate() error {
	switch {
	case s.Proto != TCP && s.Proto != UDP:
		return fmt.Errorf("publish %s: invalid proto: %s", s, s.Proto)
	case s.Port == 0:
		return fmt.Errorf("publish %s: invalid containerPort: 0", s)
	case s.HostPortEnd != 0 && (s.HostPort == 0 || s.HostPortEnd <= s.HostPort):
		return fmt.Errorf("publish %s: invalid hostPort: %s", s, s.hostPorts())
	case s.Reverse && (!s.HostIP.IsValid() || s.HostPort == 0 || s.HostPortEnd != 0 || s.To.IsValid() || s.Device != ""):
		return fmt.Errorf("publish %s: a port that leads to the host has one address, one port and no more", s)
	case s.HostIP.Is4In6() || s.HostIP.Zone() != "" || !oneHost(s.HostIP):
		return fmt.Errorf("publish %s: invalid IP address: %s", s, s.HostIP)
	case s.To.IsValid() && (s.To.Is4In6() || s.To.Zone() != "" || s.To.IsUnspecified() || s.To.IsMulticast() || s.To.IsLoopback()):
		return fmt.Errorf("publish %s: invalid container address: %s", s, s.To)
	case len(s.Device) > maxDevice || strings.ContainsAny(s.Device, "/: \t\n\x00"):
		return fmt.Errorf("publish %s: invalid interface name: %q", s, s.Device)
	}
	return nil
}
