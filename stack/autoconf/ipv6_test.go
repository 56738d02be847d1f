package autoconf

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/mdlayher/ndp"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

var guestDUID = &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: net.HardwareAddr(guestMAC[:])}

// message6 is a client's message, with a client identifier.
func message6(t testing.TB, kind dhcpv6.MessageType, opts ...dhcpv6.Option) []byte {
	m, err := dhcpv6.NewMessage()
	if err != nil {
		t.Fatal(err)
	}
	m.MessageType = kind
	m.AddOption(dhcpv6.OptClientID(guestDUID))
	for _, o := range opts {
		m.AddOption(o)
	}
	return m.ToBytes()
}

func info6(t testing.TB) []byte { return message6(t, dhcpv6.MessageTypeInformationRequest) }

func ask6(t testing.TB, s *Server, l *link, msg []byte) []sentPacket {
	t.Helper()
	p := datagram(t, guestMAC, netip.AddrPortFrom(guestLL, 546), netip.AddrPortFrom(allServers, 547), msg)
	if !s.Input(p) {
		t.Error("Input did not take a DHCPv6 message")
	}
	return l.take()
}

func parse6(t testing.TB, p sentPacket) *dhcpv6.Message {
	t.Helper()
	src, dst, _ := p.Ports()
	b, _ := p.UDPPayload()
	m, err := dhcpv6.MessageFromBytes(b)
	if err != nil || src != 547 || dst != 546 || p.dst != guestLL || !p.Src.IsLinkLocalUnicast() {
		t.Fatalf("answer from %v:%d to %v:%d: %v, error %v", p.Src, src, p.dst, dst, m, err)
	}
	return m
}

