package autoconf

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// request4 is a client's message of the given type.
func request4(t testing.TB, kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithHwAddr(guestMAC[:]), dhcpv4.WithMessageType(kind),
	}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// ask4 sends msg as a guest without an address does and returns the answers.
func ask4(t testing.TB, s *Server, l *link, mac l2.MAC, msg []byte) []sentPacket {
	t.Helper()
	p := datagram(t, mac, netip.AddrPortFrom(unset4, 68), netip.AddrPortFrom(broadcast4, 67), msg)
	if !s.Input(p) {
		t.Error("Input did not take a DHCP message")
	}
	return l.take()
}

// parse4 is the answer in a packet; it must be a server's.
func parse4(t testing.TB, p sentPacket) *dhcpv4.DHCPv4 {
	t.Helper()
	src, dst, _ := p.Ports()
	msg, _ := p.UDPPayload()
	m, err := dhcpv4.FromBytes(msg)
	if err != nil || src != 67 || dst != 68 || p.Src != testNet.Gateway4 || m.OpCode != dhcpv4.OpcodeBootReply {
		t.Fatalf("answer from %v:%d to port %d: %v, error %v", p.Src, src, dst, m, err)
	}
	return m
}

func opt(o dhcpv4.Option) dhcpv4.Modifier { return dhcpv4.WithOption(o) }

// TestDHCP4 has a row for each line of RFC 2131 that decides something.
func TestDHCP4(t *testing.T) {
	other := net.IPv4(10, 0, 2, 50)
	ours := opt(dhcpv4.OptServerIdentifier(testNet.Gateway4.AsSlice()))
	wants := func(a net.IP) dhcpv4.Modifier { return opt(dhcpv4.OptRequestedIPAddress(a)) }
	has := func(a net.IP) dhcpv4.Modifier { return dhcpv4.WithClientIP(a) }
	mine := net.IP(guestAddr.AsSlice())
	for _, tt := range []struct {
		name string
		kind dhcpv4.MessageType
		mods []dhcpv4.Modifier
		want dhcpv4.MessageType // None: no answer
		to   netip.Addr
		drop drop.Reason
	}{
		{"discover", dhcpv4.MessageTypeDiscover, nil, dhcpv4.MessageTypeOffer, guestAddr, 0},
		{"discover, broadcast", dhcpv4.MessageTypeDiscover, []dhcpv4.Modifier{dhcpv4.WithBroadcast(true)}, dhcpv4.MessageTypeOffer, broadcast4, 0},
		{"discover, wants another", dhcpv4.MessageTypeDiscover, []dhcpv4.Modifier{wants(other)}, dhcpv4.MessageTypeOffer, guestAddr, 0},
		{"discover, rapid commit", dhcpv4.MessageTypeDiscover, []dhcpv4.Modifier{opt(dhcpv4.OptGeneric(dhcpv4.OptionRapidCommit, nil))}, dhcpv4.MessageTypeAck, guestAddr, 0},
		{"selecting", dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{ours, wants(mine)}, dhcpv4.MessageTypeAck, guestAddr, 0},
		{"selecting another address", dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{ours, wants(other)}, dhcpv4.MessageTypeNak, broadcast4, 0},
		{"selecting another server", dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{opt(dhcpv4.OptServerIdentifier(other)), wants(mine)}, 0, netip.Addr{}, drop.NotForUs},
		{"rebooting", dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{wants(mine)}, dhcpv4.MessageTypeAck, guestAddr, 0},
		{"rebooting from another network", dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{wants(net.IPv4(192, 168, 1, 7))}, dhcpv4.MessageTypeNak, broadcast4, 0},
		{"renewing", dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{has(mine)}, dhcpv4.MessageTypeAck, guestAddr, 0},
		{"renewing another", dhcpv4.MessageTypeRequest, []dhcpv4.Modifier{has(other)}, dhcpv4.MessageTypeNak, broadcast4, 0},
		{"asking for nothing", dhcpv4.MessageTypeRequest, nil, dhcpv4.MessageTypeNak, broadcast4, 0},
		{"inform", dhcpv4.MessageTypeInform, []dhcpv4.Modifier{has(mine)}, dhcpv4.MessageTypeAck, guestAddr, 0},
		{"inform from another", dhcpv4.MessageTypeInform, []dhcpv4.Modifier{has(other)}, 0, netip.Addr{}, drop.SrcIPSpoofed},
		{"release", dhcpv4.MessageTypeRelease, []dhcpv4.Modifier{has(mine), ours}, 0, netip.Addr{}, 0},
		{"decline", dhcpv4.MessageTypeDecline, []dhcpv4.Modifier{wants(mine), ours}, 0, netip.Addr{}, 0},
		{"offer", dhcpv4.MessageTypeOffer, nil, 0, netip.Addr{}, drop.IPMalformed},
		{"bootp", dhcpv4.MessageTypeNone, []dhcpv4.Modifier{dhcpv4.WithoutOption(dhcpv4.OptionDHCPMessageType)}, 0, netip.Addr{}, drop.IPMalformed},
		{"reply", dhcpv4.MessageTypeDiscover, []dhcpv4.Modifier{func(d *dhcpv4.DHCPv4) { d.OpCode = dhcpv4.OpcodeBootReply }}, 0, netip.Addr{}, drop.IPMalformed},
		{"somebody else's", dhcpv4.MessageTypeDiscover, []dhcpv4.Modifier{dhcpv4.WithHwAddr(strangeMAC[:])}, 0, netip.Addr{}, drop.SrcMACSpoofed},
		{"relayed", dhcpv4.MessageTypeDiscover, []dhcpv4.Modifier{dhcpv4.WithGatewayIP(other)}, 0, netip.Addr{}, drop.SrcMACSpoofed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, l := newServer(t, testNet)
			m := request4(t, tt.kind, tt.mods...)
			sent := ask4(t, s, l, guestMAC, m.ToBytes())
			if got := s.env.Drops.Snapshot(); tt.drop != drop.None && got[tt.drop.String()] != 1 || tt.drop == drop.None && len(got) != 0 {
				t.Errorf("drops %v, want %v", got, tt.drop)
			}
			if tt.want == dhcpv4.MessageTypeNone {
				if len(sent) != 0 {
					t.Fatalf("answered %v", parse4(t, sent[0]))
				}
				return
			}
			if len(sent) != 1 {
				t.Fatalf("%d answers, want 1", len(sent))
			}
			r := parse4(t, sent[0])
			if r.MessageType() != tt.want || sent[0].dst != tt.to || r.TransactionID != m.TransactionID || l2.MAC(r.ClientHWAddr) != guestMAC {
				t.Errorf("answer to %v: %v\nwant %v to %v", sent[0].dst, r.Summary(), tt.want, tt.to)
			}
			inform, nak := tt.kind == dhcpv4.MessageTypeInform, tt.want == dhcpv4.MessageTypeNak
			if got := addrOf(r.YourIPAddr); (got == guestAddr) == (inform || nak) {
				t.Errorf("yiaddr %v", got)
			}
			if got := r.IPAddressLeaseTime(0); (got == 24*time.Hour) == (inform || nak) {
				t.Errorf("lease time %v", got)
			}
		})
	}
}

