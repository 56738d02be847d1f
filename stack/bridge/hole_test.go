package bridge_test

import (
	"net/netip"
	"testing"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/bridge"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

var c = packettest.NewStation(102) // a third strict container

// apartWorld is a switch whose containers may not talk to each other, but a to b on TCP 80 and UDP 53.
func apartWorld(t testing.TB) *world {
	t.Helper()
	w := newWorld(t, func(cfg *bridge.PortConfig) {
		if !cfg.Trusted {
			cfg.Group = bridge.GroupContainers
		}
		if cfg.ID == "g" {
			*cfg = bridge.PortConfig{ID: "c", MAC: c.MAC, Addrs: []netip.Addr{c.IP4, c.IP6}, Strict: true, Group: bridge.GroupContainers}
		}
	})
	w.port["b"].SetHoles([]bridge.Hole{{From: "a", Proto: packettest.ProtoTCP, Port: 80}, {From: "a", Proto: packettest.ProtoUDP, Port: 53}})
	return w
}

// segmentOf is a TCP segment between two containers, of either family.
func segmentOf(from, to packettest.Station, v6 bool, sport, dport uint16, flags uint8) l2.Frame {
	src, dst := from.IP4, to.IP4
	if v6 {
		src, dst = from.IP6, to.IP6
	}
	return packettest.Frame(from.MAC, to.MAC,
		packettest.TCP(netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport), flags, 1, 0, []byte("x")))
}

func datagramOf(from, to packettest.Station, v6 bool, sport, dport uint16) l2.Frame {
	src, dst := from.IP4, to.IP4
	if v6 {
		src, dst = from.IP6, to.IP6
	}
	return packettest.Frame(from.MAC, to.MAC,
		packettest.UDP(netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport), []byte("x")))
}

// errorOf is an ICMP error of from's to to about f.
func errorOf(from, to packettest.Station, f l2.Frame) l2.Frame {
	if f.Header.Type() == l2.TypeIPv6 {
		return packettest.Frame(from.MAC, to.MAC, packettest.ICMP(from.IP6, to.IP6, 1, 4, 0, f.L3[0]))
	}
	return packettest.Frame(from.MAC, to.MAC, packettest.ICMP(from.IP4, to.IP4, 3, 3, 0, f.L3[0][:28]))
}

// HC-13, LK6, DB-icc: what passes between containers that are kept apart, and what does not.
func TestHC13Holes(t *testing.T) {
	const syn, ack, synAck = packettest.SYN, packettest.ACK, packettest.SYN | packettest.ACK
	first := edited(datagramOf(a, b, false, 1000, 53), func(l3 []byte) { l3[6] = 0x20; packettest.FixIPv4(l3) })
	later := edited(datagramOf(a, b, false, 1000, 99), func(l3 []byte) { l3[7] = 10; packettest.FixIPv4(l3) })
	tcpPart := edited(segmentOf(a, b, false, 1000, 80, ack), func(l3 []byte) { l3[6] = 0x20; packettest.FixIPv4(l3) })
	nowhere := netip.MustParseAddr("10.0.2.250")
	type row struct {
		name     string
		from, to string
		f        l2.Frame
		pass     bool
	}
	rows := []row{
		{"ping", "a", "b", ping(a, b), false},
		{"ping back", "b", "a", ping6(b, a), false},
		{"of one that is not named", "c", "b", segmentOf(c, b, false, 1000, 80, syn), false},
		{"to one without a hole", "a", "c", segmentOf(a, c, false, 1000, 80, syn), false},
		{"first fragment", "a", "b", first, true},
		{"later fragment", "a", "b", later, true},
		{"fragment of TCP", "a", "b", tcpPart, false},
		{"fragment of another", "c", "b", edited(datagramOf(c, b, false, 1, 53), func(l3 []byte) { l3[7] = 10; packettest.FixIPv4(l3) }), false},
		{"ARP request", "a", "b", arpFor(a, b), true},
		{"ARP request back", "b", "a", arpFor(b, a), true},
		{"ARP reply", "b", "a", packettest.ARP(packettest.ARPReply, b.MAC, b.IP4, a.MAC, a.IP4), true},
		{"ARP for somebody else", "a", "b", packettest.ARP(packettest.ARPRequest, a.MAC, a.IP4, l2.MAC{}, nowhere), false},
		{"ARP of a third", "c", "b", arpFor(c, b), false},
		{"solicitation", "a", "b", packettest.NS(a.MAC, a.IP6, b.IP6), true},
		{"solicitation of a link-local address", "a", "b", packettest.NS(a.MAC, a.IP6, packettest.LinkLocal(b.MAC)), true},
		{"solicitation of a third", "c", "b", packettest.NS(c.MAC, c.IP6, b.IP6), false},
		{"advertisement to all", "b", "a", packettest.NA(b.MAC, b.IP6), false},
	}
	for _, v6 := range []bool{false, true} {
		other := segmentOf(b, a, v6, 443, 1000, ack)
		rows = append(rows, []row{
			{"SYN", "a", "b", segmentOf(a, b, v6, 1000, 80, syn), true},
			{"SYN-ACK", "b", "a", segmentOf(b, a, v6, 80, 1000, synAck), true},
			{"data", "b", "a", segmentOf(b, a, v6, 80, 1000, ack), true},
			{"SYN from the port", "b", "a", segmentOf(b, a, v6, 80, 1000, syn), false},
			{"SYN back to the port", "b", "a", segmentOf(b, a, v6, 1000, 80, syn), false},
			{"another port", "a", "b", segmentOf(a, b, v6, 80, 81, syn), false},
			{"another port back", "b", "a", other, false},
			{"TCP to the UDP port", "a", "b", segmentOf(a, b, v6, 1000, 53, syn), false},
			{"datagram", "a", "b", datagramOf(a, b, v6, 1000, 53), true},
			{"answer", "b", "a", datagramOf(b, a, v6, 53, 1000), true},
			{"another datagram", "a", "b", datagramOf(a, b, v6, 53, 80), false},
			{"error about a datagram", "b", "a", errorOf(b, a, datagramOf(a, b, v6, 1000, 53)), true},
			{"error about an answer", "a", "b", errorOf(a, b, segmentOf(b, a, v6, 80, 1000, ack)), true},
			{"error about another port", "b", "a", errorOf(b, a, datagramOf(a, b, v6, 1000, 54)), false},
			{"error about a flow to elsewhere", "b", "a", errorOf(b, a, segmentOf(a, gw, v6, 1000, 80, ack)), false},
			{"error about an error", "b", "a", errorOf(b, a, errorOf(a, b, datagramOf(b, a, v6, 53, 1000))), false},
			{"to all", "a", "b", packettest.Frame(a.MAC, l2.Broadcast, datagramOf(a, b, v6, 1000, 53).L3[0]), false},
		}...)
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			w := apartWorld(t)
			w.send(r.from, r.f)
			got := len(w.out[r.to].Frames())
			if (got == 1) != r.pass {
				t.Errorf("%d frames came through, want %v\n%s", got, r.pass, packettest.Dump(r.f))
			}
			for name, out := range w.out {
				if name != r.to && name != "gw" && len(out.Frames()) > 0 {
					t.Errorf("%s sees it\n%s", name, packettest.Dump(r.f))
				}
			}
		})
	}
}

