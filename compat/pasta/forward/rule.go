package forward

import (
	"fmt"
	"net/netip"
	"strings"
)

// Proto is the transport of a Rule, by its number in IP.
type Proto uint8

// The transports.
const (
	TCP Proto = 6
	UDP Proto = 17
)

// String is the name that pasta shows.
func (p Proto) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	}
	return "<unknown protocol>"
}

// Flags qualify a Rule; the bits are those of pesto's protocol.
type Flags uint8

// The flags.
const (
	DualStack Flags = 1 << iota // every address of both families; Addr is ::
	Weak                        // ports that cannot be bound are passed over
	Scan                        // only ports that are bound on the other side
	flagsEnd
)

// Rule forwards the ports First to Last. Rules are equal when they are the same rule.
type Rule struct {
	// Addr is listened to, always valid; :: with DualStack. IPv4 addresses are not mapped.
	Addr netip.Addr
	// To is where connections lead; the zero Addr means whoever is on the other side.
	To netip.Addr
	// Device is the interface that is listened on; empty means all.
	Device      string
	First, Last uint16
	// ToPort stands for First; the others follow.
	ToPort uint16
	Proto  Proto
	Flags  Flags
}

// Ports is how many there are.
func (r Rule) Ports() int { return int(r.Last) - int(r.First) + 1 }

// Any reports whether the rule listens on every address of both families.
func (r Rule) Any() bool { return r.Flags&DualStack != 0 }

// String is the line that pasta and pesto show for a rule.
func (r Rule) String() string {
	addr, dev, to, notes := "*", "", "", ""
	if !r.Any() {
		addr = r.Addr.String()
	}
	if r.Device != "" {
		dev = "%" + r.Device
	}
	if r.To.IsValid() {
		to = r.To.String() + ":"
	}
	if r.Flags&Weak != 0 {
		notes += " (best effort)"
	}
	if r.Flags&Scan != 0 {
		notes += " (auto-scan)"
	}
	from, toPorts := fmt.Sprint(r.First), fmt.Sprint(r.ToPort)
	if r.First != r.Last {
		from = fmt.Sprintf("%d-%d", r.First, r.Last)
		toPorts = fmt.Sprintf("%d-%d", r.ToPort, uint16(r.Ports()-1)+r.ToPort)
	}
	return fmt.Sprintf("%s [%s]%s:%s  =>  %s%s %s", r.Proto, addr, dev, from, to, toPorts, notes)
}

// overlaps reports whether both rules would take the same connection. The interface does not matter to pasta.
func (r Rule) overlaps(o Rule) bool {
	return r.Proto == o.Proto && matches(r, o) && r.First <= o.Last && o.First <= r.Last
}

// matches reports whether an address belongs to both.
func matches(a, b Rule) bool {
	switch {
	case a.Any() || b.Any() || a.Addr == b.Addr:
		return true
	case a.Addr.Is4() != b.Addr.Is4():
		return false
	}
	return a.Addr.IsUnspecified() || b.Addr.IsUnspecified()
}

// maxDevice is the length of the longest interface name (IFNAMSIZ less its end).
const maxDevice = 15

// validDevice is dev_valid_name of the kernel.
func validDevice(s string) bool {
	return s != "" && len(s) <= maxDevice && s != "." && s != ".." && !strings.ContainsAny(s, "/: \t\n\v\f\r\x00")
}