// TestDHCP4Options: what an endpoint is told.
func TestDHCP4Options(t *testing.T) {
	s, l := newServer(t, testNet)
	id := []byte{1, 2, 3}
	m := request4(t, dhcpv4.MessageTypeDiscover, opt(dhcpv4.OptClientIdentifier(id)), dhcpv4.WithRequestedOptions(
		dhcpv4.OptionInterfaceMTU, dhcpv4.OptionHostName, dhcpv4.OptionDomainName, dhcpv4.OptionDNSDomainSearchList))
	r := parse4(t, ask4(t, s, l, guestMAC, m.ToBytes())[0])
	mtu, _ := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, r.Options)
	type told struct {
		mask, server, router, dns, host, domain string
		mtu                                     uint16
		search                                  []string
		id                                      string
	}
	got := told{
		net.IP(r.SubnetMask()).String(), r.ServerIdentifier().String(), r.Router()[0].String(), r.DNS()[0].String(), r.HostName(), r.DomainName(),
		mtu, r.DomainSearch().Labels, string(r.Options.Get(dhcpv4.OptionClientIdentifier)),
	}
	want := told{"255.255.255.0", "10.0.2.2", "10.0.2.2", "10.0.2.3", "box", "corp.example", 1500, []string{"corp.example", "lan"}, string(id)}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(told{})); d != "" {
		t.Errorf("offer (-want +got):\n%s", d)
	}
	m = request4(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithRequestedOptions(dhcpv4.OptionRouter))
	r = parse4(t, ask4(t, s, l, guestMAC, m.ToBytes())[0])
	if r.HostName() != "" || r.DomainSearch() != nil || len(r.Router()) != 1 {
		t.Errorf("offer %v has what was not asked for", r.Summary())
	}
}

// TestDHCP4Unknown: a MAC that is no endpoint's gets nothing, however often it asks (HC-10).
func TestDHCP4Unknown(t *testing.T) {
	s, l := newServer(t, testNet)
	for i := range 1000 {
		mac := l2.MAC{2, 9, 9, 9, byte(i >> 8), byte(i)}
		m := request4(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithHwAddr(mac[:]))
		if sent := ask4(t, s, l, mac, m.ToBytes()); len(sent) != 0 {
			t.Fatalf("answered %v", parse4(t, sent[0]))
		}
	}
	m := request4(t, dhcpv4.MessageTypeDiscover)
	if r := parse4(t, ask4(t, s, l, guestMAC, m.ToBytes())[0]); addrOf(r.YourIPAddr) != guestAddr {
		t.Errorf("offer of %v", r.YourIPAddr)
	}
}

