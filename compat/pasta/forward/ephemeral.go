package forward

import (
	"fmt"
	"os"
)

// rfcEphemeral is the range of RFC 6335, for hosts that do not tell.
var rfcEphemeral = Ports{49152, 65535}

// Ephemeral is what this host's kernel gives to sockets that do not ask for a port.
func Ephemeral() Ports {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return rfcEphemeral
	}
	return parseEphemeral(string(b))
}

func parseEphemeral(s string) Ports {
	var p Ports
	if n, err := fmt.Sscanf(s, "%d %d", &p.First, &p.Last); n != 2 || err != nil || p.First > p.Last {
		return rfcEphemeral
	}
	return p
}
