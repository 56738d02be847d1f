package ip

import (
	"encoding/binary"
	"net/netip"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// Theory of operation: IPv4 (RFC 791, RFC 1122 §3.2.1).
//
// The header is read in the order in which one field makes the next one trustworthy: version,
// header length, total length, checksum, options, fragment. The packet is then cut to its total
// length, so no later reader can look at padding.
//
// Refused, with the reason:
//   - IPMalformed: a length that lies; total length 0, which kernels write for BIG TCP packets
//     over 64 KiB (never offered, so never legitimate here); an option list that does not parse.
//   - ChecksumBad: the header's checksum. A TAP never leaves this one to the receiver.
//   - IPOptions: loose and strict source routing. Other options are harmless to a NAT that does not
//     forward them, and are passed over.
//   - IPFragment: a fragment that ends behind byte 65 535 (the ping of death), is empty, or is not
//     the last and not a multiple of 8 long.
//   - SrcIPSpoofed: a source nobody may have on a link: multicast, broadcast, loopback.
//   - VNetBad: a fragment with a partial checksum or segmentation asked for. No kernel makes one; a
//     transport checksum does not belong to a part of a datagram.

const (
	opt4End  = 0
	opt4Nop  = 1
	opt4LSRR = 131
	opt4SSRR = 137

	flag4DF = 0x4000
	flag4MF = 0x2000
)

// totalLen4 is what the header claims, 0 when there is no whole header.
func totalLen4(b []byte) int {
	if len(b) < HeaderLen4 {
		return 0
	}
	return int(binary.BigEndian.Uint16(b[2:]))
}

func (p *Packet) parse4(b []byte) drop.Reason {
	if len(b) < HeaderLen4 || b[0]>>4 != 4 {
		return drop.IPMalformed
	}
	hl, total := int(b[0]&15)*4, totalLen4(b)
	if hl < HeaderLen4 || hl > total || total > len(b) {
		return drop.IPMalformed
	}
	p.Data, p.HdrLen = b[:total:total], hl
	p.TOS, p.TTL, p.Proto = b[1], b[8], b[9]
	p.Src, p.Dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	if Sum(b[:hl]) != 0xffff {
		return drop.ChecksumBad
	}
	if p.Src.IsMulticast() || p.Src.IsLoopback() || p.Src == broadcast4 {
		return drop.SrcIPSpoofed
	}
	if r := options4(b[HeaderLen4:hl]); r != drop.None {
		return r
	}
	word := binary.BigEndian.Uint16(b[6:])
	p.ID = uint32(binary.BigEndian.Uint16(b[4:]))
	p.DF, p.More, p.FragOff = word&flag4DF != 0, word&flag4MF != 0, int(word&0x1fff)*8
	if p.IsFragment() {
		return p.checkFragment(p.FragOff + total)
	}
	return drop.None
}

// checkFragment holds for both families. end is the length the reassembled datagram has at least.
func (p *Packet) checkFragment(end int) drop.Reason {
	n := len(p.Payload())
	if p.VNet.Flags&l2.VNetNeedsCsum != 0 || p.VNet.GSOType != l2.GSONone {
		return drop.VNetBad
	}
	if n == 0 || p.More && n%8 != 0 || end > maxPacket {
		return drop.IPFragment
	}
	return drop.None
}

var broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func options4(o []byte) drop.Reason {
	for len(o) > 0 {
		switch o[0] {
		case opt4End:
			return drop.None
		case opt4Nop:
			o = o[1:]
			continue
		case opt4LSRR, opt4SSRR:
			return drop.IPOptions
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			return drop.IPMalformed
		}
		o = o[o[1]:]
	}
	return drop.None
}
