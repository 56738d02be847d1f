package sys

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sockaddrLen is room for a sockaddr_in or a sockaddr_in6.
const sockaddrLen = unix.SizeofSockaddrInet6

// sockaddr is the kernel's form of an address and port. Ports are in network order inside it.
type sockaddr [sockaddrLen]byte

// put writes ap and returns the length. A 4-in-6 address is written as AF_INET6, for sockets of
// that family.
func (s *sockaddr) put(ap netip.AddrPort, scope uint32) uint32 {
	a := ap.Addr()
	binary.BigEndian.PutUint16(s[2:], ap.Port())
	if a.Is4() {
		binary.NativeEndian.PutUint16(s[0:], unix.AF_INET)
		v4 := a.As4()
		copy(s[4:8], v4[:])
		clear(s[8:16])
		return unix.SizeofSockaddrInet4
	}
	binary.NativeEndian.PutUint16(s[0:], unix.AF_INET6)
	clear(s[4:8]) // flow label
	v6 := a.As16()
	copy(s[8:24], v6[:])
	binary.NativeEndian.PutUint32(s[24:], scope)
	return unix.SizeofSockaddrInet6
}

// parseSockaddr reads what the kernel wrote; 4-in-6 addresses come out as IPv4.
func parseSockaddr(s []byte) (ap netip.AddrPort, scope uint32) {
	if len(s) < unix.SizeofSockaddrInet4 {
		return netip.AddrPort{}, 0
	}
	port := binary.BigEndian.Uint16(s[2:])
	switch binary.NativeEndian.Uint16(s) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(s[4:8])), port), 0
	case unix.AF_INET6:
		if len(s) < unix.SizeofSockaddrInet6 {
			return netip.AddrPort{}, 0
		}
		a := netip.AddrFrom16([16]byte(s[8:24])).Unmap()
		return netip.AddrPortFrom(a, port), binary.NativeEndian.Uint32(s[24:])
	}
	return netip.AddrPort{}, 0
}

func (s *sockaddr) base() *byte { return (*byte)(unsafe.Pointer(s)) }
