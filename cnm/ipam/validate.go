package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/usernet/usernet/cnm/fault"
)

// Settings are what a user wrote of one subnet, unchecked: a Prefix may have bits behind its length.
type Settings struct {
	Prefix, Range netip.Prefix
	Gateway       netip.Addr
	Aux           map[string]netip.Addr
}

// Validate checks what a user wrote of a Network's subnets and returns all that is wrong with it in one error.
// Subnets of a family that is off are left out, as Docker does.
func Validate(subnets []Settings, ipv4, ipv6 bool) error {
	var bad []string
	for _, s := range subnets {
		if on := ipv4; s.Prefix.IsValid() {
			if s.Prefix.Addr().Is6() {
				on = ipv6
			}
			if !on {
				continue
			}
		}
		bad = append(bad, s.check()...)
	}
	if len(bad) == 0 {
		return nil
	}
	return fault.New(fault.Invalid, "invalid network config:\n%s", strings.Join(bad, "\n"))
}

func (s Settings) check() (bad []string) {
	if !s.Prefix.IsValid() {
		if s.Range.IsValid() || s.Gateway.IsValid() || len(s.Aux) > 0 {
			bad = append(bad, "invalid subnet : invalid CIDR block notation")
		}
		return bad
	}
	if m := s.Prefix.Masked(); m != s.Prefix {
		bad = append(bad, fmt.Sprintf("invalid subnet %s: it should be %s", s.Prefix, m))
	}
	if s.Range.IsValid() {
		bad = append(bad, s.checkRange()...)
	}
	if s.Gateway.IsValid() {
		if why := s.excludes(s.Gateway); why != "" {
			bad = append(bad, fmt.Sprintf("invalid gateway %s: %s", s.Gateway, why))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Aux)) {
		if why := s.excludes(s.Aux[name]); why != "" {
			bad = append(bad, fmt.Sprintf("invalid auxiliary address %s: %s", name, why))
		}
	}
	return bad
}

func (s Settings) checkRange() (bad []string) {
	if s.Range.Addr().Is4() != s.Prefix.Addr().Is4() {
		return []string{fmt.Sprintf("invalid ip-range %s: parent subnet is an %s block", s.Range, family(s.Prefix))}
	}
	if s.Range.Bits() < s.Prefix.Bits() {
		bad = append(bad, fmt.Sprintf("invalid ip-range %s: CIDR block is bigger than its parent subnet %s", s.Range, s.Prefix))
	}
	if m := s.Range.Masked(); m != s.Range {
		bad = append(bad, fmt.Sprintf("invalid ip-range %s: it should be %s", s.Range, m))
	}
	if !s.Prefix.Overlaps(s.Range) {
		bad = append(bad, fmt.Sprintf("invalid ip-range %s: parent subnet %s doesn't contain ip-range", s.Range, s.Prefix))
	}
	return bad
}

// excludes says why an address cannot be one of the subnet, or nothing.
func (s Settings) excludes(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return "invalid address"
	case a.Is4() != s.Prefix.Addr().Is4():
		return "parent subnet is an " + family(s.Prefix) + " block"
	case !s.Prefix.Contains(a):
		return fmt.Sprintf("parent subnet %s doesn't contain this address", s.Prefix)
	}
	return ""
}

func family(p netip.Prefix) string {
	if p.Addr().Is4() {
		return "IPv4"
	}
	return "IPv6"
}
