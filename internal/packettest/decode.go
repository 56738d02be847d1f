package packettest

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"github.com/usernet/usernet/stack/l2"
)

// Decoded is an IP packet taken apart for checks. Fields that its protocol does not have are zero.
type Decoded struct {
	Src, Dst netip.AddrPort // port 0 for ICMP
	Proto    uint8
	TTL      uint8
	Flags    uint8 // of TCP
	Seq, Ack uint32
	Kind     uint8 // of ICMP
	Code     uint8
	Payload  []byte // after the TCP, UDP or ICMP header; all of it for other protocols
	// ChecksumOK says that the IP and transport checksums hold as they stand. It is false for a frame whose
	// VNet header leaves the sum open.
	ChecksumOK bool
}

// Decode takes apart the IP packet of a frame. IPv6 extension headers and fragments stay payload.
func Decode(f l2.Frame) (d Decoded, err error) {
	b := Bytes(f)[l2.HeaderLen:]
	var src, dst netip.Addr
	switch {
	case f.Header.Type() == l2.TypeIPv4 && len(b) >= 20 && b[0]>>4 == 4:
		n, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
		if n < 20 || total < n || total > len(b) {
			return d, fmt.Errorf("IPv4 header of %d bytes and packet of %d in %d", n, total, len(b))
		}
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		d.TTL, d.Proto = b[8], b[9]
		d.ChecksumOK = sum(0, b[:n]) == 0xffff
		d.Payload = b[n:total]
	case f.Header.Type() == l2.TypeIPv6 && len(b) >= 40 && b[0]>>4 == 6:
		total := 40 + int(binary.BigEndian.Uint16(b[4:]))
		if total > len(b) {
			return d, fmt.Errorf("IPv6 packet of %d bytes in %d", total, len(b))
		}
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		d.TTL, d.Proto = b[7], b[6]
		d.ChecksumOK = true
		d.Payload = b[40:total]
	default:
		return d, fmt.Errorf("%v frame of %d bytes has no IP packet", f.Header.Type(), len(b))
	}
	d.Src, d.Dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
	if checksumAt(d.Proto) < 0 {
		return d, nil
	}
	udpWithout := d.Proto == ProtoUDP && src.Is4() && len(d.Payload) >= 8 && binary.BigEndian.Uint16(d.Payload[6:]) == 0
	if !udpWithout && sum(pseudo(src, dst, d.Proto, len(d.Payload)), d.Payload) != 0xffff {
		d.ChecksumOK = false
	}
	return d, d.transport()
}

// transport takes apart the TCP, UDP or ICMP header at the start of Payload.
func (d *Decoded) transport() error {
	t, n := d.Payload, 8
	if d.Proto == ProtoTCP {
		n = 20
		if len(t) >= n {
			n = int(t[12]>>4) * 4
		}
	}
	if len(t) < n || n < 8 {
		return fmt.Errorf("protocol %d with a header of %d bytes in %d", d.Proto, n, len(t))
	}
	switch d.Proto {
	case ProtoTCP, ProtoUDP:
		d.Src = netip.AddrPortFrom(d.Src.Addr(), binary.BigEndian.Uint16(t))
		d.Dst = netip.AddrPortFrom(d.Dst.Addr(), binary.BigEndian.Uint16(t[2:]))
	default:
		d.Kind, d.Code = t[0], t[1]
	}
	if d.Proto == ProtoTCP {
		d.Seq, d.Ack, d.Flags = binary.BigEndian.Uint32(t[4:]), binary.BigEndian.Uint32(t[8:]), t[13]
	}
	d.Payload = t[n:]
	return nil
}

func (d Decoded) String() string {
	switch d.Proto {
	case ProtoTCP:
		var flags strings.Builder
		for i, c := range "FSRPAU" {
			if d.Flags&(1<<i) != 0 {
				flags.WriteRune(c)
			}
		}
		return fmt.Sprintf("TCP %v > %v [%s] seq %d ack %d, %d bytes", d.Src, d.Dst, &flags, d.Seq, d.Ack, len(d.Payload))
	case ProtoUDP:
		return fmt.Sprintf("UDP %v > %v, %d bytes", d.Src, d.Dst, len(d.Payload))
	case ProtoICMP, ProtoICMPv6:
		return fmt.Sprintf("ICMP %v > %v type %d code %d, %d bytes", d.Src.Addr(), d.Dst.Addr(), d.Kind, d.Code, len(d.Payload))
	}
	return fmt.Sprintf("protocol %d %v > %v, %d bytes", d.Proto, d.Src.Addr(), d.Dst.Addr(), len(d.Payload))
}

// Dump decodes a frame for a person: one line, then up to 128 bytes in hex.
func Dump(f l2.Frame) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v > %v %v", f.Header.Src(), f.Header.Dst(), f.Header.Type())
	if f.VNet != (l2.VNet{}) {
		fmt.Fprintf(&b, " vnet %+v", f.VNet)
	}
	l3 := Bytes(f)[l2.HeaderLen:]
	if d, err := Decode(f); err == nil {
		fmt.Fprintf(&b, " %v ttl %d", d, d.TTL)
	} else if f.Header.Type() == l2.TypeARP && len(l3) >= 28 {
		fmt.Fprintf(&b, " op %d %v is at %v, target %v", l3[7], netip.AddrFrom4([4]byte(l3[14:18])),
			l2.MAC(l3[8:14]), netip.AddrFrom4([4]byte(l3[24:28])))
	} else {
		fmt.Fprintf(&b, " (%v)", err)
	}
	b.WriteByte('\n')
	b.WriteString(hex.Dump(l3[:min(len(l3), 128)]))
	return b.String()
}
