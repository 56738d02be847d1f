package sys

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Room for the control messages of one datagram. Receiving, the most there can be is a GRO size, a
// packet info, a TTL and a traffic class; sending, the same four.
var controlLen = unix.CmsgSpace(4) + unix.CmsgSpace(unix.SizeofInet6Pktinfo) + unix.CmsgSpace(4) + unix.CmsgSpace(4)

// lenSize is the size of cmsg_len and so the alignment of a control message.
const lenSize = int(unsafe.Sizeof(unix.Cmsghdr{}.Len))

// nextCmsg takes the first control message off b. The kernel writes b, yet lengths are checked:
// a short buffer cuts the last message.
func nextCmsg(b []byte) (level, typ int, data, rest []byte, ok bool) {
	if len(b) < unix.SizeofCmsghdr {
		return 0, 0, nil, nil, false
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(b)))
	n := int(h.Len)
	if n < unix.CmsgLen(0) || n > len(b) {
		return 0, 0, nil, nil, false
	}
	next := min((n+lenSize-1)&^(lenSize-1), len(b))
	return int(h.Level), int(h.Type), b[unix.CmsgLen(0):n], b[next:], true
}

// appendCmsg adds a control message and returns its data, n zero bytes, to fill in.
func appendCmsg(b []byte, level, typ, n int) (all, data []byte) {
	at := len(b)
	b = b[:at+unix.CmsgSpace(n)]
	clear(b[at:])
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[at]))
	h.Level, h.Type = int32(level), int32(typ)
	h.SetLen(unix.CmsgLen(n))
	return b, b[at+unix.CmsgLen(0):][:n]
}

// readControl fills in of m what the kernel said beside the datagram.
func (m *Received) readControl(b []byte) {
	for {
		level, typ, data, rest, ok := nextCmsg(b)
		if !ok {
			return
		}
		b = rest
		switch {
		case level == unix.SOL_UDP && typ == unix.UDP_GRO && len(data) >= 2:
			// An int since Linux 5.10; the low half is right on either.
			m.Segment = int(nativeInt(data))
		case level == unix.IPPROTO_IP && typ == unix.IP_TTL && len(data) >= 4,
			level == unix.IPPROTO_IPV6 && typ == unix.IPV6_HOPLIMIT && len(data) >= 4:
			m.TTL = uint8(binary.NativeEndian.Uint32(data))
		case level == unix.IPPROTO_IP && typ == unix.IP_TOS && len(data) >= 1:
			m.TOS = data[0]
		case level == unix.IPPROTO_IPV6 && typ == unix.IPV6_TCLASS && len(data) >= 4:
			m.TOS = uint8(binary.NativeEndian.Uint32(data))
		case level == unix.IPPROTO_IP && typ == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			m.IfIndex = int(binary.NativeEndian.Uint32(data))
			m.Local = netip.AddrFrom4([4]byte(data[8:12]))
		case level == unix.IPPROTO_IPV6 && typ == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			m.Local = netip.AddrFrom16([16]byte(data[0:16])).Unmap()
			m.IfIndex = int(binary.NativeEndian.Uint32(data[16:]))
		}
	}
}

func nativeInt(b []byte) uint32 {
	if len(b) >= 4 {
		return binary.NativeEndian.Uint32(b)
	}
	return uint32(binary.NativeEndian.Uint16(b))
}

// control writes the control messages m asks for into b, which has room for controlLen bytes.
func (m *Datagram) control(b []byte) []byte {
	v6 := m.To.Addr().Is6() || (!m.To.IsValid() && m.Local.Is6())
	var d []byte
	if m.Segment > 0 {
		b, d = appendCmsg(b, unix.SOL_UDP, unix.UDP_SEGMENT, 2)
		binary.NativeEndian.PutUint16(d, uint16(m.Segment))
	}
	switch {
	case !m.Local.IsValid() && m.IfIndex == 0:
	case v6:
		b, d = appendCmsg(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		if m.Local.IsValid() {
			a := m.Local.As16()
			copy(d, a[:])
		}
		binary.NativeEndian.PutUint32(d[16:], uint32(m.IfIndex))
	default:
		b, d = appendCmsg(b, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
		binary.NativeEndian.PutUint32(d, uint32(m.IfIndex))
		if m.Local.Is4() || m.Local.Is4In6() {
			a := m.Local.Unmap().As4()
			copy(d[4:8], a[:])
		}
	}
	if m.TTL > 0 {
		if v6 {
			b, d = appendCmsg(b, unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT, 4)
		} else {
			b, d = appendCmsg(b, unix.IPPROTO_IP, unix.IP_TTL, 4)
		}
		binary.NativeEndian.PutUint32(d, uint32(m.TTL))
	}
	if m.TOS > 0 {
		if v6 {
			b, d = appendCmsg(b, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 4)
		} else {
			b, d = appendCmsg(b, unix.IPPROTO_IP, unix.IP_TOS, 4)
		}
		binary.NativeEndian.PutUint32(d, uint32(m.TOS))
	}
	return b
}
