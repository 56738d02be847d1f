package rootlesstests

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/usernet/usernet/internal/packettest"
	"github.com/usernet/usernet/rootless-tests/rig"
)

// evil marks payloads that must not be carried.
const evil = "evil"

// carriesEvil matches packets with the mark.
func carriesEvil(d packettest.Decoded) bool { return strings.Contains(string(d.Payload), evil) }

// allowed marks a packet that has evil in it and is carried all the same: it shows that the others would be seen.
const allowed = evil + " but allowed"

// wantDropped sends packets to the gateway and expects that none leaves the host, and that all goes on.
func wantDropped(t *testing.T, r *rig.Rig, sb *rig.Sandbox, packets [][]byte) {
	t.Helper()
	datapath := sb.Datapath(t)
	link, gateway := sb.OpenPacket(t, rig.DevEth0), gatewayMAC(t, sb)
	left := []*rig.Capture{r.R.Capture(t, rig.DevToH, carriesEvil), r.H.Capture(t, "lo", carriesEvil)}
	for i, p := range packets {
		link.SendPacket(t, gateway, p)
		if i%100 == 0 {
			pace(t, link, gateway)
		}
	}
	link.SendPacket(t, gateway, udp(at(rig.SandboxAddr4, 9001), at(rig.X1v4, 9), allowed))
	rig.WaitFor(t, rig.Patience, "a packet that is carried, behind the others", func() bool { return len(left[0].Seen()) > 0 })
	wantAlive(t, r, sb, datapath)
	for _, c := range left {
		for _, d := range c.Seen() {
			if strings.Contains(string(d.Payload), allowed) { // or an ICMP message about it
				continue
			}
			t.Errorf("carried from %v to %v, protocol %d: %.60q", d.Src, d.Dst, d.Proto, d.Payload)
		}
	}
}

// changed returns a copy of an IPv4 packet with some bytes set and the header's checksum made good where the
// header is long enough to have one.
func changed(p []byte, at int, v ...byte) []byte {
	p = bytes.Clone(p)
	copy(p[at:], v)
	if n := int(p[0]&15) * 4; n >= 20 && n <= len(p) {
		packettest.FixIPv4(p)
	}
	return p
}

// withOptions puts options into an IPv4 header.
func withOptions(p []byte, o ...byte) []byte {
	q := slices.Concat(p[:20], o, p[20:])
	q[0] = 0x40 | byte(5+len(o)/4)
	binary.BigEndian.PutUint16(q[2:], uint16(len(q)))
	return packettest.FixIPv4(q)
}

// HC-20: IPv4 headers that lie.
func TestHC20(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	whole := udp(at(rig.SandboxAddr4, 9000), at(rig.X1v4, 9), strings.Repeat(evil, 20))
	long := packettest.UDP(at(rig.SandboxAddr4, 9000), at(rig.X1v4, 9), bytes.Repeat([]byte(evil), 300))
	x1 := rig.X1v4.As4()
	packets := [][]byte{
		changed(whole, 0, 0x40), changed(whole, 0, 0x41), changed(whole, 0, 0x44), changed(whole, 0, 0x4f)[:40], // IHL
		changed(whole, 0, 0x65), changed(whole, 0, 0x05), changed(whole, 0, 0xf5), // version
		changed(whole, 2, 0, 0), changed(whole, 2, 0, 19), changed(whole, 2, 0xff, 0xff), changed(whole, 2, 0, byte(len(whole)+1)), // total length
		changed(whole, 2, 0, 20), changed(whole, 2, 0, 27), // cuts the UDP header
		changed(whole, 24, 0, 0), changed(whole, 24, 0, 7), changed(whole, 24, 0xff, 0xff), // UDP length
		withOptions(whole, slices.Concat([]byte{0x83, 7, 4}, x1[:], []byte{0})...), // LSRR
		withOptions(whole, slices.Concat([]byte{0x89, 7, 4}, x1[:], []byte{0})...), // SSRR
		withOptions(whole, 0x83, 3, 4, 0), withOptions(whole, 0x89, 0, 0, 0),       // of strange lengths
		withOptions(whole, 7, 0, 0, 0), withOptions(whole, 7, 1, 0, 0), withOptions(whole, 0x44, 255, 0, 0),
		changed(whole, 10, 0)[:20], whole[:8], whole[:1],
		changed(whole, 6, 0x20, 0),                             // a first fragment whose length is no multiple of 8
		changed(whole, 6, 0x1f, 0xff),                          // ends beyond 65535
		changed(long, 6, 0x3f, 0xff),                           // and says that more comes
		changed(long, 6, 0x1f, 0x80),                           // ends beyond by a little
		fragment(long, 77, 0, 8), fragment(long, 77, 1192, 16), // never whole
	}
	bad := bytes.Clone(whole)
	bad[10] ^= 0xff // the header's checksum
	wantDropped(t, r, sb, append(packets, bad))
}

