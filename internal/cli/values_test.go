package cli

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParseName(t *testing.T) {
	for _, s := range []string{"web", "Web-1", "a", "0b", "a_b.c", strings.Repeat("a", 64)} {
		if got, err := parseName(s); err != nil || got != s {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "-a", ".a", "_a", "a/b", "a b", "ä", "42", "../x", "a\n", strings.Repeat("a", 65)} {
		if _, err := parseName(s); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}

func TestParseHostname(t *testing.T) {
	for _, s := range []string{"box", "a.b.example", "x-1", strings.Repeat("a", 63)} {
		if _, err := parseHostname(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"", "-a", "a-", "a..b", ".a", "a.", "a b", "a/b", strings.Repeat("a", 64), strings.Repeat("a.", 33) + "a"} {
		if _, err := parseHostname(s); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}

func TestParseExtraHost(t *testing.T) {
	tests := []struct {
		in, name, addr string
		gateway        bool
	}{
		{"db:10.0.0.1", "db", "10.0.0.1", false},
		{"db=10.0.0.1", "db", "10.0.0.1", false},
		{"db:::1", "db", "::1", false},
		{"db=[fd00::5]", "db", "fd00::5", false},
		{"host:host-gateway", "host", "", true},
	}
	for _, tt := range tests {
		h, err := parseExtraHost(tt.in)
		if err != nil || h.name != tt.name || h.gateway != tt.gateway || showAddr(h.addr) != tt.addr {
			t.Errorf("%q: %+v, %v", tt.in, h, err)
		}
	}
	for _, in := range []string{"", "db", ":1.2.3.4", "db:", "db:x", "d b:1.2.3.4", "db:1.2.3.4.5", "db\n:1.2.3.4"} {
		if h, err := parseExtraHost(in); err == nil {
			t.Errorf("%q: %+v", in, h)
		}
	}
}

func TestParseServer(t *testing.T) {
	for in, want := range map[string]string{
		"1.1.1.1": "1.1.1.1:53", "1.1.1.1:5353": "1.1.1.1:5353", "::1": "[::1]:53", "[fe80::1%eth0]:54": "[fe80::1%eth0]:54",
		"::ffff:1.1.1.1": "1.1.1.1:53",
	} {
		if got, err := parseServer(in); err != nil || got.String() != want {
			t.Errorf("%q: %v, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "dns.example", "0.0.0.0", "::", "224.0.0.1", "1.1.1.1:0", "1.1.1.1:99999", "1.1.1.1:"} {
		if got, err := parseServer(in); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func TestParseMAC(t *testing.T) {
	if _, err := parseMAC("02:42:ac:11:00:02"); err != nil {
		t.Error(err)
	}
	for _, in := range []string{"", "x", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "02:42:ac:11:00"} {
		if got, err := parseMAC(in); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func TestParseInterface(t *testing.T) {
	for _, in := range []string{"eth0", "a", "tap-0.1"} {
		if _, err := parseInterface(in); err != nil {
			t.Errorf("%q: %v", in, err)
		}
	}
	for _, in := range []string{"", ".", "..", "a b", "a/b", "a:b", "0123456789abcdef", "ä"} {
		if _, err := parseInterface(in); err == nil {
			t.Errorf("%q is taken", in)
		}
	}
}

// The fuzz targets hold that a value that is taken is taken again as it is shown, and means the same.

func FuzzParseExtraHost(f *testing.F) {
	f.Add("db:10.0.0.1")
	f.Add("host=[fd00::5]")
	f.Fuzz(func(t *testing.T, in string) {
		h, err := parseExtraHost(in)
		if err != nil {
			return
		}
		if h.name == "" || h.gateway == h.addr.IsValid() {
			t.Fatalf("%q: %+v", in, h)
		}
		if again, err := parseExtraHost(h.name + ":" + showHost(h)); err != nil || again != h {
			t.Fatalf("%q: %+v, then %+v, %v", in, h, again, err)
		}
	})
}

func showHost(h extraHost) string {
	if h.gateway {
		return hostGateway
	}
	return h.addr.String()
}

func FuzzParseServer(f *testing.F) {
	f.Add("1.1.1.1")
	f.Add("[fe80::1%eth0]:53")
	f.Fuzz(func(t *testing.T, in string) {
		ap, err := parseServer(in)
		if err != nil {
			return
		}
		if again, err := parseServer(ap.String()); err != nil || again != ap {
			t.Fatalf("%q: %v, then %v, %v", in, ap, again, err)
		}
	})
}

func FuzzParseSubnet(f *testing.F) {
	f.Add("10.0.2.0/24", "10.0.2.7")
	f.Add("fd00::/64", "fd00::7")
	f.Fuzz(func(t *testing.T, subnet, addr string) {
		s, err := parseSubnet(subnet)
		if err != nil {
			return
		}
		o := &netOptions{mtu: defaultMTU, ipv6: true, subnets: []netip.Prefix{s}}
		if a, err := parseAddr4(addr); err == nil {
			o.ip = a
		} else if a, err := parseAddr6(addr); err == nil {
			o.ip6 = a
		}
		p, err := makePlan(o, "id", "eth0")
		if err != nil {
			return
		}
		checkPlan(t, p)
	})
}
