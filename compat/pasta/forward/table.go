package forward

import (
	"fmt"
	"net/netip"
	"slices"
)

// Caps say what the rules of a Table may ask for; the bits are those of pesto's protocol.
type Caps uint32

// The capabilities.
const (
	CapIPv4 Caps = 1 << iota
	CapIPv6
	CapTCP
	CapUDP
	CapScan   // rules may follow who listens
	CapDevice // rules may name an interface
)

// The bounds of a Table, those of passt.
const (
	MaxRules = 256
	// maxPorts lets a table listen on every port by two transports and two addresses, and some.
	maxPorts = 5 << 16
)

// Table is the forwarding rules of one side. The zero value forwards nothing and, without Caps, takes nothing.
// It is for one goroutine.
type Table struct {
	Caps  Caps
	Rules []Rule
}

// Clone returns a copy that shares nothing.
func (t *Table) Clone() Table { return Table{t.Caps, slices.Clone(t.Rules)} }

// Add puts a rule in when it can be and none is in its way.
func (t *Table) Add(r Rule) error {
	if err := t.check(r); err != nil {
		return err
	}
	ports := r.Ports()
	for _, o := range t.Rules {
		if r.overlaps(o) {
			return fmt.Errorf("Forwarding configuration conflict: %v versus %v", r, o)
		}
		ports += o.Ports()
	}
	switch {
	case len(t.Rules) >= MaxRules:
		return fmt.Errorf("Too many rules (maximum %d)", MaxRules)
	case ports > maxPorts:
		return fmt.Errorf("Rules require too many listening sockets (maximum %d)", maxPorts)
	}
	t.Rules = append(t.Rules, r)
	return nil
}

// Delete takes out the rule that equals r.
func (t *Table) Delete(r Rule) error {
	for i, o := range t.Rules {
		if o == r {
			t.Rules = slices.Delete(t.Rules, i, i+1)
			return nil
		}
		if r.overlaps(o) {
			return fmt.Errorf("Specifier %v conflicts with rule %v, but doesn't match it, can't delete", r, o)
		}
	}
	return fmt.Errorf("Couldn't find forwarding rule to delete: %v", r)
}

// check refuses a rule that no table with these Caps can have. A rule may come from a hostile client.
func (t *Table) check(r Rule) error {
	switch {
	case r.First > r.Last:
		return fmt.Errorf("Rule has invalid port range %d-%d", r.First, r.Last)
	case r.First == 0:
		return fmt.Errorf("Forwarding rule attempts to map from port 0")
	case r.ToPort == 0 || int(r.ToPort)+r.Ports()-1 > 0xffff:
		return fmt.Errorf("Forwarding rule attempts to map to port 0")
	case r.Flags >= flagsEnd:
		return fmt.Errorf("Rule has invalid flags 0x%x", r.Flags&^(flagsEnd-1))
	case !r.Addr.IsValid() || r.Addr.Zone() != "" || r.Addr.Is4In6():
		return fmt.Errorf("Rule has invalid address %v", r.Addr)
	case r.Device != "" && !validDevice(r.Device):
		return fmt.Errorf("Invalid interface name: %s", r.Device)
	case r.Device != "" && t.Caps&CapDevice == 0:
		return fmt.Errorf("Interface %s given, but binding to interfaces is not available", r.Device)
	case r.Flags&Scan != 0 && t.Caps&CapScan == 0:
		return fmt.Errorf("'auto' port forwarding is only allowed for pasta")
	}
	if err := t.checkFamily(r); err != nil {
		return err
	}
	if err := t.checkProto(r.Proto); err != nil {
		return err
	}
	return checkTarget(r)
}

func (t *Table) checkFamily(r Rule) error {
	switch v4, v6 := t.Caps&CapIPv4 != 0, t.Caps&CapIPv6 != 0; {
	case r.Any() && r.Addr != netip.IPv6Unspecified():
		return fmt.Errorf("Dual stack rule has non-wildcard address %v", r.Addr)
	case r.Any() && !v4:
		return fmt.Errorf("Dual stack forward, but IPv4 not enabled")
	case r.Any() && !v6:
		return fmt.Errorf("Dual stack forward, but IPv6 not enabled")
	case r.Addr.Is4() && !v4:
		return fmt.Errorf("IPv4 forward, but IPv4 not enabled")
	case r.Addr.Is6() && !v6:
		return fmt.Errorf("IPv6 forward, but IPv6 not enabled")
	}
	return nil
}

func (t *Table) checkProto(p Proto) error {
	switch {
	case p != TCP && p != UDP:
		return fmt.Errorf("Unsupported protocol 0x%x (%v) for forwarding rule", uint8(p), p)
	case p == TCP && t.Caps&CapTCP == 0, p == UDP && t.Caps&CapUDP == 0:
		return fmt.Errorf("Can't add %v forwarding rule, %v not enabled", p, p)
	}
	return nil
}

func checkTarget(r Rule) error {
	if !r.To.IsValid() {
		return nil
	}
	switch {
	case r.To.IsMulticast():
		return fmt.Errorf("Multicast target address %v for forwarding rule", r.To)
	case r.To.Zone() != "" || r.To.Is4In6() || r.To.IsUnspecified():
		return fmt.Errorf("Rule has invalid target address %v", r.To)
	case r.Any():
		any := "[::]"
		if r.To.Is4() {
			any = "0.0.0.0"
		}
		return fmt.Errorf("Dual stack forward to %s address %v unsupported. Did you mean %s/... instead?", family(r.To), r.To, any)
	case r.Addr.Is4() != r.To.Is4():
		return fmt.Errorf("Forward from %s (%v) to %s (%v) unsupported", family(r.Addr), r.Addr, family(r.To), r.To)
	}
	return nil
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}