// TestDHCP4Size: the answer is never larger than the client takes, whatever the MTU and the client's identifier.
func TestDHCP4Size(t *testing.T) {
	for _, mtu := range []int{68, 576, 1280, 1500, 65535} {
		for _, idLen := range []int{0, 1, 254, 255, 256, 400, 5000} {
			for _, limit := range []uint16{0, 100, 576, 600, 1500, 65535} {
				n := testNet
				n.MTU = mtu
				s, l := newServer(t, n)
				m := request4(t, dhcpv4.MessageTypeDiscover, opt(dhcpv4.OptClientIdentifier(bytes.Repeat([]byte{7}, idLen))))
				if limit > 0 {
					m.UpdateOption(dhcpv4.OptMaxMessageSize(limit))
				}
				for _, p := range ask4(t, s, l, guestMAC, m.ToBytes()) {
					if most := max(576, min(int(limit), 1500)); len(p.Data) > most {
						t.Errorf("mtu %d, identifier of %d bytes, limit %d: packet of %d bytes, want at most %d", mtu, idLen, limit, len(p.Data), most)
					}
					if r := parse4(t, p); addrOf(r.YourIPAddr) != guestAddr || len(r.Router()) != 1 {
						t.Errorf("mtu %d, identifier of %d bytes: %v", mtu, idLen, r.Summary())
					}
				}
			}
		}
	}
}

// TestDHCP4Truncated: a message cut anywhere, and counted lengths that lie.
func TestDHCP4Truncated(t *testing.T) {
	s, l := newServer(t, testNet)
	msg := request4(t, dhcpv4.MessageTypeDiscover, opt(dhcpv4.OptClientIdentifier([]byte("abc")))).ToBytes()
	for n := range msg {
		ask4(t, s, l, guestMAC, msg[:n])
	}
	msg[2] = 255 // hlen
	if sent := ask4(t, s, l, guestMAC, msg); len(sent) != 0 {
		t.Error("answered a hardware address of 255 bytes")
	}
}

// TestDHCP4UnicastFails: the Emitter does not know the address yet.
func TestDHCP4UnicastFails(t *testing.T) {
	s, l := newServer(t, testNet)
	l.known = nil
	sent := ask4(t, s, l, guestMAC, request4(t, dhcpv4.MessageTypeDiscover).ToBytes())
	if len(sent) != 1 || sent[0].dst != broadcast4 {
		t.Errorf("sent %d answers, want one by broadcast", len(sent))
	}
}

// TestNotOurs: DHCP to others than us goes its way, and so does everything in a Network without the family.
func TestNotOurs(t *testing.T) {
	msg := request4(t, dhcpv4.MessageTypeDiscover).ToBytes()
	out := netip.MustParseAddrPort("192.0.2.1:67")
	only4, only6 := testNet, testNet
	only4.Subnet6, only4.Gateway6, only4.DNS6 = netip.Prefix{}, netip.Addr{}, netip.Addr{}
	only6.Subnet4, only6.Gateway4, only6.DNS4 = netip.Prefix{}, netip.Addr{}, netip.Addr{}
	ll, servers := netip.AddrPortFrom(guestLL, 546), netip.AddrPortFrom(allServers, 547)
	for name, tt := range map[string]struct {
		net spec.Network
		p   *ip.Packet
	}{
		"a server outside":   {testNet, datagram(t, guestMAC, netip.AddrPortFrom(guestAddr, 68), out, msg)},
		"another port":       {testNet, datagram(t, guestMAC, netip.AddrPortFrom(guestAddr, 68), netip.AddrPortFrom(testNet.Gateway4, 69), msg)},
		"DHCPv4 in IPv6 net": {only6, datagram(t, guestMAC, netip.AddrPortFrom(unset4, 68), netip.AddrPortFrom(broadcast4, 67), msg)},
		"DHCPv6 in IPv4 net": {only4, datagram(t, guestMAC, ll, servers, info6(t))},
		"RS in IPv4 net":     {only4, solicitation(t, guestLL, nil)},
	} {
		s, l := newServer(t, tt.net)
		if s.Input(tt.p) || len(l.take()) != 0 {
			t.Errorf("%s: taken", name)
		}
	}
}

// FuzzDHCP4 (FZ-04): any bytes; an answer is one a client understands.
func FuzzDHCP4(f *testing.F) {
	for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform, dhcpv4.MessageTypeRelease} {
		f.Add(request4(f, kind, opt(dhcpv4.OptClientIdentifier([]byte("id")))).ToBytes())
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) > 60000 {
			return
		}
		s, l := newServer(t, testNet)
		sent := ask4(t, s, l, guestMAC, msg)
		if len(sent) > 1 {
			t.Fatalf("%d answers", len(sent))
		}
		for _, p := range sent {
			r := parse4(t, p)
			if a := addrOf(r.YourIPAddr); a.IsValid() && a != guestAddr || len(p.Data) > 1500 {
				t.Fatalf("answer of %d bytes: %v", len(p.Data), r.Summary())
			}
		}
	})
}