// TestDHCP6 has a row for each message type.
func TestDHCP6(t *testing.T) {
	server := func(s *Server) dhcpv6.Option { return dhcpv6.OptServerID(s.duid()) }
	stranger := dhcpv6.OptServerID(guestDUID)
	ia := &dhcpv6.OptIANA{IaId: [4]byte{1, 2, 3, 4}}
	pd := &dhcpv6.OptIAPD{IaId: [4]byte{5, 6, 7, 8}}
	big := dhcpv6.OptClientID(&dhcpv6.DUIDEN{EnterpriseNumber: 1, EnterpriseIdentifier: bytes.Repeat([]byte{1}, 125)})
	for _, tt := range []struct {
		name   string
		kind   dhcpv6.MessageType
		opts   []dhcpv6.Option
		toUs   bool
		want   dhcpv6.MessageType // 0: no answer
		status iana.StatusCode    // of each IA
	}{
		{"information", dhcpv6.MessageTypeInformationRequest, nil, false, dhcpv6.MessageTypeReply, 0},
		{"information from us", dhcpv6.MessageTypeInformationRequest, nil, true, dhcpv6.MessageTypeReply, 0},
		{"information from another", dhcpv6.MessageTypeInformationRequest, []dhcpv6.Option{stranger}, false, 0, 0},
		{"information with an IA", dhcpv6.MessageTypeInformationRequest, []dhcpv6.Option{ia}, false, 0, 0},
		{"solicit", dhcpv6.MessageTypeSolicit, []dhcpv6.Option{ia, pd}, false, dhcpv6.MessageTypeAdvertise, iana.StatusNoAddrsAvail},
		{"solicit with a server", dhcpv6.MessageTypeSolicit, []dhcpv6.Option{ia}, true, 0, 0},
		{"solicit with nine IAs", dhcpv6.MessageTypeSolicit, []dhcpv6.Option{ia, ia, ia, ia, ia, ia, ia, ia, ia}, false, 0, 0},
		{"request", dhcpv6.MessageTypeRequest, []dhcpv6.Option{ia}, true, dhcpv6.MessageTypeReply, iana.StatusNoAddrsAvail},
		{"request from another", dhcpv6.MessageTypeRequest, []dhcpv6.Option{ia, stranger}, false, 0, 0},
		{"request from nobody", dhcpv6.MessageTypeRequest, []dhcpv6.Option{ia}, false, 0, 0},
		{"renew", dhcpv6.MessageTypeRenew, []dhcpv6.Option{ia}, true, dhcpv6.MessageTypeReply, iana.StatusNoBinding},
		{"rebind", dhcpv6.MessageTypeRebind, []dhcpv6.Option{ia}, false, dhcpv6.MessageTypeReply, iana.StatusNoBinding},
		{"release", dhcpv6.MessageTypeRelease, []dhcpv6.Option{ia}, true, dhcpv6.MessageTypeReply, iana.StatusNoBinding},
		{"decline", dhcpv6.MessageTypeDecline, []dhcpv6.Option{ia}, true, dhcpv6.MessageTypeReply, iana.StatusNoBinding},
		{"confirm", dhcpv6.MessageTypeConfirm, []dhcpv6.Option{ia}, false, 0, 0},
		{"advertise", dhcpv6.MessageTypeAdvertise, nil, true, 0, 0},
		{"reply", dhcpv6.MessageTypeReply, nil, true, 0, 0},
		{"relayed", dhcpv6.MessageTypeRelayForward, nil, false, 0, 0},
		{"huge identifier", dhcpv6.MessageTypeSolicit, []dhcpv6.Option{big}, false, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, l := newServer(t, testNet)
			opts := tt.opts
			if tt.toUs {
				opts = append(opts, server(s))
			}
			msg := message6(t, tt.kind, opts...)
			if tt.name == "huge identifier" {
				m, _ := dhcpv6.NewMessage()
				m.MessageType = tt.kind
				m.AddOption(big)
				msg = m.ToBytes()
			}
			sent := ask6(t, s, l, msg)
			if tt.want == 0 {
				if n := len(s.env.Drops.Snapshot()); len(sent) != 0 || n != 1 {
					t.Fatalf("%d answers and %d kinds of drops, want 0 and 1", len(sent), n)
				}
				return
			}
			if len(sent) != 1 {
				t.Fatalf("%d answers, want 1; drops %v", len(sent), s.env.Drops.Snapshot())
			}
			r := parse6(t, sent[0])
			if r.MessageType != tt.want || !bytes.Equal(r.TransactionID[:], msg[1:4]) || !r.Options.ServerID().Equal(s.duid()) || !r.Options.ClientID().Equal(guestDUID) {
				t.Errorf("answer %v, want %v with both identifiers", r.Summary(), tt.want)
			}
			if got := r.Options.DNS(); len(got) != 1 || got[0].String() != "fd00::3" {
				t.Errorf("DNS %v", got)
			}
			if d := cmp.Diff([]string{"corp.example", "lan"}, r.Options.DomainSearchList().Labels); d != "" {
				t.Errorf("search (-want +got):\n%s", d)
			}
			for _, got := range r.Options.IANA() {
				if st := got.Options.Status(); st == nil || st.StatusCode != tt.status || got.IaId != ia.IaId {
					t.Errorf("IA %v, want status %v", got, tt.status)
				}
			}
			if n := len(r.Options.IANA()) + len(r.Options.IAPD()); n != len(tt.opts) {
				t.Errorf("%d identity associations answered, want %d", n, len(tt.opts))
			}
		})
	}
}

