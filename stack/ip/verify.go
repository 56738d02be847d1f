package ip

import "github.com/usernet/usernet/stack/l2"

// Theory of operation: transport checksums from a container.
//
// A TAP with offloads gives three kinds of packet.
//
//   - VNetNeedsCsum: the container's kernel left the checksum to the device. The field holds the
//     pseudo header's sum and there is nothing to compare, so the packet is good, provided CsumStart
//     and CsumOffset point at this packet's own transport checksum. If they point elsewhere then the
//     field we would trust was never promised to be anything, and it is compared like any other.
//   - VNetDataValid: somebody before the TAP is said to have checked. A container with raw sockets
//     can say so of anything, and comparing costs 64 KiB in under 4 µs, less than a tenth of
//     copying it to a socket; so it is not believed.
//   - neither: compared.
//
// A checksum of 0 in UDP over IPv4 means there is none; over IPv6 it is an error (RFC 8200 §8.1).

// Offset of the checksum in each transport header.
const (
	sumAtTCP  = 16
	sumAtUDP  = 6
	sumAtICMP = 2
)

// VerifyTransport reports whether the checksum of a TCP, UDP, ICMP or ICMPv6 packet is right. Of
// other protocols it knows nothing and says true. The packet is whole: of a fragment it says false.
func (p *Packet) VerifyTransport() bool {
	if p.IsFragment() {
		return false
	}
	t := p.Payload()
	switch {
	case p.Proto == TCP:
		return len(t) >= TCPHeaderLen && (p.hasPartialSum(sumAtTCP) || p.sumHolds(t))
	case p.Proto == UDP:
		n, ok := udpLen(t)
		if !ok {
			return false
		}
		if p.hasPartialSum(sumAtUDP) {
			return true
		}
		if t[sumAtUDP] == 0 && t[sumAtUDP+1] == 0 {
			return !p.Is6()
		}
		return p.sumHolds(t[:n])
	case p.Proto == ICMPv6 && p.Is6():
		return len(t) >= icmpHdrLen && (p.hasPartialSum(sumAtICMP) || p.sumHolds(t))
	case p.Proto == ICMP && !p.Is6():
		return len(t) >= icmpHdrLen && Sum(t) == 0xffff
	}
	return true
}

func (p *Packet) sumHolds(t []byte) bool {
	return AddSum(Sum(t), PseudoSum(p.Src, p.Dst, p.Proto, len(t))) == 0xffff
}

// hasPartialSum reports whether the frame leaves the transport checksum to its receiver, at the
// place where this packet has it.
func (p *Packet) hasPartialSum(field int) bool {
	return p.VNet.Flags&l2.VNetNeedsCsum != 0 &&
		int(p.VNet.CsumStart) == l2.HeaderLen+p.HdrLen && int(p.VNet.CsumOffset) == field
}
