package gateway

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/usernet/usernet/stack/l2"
)

// ackFrame is an ACK with timestamps; edit changes its TCP header before it is used.
func ackFrame(v6 bool, ack uint32, edit func(ip, tcp []byte)) *l2.Frame {
	const tcpLen = 32
	hdr, t := 20, l2.TypeIPv4
	if v6 {
		hdr, t = 40, l2.TypeIPv6
	}
	b := make([]byte, hdr+tcpLen)
	if v6 {
		header.IPv6(b).Encode(&header.IPv6Fields{PayloadLength: tcpLen, TransportProtocol: 6, HopLimit: 64,
			SrcAddr: toTCPIP(container6), DstAddr: toTCPIP(netip.MustParseAddr("2001:db8::1"))})
	} else {
		header.IPv4(b).Encode(&header.IPv4Fields{TotalLength: uint16(len(b)), TTL: 64, Protocol: 6,
			SrcAddr: toTCPIP(container4), DstAddr: toTCPIP(netip.MustParseAddr("198.51.100.1"))})
	}
	tcp := b[hdr:]
	header.TCP(tcp).Encode(&header.TCPFields{SrcPort: 4000, DstPort: 80, SeqNum: 7, AckNum: ack, DataOffset: tcpLen, Flags: header.TCPFlagAck, WindowSize: 100})
	copy(tcp[20:], "\x01\x01\x08\x0a")
	binary.BigEndian.PutUint32(tcp[24:], ack) // its own time
	if edit != nil {
		edit(b[:hdr], tcp)
	}
	return &l2.Frame{Header: l2.MakeHeader(testNet.GatewayMAC, containerMAC, t), L3: [][]byte{b}}
}

func TestSupersedes(t *testing.T) {
	for _, tc := range []struct {
		name string
		next uint32
		edit func(ip, tcp []byte)
		want bool
	}{
		{"acknowledges more", 2000, nil, true},
		{"window and time differ", 2000, func(_, tcp []byte) { tcp[15], tcp[31] = 9, 9 }, true},
		{"around the end of the number space", 1000 + 1<<30, nil, true},
		{"duplicate", 1000, nil, false},
		{"older", 999, nil, false},
		{"other port", 2000, func(_, tcp []byte) { tcp[1]++ }, false},
		{"other sequence number", 2000, func(_, tcp []byte) { tcp[7]++ }, false},
		{"FIN", 2000, func(_, tcp []byte) { tcp[13] |= byte(header.TCPFlagFin) }, false},
		{"RST", 2000, func(_, tcp []byte) { tcp[13] |= byte(header.TCPFlagRst) }, false},
		{"ECN echo", 2000, func(_, tcp []byte) { tcp[13] |= 0x40 }, false},
		{"SACK", 2000, func(_, tcp []byte) { copy(tcp[20:], "\x01\x01\x05\x0a") }, false},
		{"short data offset: data", 2000, func(_, tcp []byte) { tcp[12] = 0x70 }, false},
		{"congestion experienced", 2000, func(ip, _ []byte) {
			if ip[0]>>4 == 4 {
				ip[1] |= 3
			} else {
				ip[1] |= 0x30
			}
		}, false},
		{"other destination", 2000, func(ip, _ []byte) { ip[len(ip)-1]++ }, false},
		{"other protocol", 2000, func(ip, _ []byte) {
			if ip[0]>>4 == 4 {
				ip[9] = 17
			} else {
				ip[6] = 17
			}
		}, false},
	} {
		for _, v6 := range []bool{false, true} {
			a, b := ackFrame(v6, 1000, nil), ackFrame(v6, tc.next, tc.edit)
			if got := supersedes(b, a); got != tc.want {
				t.Errorf("%s (IPv6 %v): %v, want %v", tc.name, v6, got, tc.want)
			}
			if tc.edit != nil && tc.want == false {
				if supersedes(ackFrame(v6, tc.next, nil), ackFrame(v6, 1000, tc.edit)) {
					t.Errorf("%s first (IPv6 %v): left out", tc.name, v6)
				}
			}
		}
	}
	a, b := ackFrame(false, 1000, nil), ackFrame(true, 2000, nil)
	if supersedes(b, a) {
		t.Error("an IPv6 ACK stands for an IPv4 one")
	}
	for n := range a.L3[0] { // every truncation
		cut := *a
		cut.L3 = [][]byte{a.L3[0][:n]}
		if supersedes(&cut, a) || supersedes(a, &cut) {
			t.Errorf("cut to %d bytes: taken for an ACK", n)
		}
	}
	if n := testing.AllocsPerRun(100, func() { supersedes(b, a) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