// TestDHCP6Lease: a Network with an address to give gives it, and tells who wants another to begin anew.
func TestDHCP6Lease(t *testing.T) {
	n := testNet
	n.Autoconf.Lease6 = netip.MustParseAddr("fd00::100")
	with := func(a string) *dhcpv6.OptIANA {
		ia := &dhcpv6.OptIANA{IaId: [4]byte{1, 2, 3, 4}}
		if a != "" {
			ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(a)})
		}
		return ia
	}
	for _, tt := range []struct {
		name   string
		kind   dhcpv6.MessageType
		has    string // address in the question
		toUs   bool
		lease  bool
		status iana.StatusCode // of the association, or with confirm of the message
	}{
		{"solicit", dhcpv6.MessageTypeSolicit, "", false, true, 0},
		{"solicit of another", dhcpv6.MessageTypeSolicit, "fd00::9", false, true, 0},
		{"request", dhcpv6.MessageTypeRequest, "fd00::100", true, true, 0},
		{"request of another", dhcpv6.MessageTypeRequest, "fd00::9", true, false, iana.StatusNotOnLink},
		{"renew", dhcpv6.MessageTypeRenew, "fd00::100", true, true, 0},
		{"rebind", dhcpv6.MessageTypeRebind, "fd00::100", false, true, 0},
		{"confirm", dhcpv6.MessageTypeConfirm, "fd00::100", false, false, iana.StatusSuccess},
		{"confirm of another", dhcpv6.MessageTypeConfirm, "fd00::9", false, false, iana.StatusNotOnLink},
		{"release", dhcpv6.MessageTypeRelease, "fd00::100", true, false, iana.StatusNoBinding},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, l := newServer(t, n)
			opts := []dhcpv6.Option{with(tt.has), &dhcpv6.OptIAPD{}}
			if tt.toUs {
				opts = append(opts, dhcpv6.OptServerID(s.duid()))
			}
			sent := ask6(t, s, l, message6(t, tt.kind, opts...))
			if len(sent) != 1 {
				t.Fatalf("%d answers, drops %v", len(sent), s.env.Drops.Snapshot())
			}
			r := parse6(t, sent[0])
			if tt.kind == dhcpv6.MessageTypeConfirm {
				if st := r.Options.Status(); st == nil || st.StatusCode != tt.status || len(r.Options.IANA()) != 0 {
					t.Errorf("answer %v, want status %v alone", r.Summary(), tt.status)
				}
				return
			}
			ia := r.Options.OneIANA()
			if ia == nil || ia.IaId != with("").IaId {
				t.Fatalf("answer %v has no association", r.Summary())
			}
			if a := ia.Options.OneAddress(); tt.lease != (a != nil) || a != nil && (a.IPv6Addr.String() != "fd00::100" || a.ValidLifetime != forever) {
				t.Errorf("address %v", a)
			}
			if st := ia.Options.Status(); !tt.lease && (st == nil || st.StatusCode != tt.status) {
				t.Errorf("status %v, want %v", st, tt.status)
			}
			if pd := r.Options.OneIAPD(); pd == nil || pd.Options.Status() == nil {
				t.Errorf("prefix delegation %v, want it refused", pd)
			}
		})
	}
}

// TestDHCP6ConfirmNothing: a client that names no address is not told that it may keep it.
func TestDHCP6ConfirmNothing(t *testing.T) {
	n := testNet
	n.Autoconf.Lease6 = netip.MustParseAddr("fd00::100")
	s, l := newServer(t, n)
	for _, opts := range [][]dhcpv6.Option{nil, {&dhcpv6.OptIANA{}}} {
		if sent := ask6(t, s, l, message6(t, dhcpv6.MessageTypeConfirm, opts...)); len(sent) != 0 {
			t.Errorf("%v: answered: %v", opts, parse6(t, sent[0]).Summary())
		}
	}
}

// TestDHCP6Truncated: a message cut anywhere.
func TestDHCP6Truncated(t *testing.T) {
	s, l := newServer(t, testNet)
	msg := message6(t, dhcpv6.MessageTypeSolicit, &dhcpv6.OptIANA{IaId: [4]byte{1}}, dhcpv6.OptElapsedTime(0))
	for n := range msg {
		ask6(t, s, l, msg[:n])
	}
}

// solicitation is a router solicitation; change may spoil its bytes before the checksum is computed.
func solicitation(t testing.TB, src netip.Addr, change func(h, icmp []byte), opts ...ndp.Option) *ip.Packet {
	msg, err := ndp.MarshalMessage(&ndp.RouterSolicitation{Options: opts})
	if err != nil {
		t.Fatal(err)
	}
	h := make([]byte, ip.HeaderLen6)
	dst := netip.MustParseAddr("ff02::2")
	a, b := src.As16(), dst.As16()
	h[0], h[6], h[7] = 6<<4, ip.ICMPv6, 255
	copy(h[8:], a[:])
	copy(h[24:], b[:])
	if change != nil {
		change(h, msg)
	}
	binary.BigEndian.PutUint16(h[4:], uint16(len(msg)))
	return packet(t, guestMAC, append(h, msg...))
}