// HC-21: ICMP errors about packets that never were, with inner options and unknown transports.
func TestHC21(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	var packets [][]byte
	for _, f := range families {
		inner := udp(at(f.x1, 9), at(f.own, 9000), evil)
		var quotes [][]byte
		for n := range len(inner) {
			quotes = append(quotes, inner[:n])
		}
		for _, proto := range []byte{0, 1, 4, 6, 41, 43, 44, 50, 51, 58, 60, 132, 253, 255} {
			quotes = append(quotes, packettest.IP(f.x1, f.own, proto, []byte("12345678"+evil)))
		}
		if f.own.Is4() {
			quotes = append(quotes, withOptions(inner, 1, 1, 1, 0), withOptions(inner, 7, 4, 4, 0), withOptions(inner, 0x44, 255, 0, 0),
				withOptions(inner, bytes.Repeat([]byte{1}, 40)...), changed(inner, 0, 0x4f), changed(inner, 0, 0x40), changed(inner, 0, 0x65),
				fragment(inner, 1, 8, 8))
		}
		for _, q := range quotes {
			for _, k := range [][2]uint8{{f.unreachable, f.portUnreachable}, {f.timeExceeded, 0}, {f.timeExceeded, 1}, {2, 0}, {3, 4}, {4, 0}, {5, 1}, {12, 0}, {255, 255}} {
				packets = append(packets, packettest.ICMP(f.own, f.x1, k[0], k[1], 1280, q), packettest.ICMP(f.own, f.gateway, k[0], k[1], 0, q))
			}
		}
	}
	wantDropped(t, r, sb, packets)
}

// ext is an IPv6 extension header of n units of 8 bytes beyond the first.
func ext(next, n byte, body ...byte) []byte {
	return append(append([]byte{next, n}, body...), make([]byte, max(8*(int(n)+1)-2-len(body), 0))...)
}

// HC-22: IPv6 chains of headers.
func TestHC22(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	from, to := at(rig.SandboxAddr6, 9000), at(rig.X1v6, 9)
	u := udp(from, to, evil)[40:]
	const hopByHop, routing, frag, destination, none, ah, esp = 0, 43, 44, 60, 59, 51, 50
	chain := func(n int, kind byte, last []byte, lastKind byte) []byte {
		var b []byte
		for i := range n {
			next := kind
			if i == n-1 {
				next = lastKind
			}
			b = append(b, ext(next, 0, 1, 4)...)
		}
		return packettest.IP(rig.SandboxAddr6, rig.X1v6, kind, append(b, last...))
	}
	one := func(kind byte, header ...byte) []byte {
		return packettest.IP(rig.SandboxAddr6, rig.X1v6, kind, append(header, u...))
	}
	x1 := rig.X1v6.As16()
	rh0 := slices.Concat([]byte{17, 2, 0, 1, 0, 0, 0, 0}, x1[:])
	jumbo := one(hopByHop, 17, 0, 0xc2, 4, 0, 1, 0, 0)
	length := udp(from, to, evil)
	zero, more := bytes.Clone(length), bytes.Clone(length)
	binary.BigEndian.PutUint16(zero[4:], 0)
	binary.BigEndian.PutUint16(more[4:], 0xffff)
	version := bytes.Clone(length)
	version[0] = 0x40
	packets := [][]byte{
		chain(100, hopByHop, u, 17), chain(100, destination, u, 17), chain(2, hopByHop, u, 17), chain(100, routing, u, 17),
		one(routing, rh0...), jumbo, zero, more, version, length[:39], length[:40], length[:41],
		one(destination, 17, 255, 1, 4), one(hopByHop, hopByHop, 0, 1, 4, 0, 0, 0, 0), one(hopByHop, 17, 0, 0xc3, 255, 0, 0, 0, 0),
		one(hopByHop, 17, 0, 1, 255, 0, 0, 0, 0),                                           // an option beyond the header
		one(none), one(ah, 17, 4, 0, 0, 0, 0, 0, 0), one(esp), one(253), one(41), one(135), // transports that are not carried
		one(frag, 17, 0, 0, 1, 0, 0, 0, 1), one(frag, 17, 0, 0xff, 0xf8, 0, 0, 0, 2), one(frag, 17, 0, 0, 9, 0, 0, 0, 3),
		one(frag, frag, 0, 0, 0, 0, 0, 0, 4), one(frag, hopByHop, 0, 0, 0, 0, 0, 0, 5),
	}
	wantDropped(t, r, sb, packets)
}

// HC-22: an atomic fragment is a whole datagram (RFC 6946), and a short chain is allowed.
func TestHC22Allowed(t *testing.T) {
	t.Parallel()
	r := rig.Start(t)
	sb := r.Run(t)
	server := listenUDP(t, r.X1, at(rig.X1v6, 0), nil)
	link, gateway := sb.OpenPacket(t, rig.DevEth0), gatewayMAC(t, sb)
	u := udp(at(rig.SandboxAddr6, 9000), server.at, "fine")[40:]
	for kind, header := range map[byte][]byte{44: {17, 0, 0, 0, 0, 0, 0, 1}, 60: {17, 0, 1, 4, 0, 0, 0, 0}} {
		link.SendPacket(t, gateway, packettest.IP(rig.SandboxAddr6, rig.X1v6, kind, append(header, u...)))
	}
	rig.WaitFor(t, rig.Patience, "both datagrams", func() bool { return len(server.received()) == 2 })
}
