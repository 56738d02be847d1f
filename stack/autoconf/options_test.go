package autoconf

import (
	"net"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/mdlayher/ndp"

	"github.com/usernet/usernet/stack/spec"
)

// with returns the Network of the tests with other Autoconf.
func with(a spec.Autoconf) spec.Network {
	n := testNet
	n.Autoconf = a
	return n
}

// TestSilence: what is off is not taken, so that it is dropped as a packet for nobody.
func TestSilence(t *testing.T) {
	for name, row := range map[string]struct {
		off            spec.Autoconf
		dhcp4, dhcp6   bool
		advertisements bool
	}{
		"nothing": {spec.Autoconf{}, true, true, true},
		"DHCPv4":  {spec.Autoconf{NoDHCP4: true}, false, true, true},
		"DHCPv6":  {spec.Autoconf{NoDHCP6: true}, true, false, true},
		"RA":      {spec.Autoconf{NoRA: true}, true, true, false},
		"NDP":     {spec.Autoconf{NoNDP: true}, true, true, false},
	} {
		s, l := newServer(t, with(row.off))
		took := s.Input(datagram(t, guestMAC, netip.AddrPortFrom(unset4, 68), netip.AddrPortFrom(broadcast4, 67), request4(t, dhcpv4.MessageTypeDiscover).ToBytes()))
		if got := l.take(); took != row.dhcp4 || (len(got) > 0) != row.dhcp4 {
			t.Errorf("%s off: DHCPv4 taken %v, %d answers", name, took, len(got))
		}
		took = s.Input(datagram(t, guestMAC, netip.AddrPortFrom(guestLL, 546), netip.AddrPortFrom(allServers, 547), info6(t)))
		if got := l.take(); took != row.dhcp6 || (len(got) > 0) != row.dhcp6 {
			t.Errorf("%s off: DHCPv6 taken %v, %d answers", name, took, len(got))
		}
		took = s.Input(solicitation(t, guestLL, nil))
		if got := l.take(); took != row.advertisements || (len(got) > 0) != row.advertisements {
			t.Errorf("%s off: solicitation taken %v, %d answers", name, took, len(got))
		}
	}
}

// all asks s in all three ways.
func all(t *testing.T, s *Server, l *link) (*dhcpv4.DHCPv4, *dhcpv6.Message, *ndp.RouterAdvertisement) {
	t.Helper()
	four := ask4(t, s, l, guestMAC, request4(t, dhcpv4.MessageTypeDiscover).ToBytes())
	six := ask6(t, s, l, info6(t))
	s.Input(solicitation(t, guestLL, nil))
	ra := l.take()
	if len(four) != 1 || len(six) != 1 || len(ra) != 1 {
		t.Fatalf("%d, %d and %d answers", len(four), len(six), len(ra))
	}
	return parse4(t, four[0]), parse6(t, six[0]), parseRA(t, ra[0])
}

// TestUntold: name servers and search domains can be left out, of all three.
func TestUntold(t *testing.T) {
	for name, row := range map[string]struct {
		spec.Autoconf
		dns, search bool
	}{
		"all":       {spec.Autoconf{}, true, true},
		"no DNS":    {spec.Autoconf{NoDHCPDNS: true}, false, true},
		"no search": {spec.Autoconf{NoDHCPSearch: true}, true, false},
	} {
		s, l := newServer(t, with(row.Autoconf))
		four, six, ra := all(t, s, l)
		var raDNS, raSearch bool
		for _, o := range ra.Options {
			switch o.(type) {
			case *ndp.RecursiveDNSServer:
				raDNS = true
			case *ndp.DNSSearchList:
				raSearch = true
			}
		}
		if got := [3]bool{len(four.DNS()) > 0, len(six.Options.DNS()) > 0, raDNS}; got != [3]bool{row.dns, row.dns, row.dns} {
			t.Errorf("%s: name servers told: %v", name, got)
		}
		search6 := six.Options.DomainSearchList()
		got := [3]bool{four.Options.Has(dhcpv4.OptionDNSDomainSearchList), search6 != nil && len(search6.Labels) > 0, raSearch}
		if got != [3]bool{row.search, row.search, row.search} {
			t.Errorf("%s: search domains told: %v", name, got)
		}
	}
}

// TestNames: what the guest is to call itself comes before its endpoint's name; a name that is none is not told.
func TestNames(t *testing.T) {
	s, l := newServer(t, with(spec.Autoconf{Hostname: "web", FQDN: "web.example.org."}))
	four, six, _ := all(t, s, l)
	if four.HostName() != "web" {
		t.Errorf("host name %q", four.HostName())
	}
	want := "\x05\xff\xff\x03web\x07example\x03org\x00"
	if got := string(four.Options.Get(dhcpv4.OptionFQDN)); got != want {
		t.Errorf("option 81 is %q, want %q", got, want)
	}
	if f := six.Options.FQDN(); f == nil || f.Flags != 1 || len(f.DomainName.Labels) != 1 || f.DomainName.Labels[0] != "web.example.org" {
		t.Errorf("option 39 is %v", f)
	}
	s, l = newServer(t, with(spec.Autoconf{FQDN: "web..org"}))
	four, six, _ = all(t, s, l)
	if four.HostName() != "box" || four.Options.Has(dhcpv4.OptionFQDN) || six.Options.FQDN() != nil {
		t.Errorf("a bad name was told: %v %v", four.Summary(), six)
	}
}

// TestRouterElsewhere: a router outside of the subnet is one on the link (RFC 3442), and one that is link-local is
// advertised as itself.
func TestRouterElsewhere(t *testing.T) {
	n := testNet
	n.Subnet4, n.Gateway6 = netip.MustParsePrefix("10.0.3.7/32"), netip.MustParseAddr("fe80::1")
	s, l := newServer(t, n)
	m := ask4(t, s, l, guestMAC, request4(t, dhcpv4.MessageTypeDiscover).ToBytes())
	if len(m) != 1 {
		t.Fatalf("%d answers", len(m))
	}
	routes := parse4(t, m[0]).ClasslessStaticRoute()
	gw := net.IP(testNet.Gateway4.AsSlice())
	if len(routes) != 2 || !routes[0].Dest.IP.Equal(gw) || !routes[0].Router.Equal(net.IPv4zero) || !routes[1].Router.Equal(gw) {
		t.Errorf("routes %v", routes)
	}
	s.Input(solicitation(t, guestLL, nil))
	if ra := l.take(); len(ra) != 1 || ra[0].Src != n.Gateway6 {
		t.Errorf("advertised by %v", ra)
	}
}