func lla(m l2.MAC) ndp.Option {
	return &ndp.LinkLayerAddress{Direction: ndp.Source, Addr: net.HardwareAddr(m[:])}
}

func parseRA(t testing.TB, p sentPacket) *ndp.RouterAdvertisement {
	t.Helper()
	m, err := ndp.ParseMessage(p.Payload())
	if err != nil {
		t.Fatal(err)
	}
	ra, ok := m.(*ndp.RouterAdvertisement)
	if !ok || p.TTL != 255 || p.Src != linkLocal(testNet.GatewayMAC) {
		t.Fatalf("sent %T from %v with hop limit %d", m, p.Src, p.TTL)
	}
	return ra
}

func TestRouterAdvertisement(t *testing.T) {
	s, l := newServer(t, testNet)
	if !s.Input(solicitation(t, guestLL, nil, lla(guestMAC))) {
		t.Fatal("Input did not take a solicitation")
	}
	sent := l.take()
	if len(sent) != 1 || sent[0].dst != guestLL {
		t.Fatalf("sent %v, want one to the solicitor", sent)
	}
	want := &ndp.RouterAdvertisement{
		CurrentHopLimit: 64, OtherConfiguration: true, RouterLifetime: 65535 * time.Second,
		Options: []ndp.Option{
			lla(testNet.GatewayMAC), ndp.NewMTU(1500),
			&ndp.PrefixInformation{PrefixLength: 64, OnLink: true, AutonomousAddressConfiguration: true,
				ValidLifetime: ndp.Infinity, PreferredLifetime: ndp.Infinity, Prefix: netip.MustParseAddr("fd00::")},
			&ndp.RecursiveDNSServer{Lifetime: ndp.Infinity, Servers: []netip.Addr{testNet.DNS6}},
			&ndp.DNSSearchList{Lifetime: ndp.Infinity, DomainNames: []string{"corp.example", "lan"}},
		},
	}
	if d := cmp.Diff(want, parseRA(t, sent[0]), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("advertisement (-want +got):\n%s", d)
	}
}

// TestAutonomous: an endpoint whose addresses are enforced is not told to make some, and nor is anybody where the
// prefix is not 64 bits long.
func TestAutonomous(t *testing.T) {
	for _, tt := range []struct {
		allow bool
		bits  int
		want  bool
	}{{true, 64, true}, {false, 64, false}, {true, 96, false}} {
		n := testNet
		n.Subnet6 = netip.PrefixFrom(n.Subnet6.Addr(), tt.bits)
		s, l := newServer(t, n)
		s.opt.Autonomous = func(m l2.MAC) bool { return tt.allow && m == guestMAC }
		s.Input(solicitation(t, guestLL, nil))
		for _, o := range parseRA(t, l.take()[0]).Options {
			if p, ok := o.(*ndp.PrefixInformation); ok && p.AutonomousAddressConfiguration != tt.want {
				t.Errorf("allow %v, /%d: autonomous %v, want %v", tt.allow, tt.bits, p.AutonomousAddressConfiguration, tt.want)
			}
		}
	}
}

// TestSolicitationToAll: a guest without an address, or whose address the Emitter does not know, is answered to all
// nodes, and cannot make us flood them.
func TestSolicitationToAll(t *testing.T) {
	s, l := newServer(t, testNet)
	for range 1000 {
		s.Input(solicitation(t, netip.IPv6Unspecified(), nil))
	}
	sent := l.take()
	if len(sent) == 0 || len(sent) > 5 || sent[0].dst != allNodes {
		t.Errorf("%d advertisements to all nodes for 1000 solicitations", len(sent))
	}
	if n := s.env.Drops.Get(drop.ICMPLimit); n != uint64(1000-len(sent)) {
		t.Errorf("%d drops, want %d", n, 1000-len(sent))
	}
}

