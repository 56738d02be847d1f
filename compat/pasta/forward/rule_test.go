package forward

import (
	"net/netip"
	"strings"
	"testing"
)

func rule(port uint16) Rule {
	return Rule{Addr: netip.IPv6Unspecified(), First: port, Last: port, ToPort: port, Proto: TCP, Flags: DualStack}
}

// TestHostileRule: rules come from clients too, with any bits they like.
func TestHostileRule(t *testing.T) {
	tests := map[string]struct {
		change func(*Rule)
		want   string
	}{
		"backwards":          {func(r *Rule) { r.First = 30 }, "invalid port range 30-20"},
		"from zero":          {func(r *Rule) { r.First = 0 }, "from port 0"},
		"to zero":            {func(r *Rule) { r.ToPort = 0 }, "to port 0"},
		"to beyond the last": {func(r *Rule) { r.Last, r.ToPort = 21, 65535 }, "to port 0"},
		"flags":              {func(r *Rule) { r.Flags |= 0x80 }, "invalid flags 0x80"},
		"protocol":           {func(r *Rule) { r.Proto = 132 }, "Unsupported protocol 0x84"},
		"device":             {func(r *Rule) { r.Device = "a/b" }, "Invalid interface name: a/b"},
		"no address":         {func(r *Rule) { r.Addr = netip.Addr{} }, "invalid address"},
		"dual but one":       {func(r *Rule) { r.Addr = netip.IPv6Loopback() }, "non-wildcard address ::1"},
		"mapped": {func(r *Rule) {
			r.Flags, r.Addr = 0, netip.MustParseAddr("::ffff:127.0.0.1")
		}, "invalid address"},
		"target unspecified": {func(r *Rule) {
			r.Flags, r.Addr, r.To = 0, netip.IPv4Unspecified(), netip.IPv4Unspecified()
		}, "invalid target address"},
	}
	for name, tt := range tests {
		r := rule(20)
		tt.change(&r)
		tab := Table{Caps: allCaps}
		if err := tab.Add(r); err == nil || !strings.Contains(err.Error(), tt.want) || len(tab.Rules) != 0 {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	tab := Table{Caps: allCaps}
	for i, a := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6"} {
		r := Rule{Addr: netip.MustParseAddr(a), First: 1, Last: 65535, ToPort: 1, Proto: TCP}
		if err := tab.Add(r); (err != nil) != (i == 5) {
			t.Errorf("%d times every port: %v", i+1, err)
		}
	}
}
