package bridge_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/stack/bridge"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// gso gives a TCP or UDP frame without IP options the VNet header the kernel would give it.
func gso(f l2.Frame, kind uint8, size uint16) l2.Frame {
	start, field, header := uint16(l2.HeaderLen+20), uint16(16), uint16(20)
	if f.Header.Type() == l2.TypeIPv6 {
		start += 20
	}
	if kind == l2.GSOUDPL4 {
		field, header = 6, 8
	}
	f.VNet = l2.VNet{
		Flags: l2.VNetNeedsCsum, GSOType: kind, HdrLen: start + header,
		GSOSize: size, CsumStart: start, CsumOffset: field,
	}
	return f
}

func tcp(from, to packettest.Station, v6 bool, payload int) l2.Frame {
	src, dst := from.IP4, to.IP4
	if v6 {
		src, dst = from.IP6, to.IP6
	}
	return packettest.Frame(from.MAC, to.MAC, packettest.TCP(
		netip.AddrPortFrom(src, 1000), netip.AddrPortFrom(dst, 80), packettest.ACK, 1, 1, make([]byte, payload)))
}

func datagram(payload int) l2.Frame {
	return packettest.Frame(a.MAC, gw.MAC, packettest.UDP(
		netip.AddrPortFrom(a.IP4, 1000), netip.AddrPortFrom(gw.IP4, 443), make([]byte, payload)))
}

// vnet changes the VNet header of a frame.
func vnet(f l2.Frame, edit func(v *l2.VNet)) l2.Frame {
	edit(&f.VNet)
	return f
}

func TestHonestVNet(t *testing.T) {
	partial := func(f l2.Frame) l2.Frame {
		return vnet(gso(f, l2.GSOTCPv4, 0), func(v *l2.VNet) { v.GSOType, v.HdrLen = l2.GSONone, 0 })
	}
	for name, row := range map[string]struct {
		f        l2.Frame
		segments int
	}{
		"complete":                    {ping(a, gw), 1},
		"sum verified":                {vnet(ping(a, gw), func(v *l2.VNet) { v.Flags = l2.VNetDataValid }), 1},
		"sum open":                    {partial(tcp(a, gw, false, 10)), 1},
		"TSO, 64 KiB":                 {gso(tcp(a, gw, false, 65_495), l2.GSOTCPv4, 1448), 46},
		"TSO, smallest MSS":           {gso(tcp(a, gw, false, 65_495), l2.GSOTCPv4, 524), 125},
		"TSO with ECN":                {gso(tcp(a, gw, false, 3000), l2.GSOTCPv4|l2.GSOECN, 1448), 3},
		"TSO, IPv6":                   {gso(tcp(a, gw, true, 2896), l2.GSOTCPv6, 1448), 2},
		"one segment after all":       {gso(tcp(a, gw, false, 100), l2.GSOTCPv4, 1448), 1},
		"USO":                         {gso(datagram(12_001), l2.GSOUDPL4, 1200), 11},
		"HdrLen of the linear part":   {vnet(gso(tcp(a, gw, false, 3000), l2.GSOTCPv4, 1448), func(v *l2.VNet) { v.HdrLen = 14 + 40 + 3000 }), 3},
		"sum of an inner packet open": {vnet(partial(datagram(200)), func(v *l2.VNet) { v.CsumStart = 14 + 28 + 50 }), 1},
		"TSO, IPv6 with options header": {vnet(gso(with6(tcp(a, gw, true, 3000), 60, []byte{6, 0, 1, 4, 0, 0, 0, 0}), l2.GSOTCPv6, 1448),
			func(v *l2.VNet) { v.CsumStart += 8; v.HdrLen += 8 }), 3},
	} {
		segments, r := bridge.Validate(&row.f)
		if r != drop.None || segments != row.segments {
			t.Errorf("%s: Validate = %d, %v; want %d segments\n%s", name, segments, r, row.segments, packettest.Dump(row.f))
		}
		w := newWorld(t, nil)
		w.send("a", row.f)
		packettest.Run(t, &w.result, packettest.OutOn("gw", 1, packettest.Same(row.f)))
	}
}