// HC-13: a hole closes as it was opened, while the ports stay.
func TestHC13HolesClose(t *testing.T) {
	w := apartWorld(t)
	syn := segmentOf(a, b, false, 1000, 80, packettest.SYN)
	w.send("a", syn)
	w.port["b"].SetHoles(nil)
	w.send("a", syn)
	packettest.Run(t, &w.result, packettest.All(packettest.OutOn("b", 1), packettest.OnlyDropped(drop.PortIsolated, 1)))
}

// HC-13: whatever bytes a sends to b, what comes out is of one of the holes by another decoder's reading.
func FuzzHoles(f *testing.F) {
	for _, s := range seeds() {
		f.Add(packettest.Bytes(s))
	}
	for _, v6 := range []bool{false, true} {
		f.Add(packettest.Bytes(segmentOf(a, b, v6, 1, 80, packettest.SYN)))
		f.Add(packettest.Bytes(datagramOf(a, b, v6, 1, 53)))
		f.Add(packettest.Bytes(errorOf(a, b, datagramOf(b, a, v6, 53, 1))))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) < l2.HeaderLen {
			return
		}
		frame := packettest.Raw(raw)
		w := apartWorld(t)
		w.send("a", frame)
		for _, out := range w.out["b"].Frames() {
			p, err := packettest.Decode(out)
			switch {
			case err != nil: // ARP, a fragment
			case p.Proto == packettest.ProtoTCP && p.Dst.Port() != 80:
				t.Fatalf("TCP to port %d came through\n%s", p.Dst.Port(), packettest.Dump(out))
			case p.Proto == packettest.ProtoUDP && p.Dst.Port() != 53 && raw[l2.HeaderLen]>>4 == 4 && raw[l2.HeaderLen+6]&0x1f == 0 && raw[l2.HeaderLen+7] == 0:
				t.Fatalf("UDP to port %d came through\n%s", p.Dst.Port(), packettest.Dump(out))
			case p.Proto == packettest.ProtoICMP && (p.Kind == 0 || p.Kind == 8):
				t.Fatalf("a ping came through\n%s", packettest.Dump(out))
			}
		}
		if len(w.out["c"].Frames()) > 0 || len(w.out["h"].Frames()) > 0 {
			t.Fatalf("another container sees it\n%s", packettest.Dump(frame))
		}
	})
}