func TestBadSolicitation(t *testing.T) {
	for name, p := range map[string]*ip.Packet{
		"hop limit":                    solicitation(t, guestLL, func(h, _ []byte) { h[7] = 254 }),
		"code":                         solicitation(t, guestLL, func(_, m []byte) { m[1] = 1 }),
		"option of 0":                  solicitation(t, guestLL, func(_, m []byte) { m[9] = 0 }, lla(guestMAC)),
		"option long":                  solicitation(t, guestLL, func(_, m []byte) { m[9] = 200 }, lla(guestMAC)),
		"link-layer address of nobody": solicitation(t, netip.IPv6Unspecified(), nil, lla(guestMAC)),
	} {
		s, l := newServer(t, testNet)
		if !s.Input(p) || len(l.take()) != 0 || s.env.Drops.Get(drop.IPMalformed) != 1 {
			t.Errorf("%s: not dropped as malformed", name)
		}
	}
}

// TestRefresh: the default route is kept alive from the first solicitation on, and nothing is sent before.
func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := newServer(t, testNet)
		wait := func(d time.Duration) []sentPacket {
			<-time.After(d)
			synctest.Wait()
			return l.take()
		}
		if sent := wait(1000 * time.Hour); len(sent) != 0 {
			t.Fatalf("%d unsolicited advertisements before anybody was there", len(sent))
		}
		s.Input(solicitation(t, guestLL, nil))
		l.take()
		// Twice in each lifetime, so that one may be lost.
		for range 10 {
			sent := wait(routerLifetime / 2)
			if len(sent) == 0 || len(sent) > 2 {
				t.Fatalf("%d advertisements in half a lifetime", len(sent))
			}
			for _, p := range sent {
				if ra := parseRA(t, p); p.dst != allNodes || ra.RouterLifetime != routerLifetime || len(ra.Options) != 2 {
					t.Errorf("refresh to %v: %v", p.dst, ra)
				}
			}
		}
		s.Close()
		if sent := wait(1000 * time.Hour); len(sent) != 0 {
			t.Errorf("%d advertisements after Close", len(sent))
		}
	})
}

// FuzzDHCP6 (FZ-04): any bytes; at most one answer, which a client understands.
func FuzzDHCP6(f *testing.F) {
	f.Add(info6(f))
	f.Add(message6(f, dhcpv6.MessageTypeSolicit, &dhcpv6.OptIANA{}, &dhcpv6.OptIAPD{}, &dhcpv6.OptIATA{}, dhcpv6.OptElapsedTime(0)))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) > 60000 {
			return
		}
		leases := testNet
		leases.Autoconf.Lease6 = netip.MustParseAddr("fd00::100")
		for _, n := range []spec.Network{testNet, leases} {
			s, l := newServer(t, n)
			sent := ask6(t, s, l, msg)
			if len(sent) > 1 {
				t.Fatalf("%d answers", len(sent))
			}
			for _, p := range sent {
				if parse6(t, p); len(p.Data) > 1500 {
					t.Fatalf("answer of %d bytes", len(p.Data))
				}
			}
		}
	})
}

// FuzzRS (FZ-04): any ICMPv6 message.
func FuzzRS(f *testing.F) {
	f.Add(solicitation(f, guestLL, nil, lla(guestMAC)).Payload(), true)
	f.Add(solicitation(f, guestLL, nil).Payload(), false)
	f.Fuzz(func(t *testing.T, icmp []byte, addressed bool) {
		if len(icmp) < 8 || len(icmp) > 60000 {
			return
		}
		src := netip.IPv6Unspecified()
		if addressed {
			src = guestLL
		}
		s, l := newServer(t, testNet)
		p := solicitation(t, src, nil)
		p = packet(t, guestMAC, append(append(bytes.Clone(p.Data[:4]), byte(len(icmp)>>8), byte(len(icmp)), ip.ICMPv6, 255), append(p.Data[8:40:40], icmp...)...))
		s.Input(p)
		for _, sent := range l.take() {
			parseRA(t, sent)
		}
	})
}