// HC-29: a VNet header that contradicts its frame is a counted drop.
func TestLyingVNet(t *testing.T) {
	good := func() l2.Frame { return gso(tcp(a, gw, false, 3000), l2.GSOTCPv4, 1448) }
	size := uint16(14 + 40 + 3000)
	partial := func(edit func(v *l2.VNet)) l2.Frame {
		return vnet(good(), func(v *l2.VNet) { v.GSOType, v.GSOSize = l2.GSONone, 0; edit(v) })
	}
	fragment := func(f l2.Frame) l2.Frame {
		return edited(f, func(p []byte) { p[6] = 0x20; packettest.FixIPv4(p) })
	}
	rows := map[string]l2.Frame{
		"gso_size 0":                    vnet(good(), func(v *l2.VNet) { v.GSOSize = 0 }),
		"gso_size 1":                    vnet(good(), func(v *l2.VNet) { v.GSOSize = 1 }),
		"gso_size 7":                    vnet(good(), func(v *l2.VNet) { v.GSOSize = 7 }),
		"129 segments":                  gso(tcp(a, gw, false, 128*100+1), l2.GSOTCPv4, 100),
		"129 segments of UDP":           gso(datagram(128*100+1), l2.GSOUDPL4, 100),
		"hdr_len past the end":          vnet(good(), func(v *l2.VNet) { v.HdrLen = size + 1 }),
		"hdr_len past the end, no GSO":  vnet(ping(a, gw), func(v *l2.VNet) { v.HdrLen = 60_000 }),
		"csum_start past the end":       partial(func(v *l2.VNet) { v.CsumStart = 65_535 }),
		"csum_start at the end":         partial(func(v *l2.VNet) { v.CsumStart = size }),
		"field half past the end":       partial(func(v *l2.VNet) { v.CsumStart = size - 17 }),
		"csum_offset past the end":      partial(func(v *l2.VNet) { v.CsumOffset = 65_535 }),
		"csum_start in Ethernet":        partial(func(v *l2.VNet) { v.CsumStart = 0 }),
		"csum_start in IP":              partial(func(v *l2.VNet) { v.CsumStart = 14 + 10 }),
		"csum_start elsewhere with GSO": vnet(good(), func(v *l2.VNet) { v.CsumStart += 4 }),
		"csum_offset of UDP for TCP":    vnet(good(), func(v *l2.VNet) { v.CsumOffset = 6 }),
		"GSO without open sum":          vnet(good(), func(v *l2.VNet) { v.Flags = 0 }),
		"unknown flag":                  vnet(good(), func(v *l2.VNet) { v.Flags |= 0x80 }),
		"unknown kind":                  vnet(good(), func(v *l2.VNet) { v.GSOType = 2 }),
		"ECN without TCP":               vnet(gso(datagram(3000), l2.GSOUDPL4, 1000), func(v *l2.VNet) { v.GSOType |= l2.GSOECN }),
		"ECN alone":                     vnet(good(), func(v *l2.VNet) { v.GSOType = l2.GSOECN }),
		"UFO":                           gso(datagram(3000), l2.GSOUDP, 1000),
		"TCPv6 on IPv4":                 vnet(good(), func(v *l2.VNet) { v.GSOType = l2.GSOTCPv6 }),
		"TCPv4 on IPv6":                 gso(tcp(a, gw, true, 3000), l2.GSOTCPv4, 1000),
		"TCP kind on UDP":               vnet(gso(datagram(3000), l2.GSOUDPL4, 1000), func(v *l2.VNet) { v.GSOType, v.CsumOffset = l2.GSOTCPv4, 16 }),
		"UDP kind on TCP":               vnet(good(), func(v *l2.VNet) { v.GSOType, v.CsumOffset = l2.GSOUDPL4, 6 }),
		"GSO of a fragment":             fragment(good()),
		"open sum of a fragment":        fragment(partial(func(*l2.VNet) {})),
		"GSO of ARP":                    vnet(arpFor(a, gw), func(v *l2.VNet) { *v = good().VNet }),
		"open sum of ARP":               vnet(arpFor(a, gw), func(v *l2.VNet) { v.Flags, v.CsumStart = l2.VNetNeedsCsum, 14 }),
		"total length short of frame":   edited(good(), func(p []byte) { binary.BigEndian.PutUint16(p[2:], 1500); packettest.FixIPv4(p) }),
		"total length past the frame":   edited(good(), func(p []byte) { binary.BigEndian.PutUint16(p[2:], 4000); packettest.FixIPv4(p) }),
		"TCP header past the end":       gso(edited(tcp(a, gw, false, 0), func(p []byte) { p[20+12] = 0xf0 }), l2.GSOTCPv4, 100),
		"TCP header too short":          edited(good(), func(p []byte) { p[20+12] = 0x40 }),
		"TCP header cut":                gso(packettest.Frame(a.MAC, gw.MAC, packettest.IP(a.IP4, gw.IP4, packettest.ProtoTCP, make([]byte, 12))), l2.GSOTCPv4, 100),
		"UDP header cut":                gso(packettest.Frame(a.MAC, gw.MAC, packettest.IP(a.IP4, gw.IP4, packettest.ProtoUDP, make([]byte, 7))), l2.GSOUDPL4, 100),
	}
	for name, f := range rows {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.send("a", f)
			packettest.Run(t, &w.result, refused(drop.VNetBad))
		})
	}
	w := newWorld(t, nil)
	w.send("a", good())
	packettest.Run(t, &w.result, packettest.NoDrops())
}

// A port that has no VNet headers cannot deliver one.
func TestVNetFromPlainPort(t *testing.T) {
	w := newWorld(t, nil)
	w.send("g", gso(tcp(g, gw, false, 3000), l2.GSOTCPv4, 1448))
	packettest.Run(t, &w.result, refused(drop.VNetBad))
	w = newWorld(t, nil)
	w.send("h", gso(tcp(h, gw, false, 3000), l2.GSOTCPv4, 1448))
	packettest.Run(t, &w.result, packettest.OutOn("gw", 1))
}
