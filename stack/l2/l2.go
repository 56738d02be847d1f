// Package l2 holds the nouns of the link layer: MAC, EtherType, Frame, Port.
//
// It is a leaf. The TAP, the switch, the gateway and the VTEP all import it and none of each other,
// so a frame can go from any of them to any other. It knows nothing of IP beyond its EtherType.
//
// # Units
//
// MTU counts the bytes of the packet inside the frame (layer 3); a frame has HeaderLen bytes more.
// A frame may be larger than the MTU when its VNet header says how it will be segmented (GSO).
//
// # Standards
//
// IEEE 802.3 clause 3 for the frame; virtio 1.2 §5.1.6 for the VNet header.
package l2

import (
	"encoding/binary"
	"fmt"
	"net"
)

// HeaderLen is the length of an untagged Ethernet header in bytes.
const HeaderLen = 14

// MAC is an EUI-48 address. The zero value is no address.
type MAC [6]byte

// Broadcast is the address of every station on the link.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ParseMAC reads the colon, hyphen and dot forms that net.ParseMAC reads, 48 bits only.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil {
		return MAC{}, fmt.Errorf("parse MAC address %q: want six bytes such as 02:42:ac:11:00:02", s)
	}
	if len(hw) != 6 {
		return MAC{}, fmt.Errorf("parse MAC address %q: %d bytes, want 6", s, len(hw))
	}
	return MAC(hw), nil
}

// IsMulticast reports whether the group bit is set; Broadcast is a group too.
func (m MAC) IsMulticast() bool { return m[0]&1 != 0 }

// IsZero reports whether m is no address.
func (m MAC) IsZero() bool { return m == MAC{} }

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText makes a MAC a string in JSON; the zero MAC is empty.
func (m MAC) MarshalText() ([]byte, error) {
	if m.IsZero() {
		return nil, nil
	}
	return []byte(m.String()), nil
}

// UnmarshalText reads what MarshalText wrote.
func (m *MAC) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*m = MAC{}
		return nil
	}
	p, err := ParseMAC(string(b))
	if err != nil {
		return err
	}
	*m = p
	return nil
}

// EtherType names the protocol of a frame's payload.
type EtherType uint16

// The EtherTypes the switch forwards; everything else is a counted drop.
const (
	TypeIPv4 EtherType = 0x0800
	TypeARP  EtherType = 0x0806
	TypeIPv6 EtherType = 0x86dd
)

func (t EtherType) String() string {
	switch t {
	case TypeIPv4:
		return "IPv4"
	case TypeARP:
		return "ARP"
	case TypeIPv6:
		return "IPv6"
	}
	return fmt.Sprintf("0x%04x", uint16(t))
}

// VNetLen is the length of the virtio-net header a TAP in IFF_VNET_HDR mode puts before each frame.
const VNetLen = 10

// VNet is the virtio-net header of a frame: which checksum is still to be filled in, and how a
// frame larger than the MTU is to be cut. The zero value means a complete, ordinary frame.
//
// A VNet that came from a container is untrusted; bridge.Validate checks it before anyone uses it.
type VNet struct {
	Flags      uint8  // VNetNeedsCsum or VNetDataValid
	GSOType    uint8  // GSO*; GSOECN may be or-ed to the TCP kinds
	HdrLen     uint16 // bytes of headers, Ethernet included: a hint only
	GSOSize    uint16 // payload bytes of each segment
	CsumStart  uint16 // where the checksum begins, counted from the start of the Ethernet header
	CsumOffset uint16 // where its field is, counted from CsumStart
}

// Flags and kinds of VNet, from linux/virtio_net.h.
const (
	VNetNeedsCsum = 1
	VNetDataValid = 2

	GSONone  = 0
	GSOTCPv4 = 1
	GSOUDP   = 3 // UFO: never offered, never accepted
	GSOTCPv6 = 4
	GSOUDPL4 = 5 // USO
	GSOECN   = 0x80
)

// Put writes the header in the host's byte order, as the kernel reads it. b has at least VNetLen bytes.
func (v VNet) Put(b []byte) {
	_ = b[VNetLen-1]
	b[0], b[1] = v.Flags, v.GSOType
	binary.NativeEndian.PutUint16(b[2:], v.HdrLen)
	binary.NativeEndian.PutUint16(b[4:], v.GSOSize)
	binary.NativeEndian.PutUint16(b[6:], v.CsumStart)
	binary.NativeEndian.PutUint16(b[8:], v.CsumOffset)
}

// ParseVNet reads a header. b has at least VNetLen bytes.
func ParseVNet(b []byte) VNet {
	_ = b[VNetLen-1]
	return VNet{
		Flags: b[0], GSOType: b[1],
		HdrLen:     binary.NativeEndian.Uint16(b[2:]),
		GSOSize:    binary.NativeEndian.Uint16(b[4:]),
		CsumStart:  binary.NativeEndian.Uint16(b[6:]),
		CsumOffset: binary.NativeEndian.Uint16(b[8:]),
	}
}

// Header is the Ethernet header of a frame as it is on the wire.
type Header [HeaderLen]byte

// MakeHeader builds a header.
func MakeHeader(dst, src MAC, t EtherType) (h Header) {
	copy(h[0:6], dst[:])
	copy(h[6:12], src[:])
	binary.BigEndian.PutUint16(h[12:], uint16(t))
	return h
}

// Dst is the destination address.
func (h *Header) Dst() MAC { return MAC(h[0:6]) }

// Src is the source address.
func (h *Header) Src() MAC { return MAC(h[6:12]) }

// Type is the EtherType, or an 802.3 length when below 0x600.
func (h *Header) Type() EtherType { return EtherType(binary.BigEndian.Uint16(h[12:])) }

// Frame is one Ethernet frame on its way through the datapath.
//
// Ownership: a Frame handed to Port.Output or bridge.Input, and every byte it points to, is
// borrowed until that call returns. Who wants to keep the packet copies it, or takes Buf.
//
// Shape: L3[0] holds the network and transport headers whole (as far as the packet has them), so a
// reader of headers never looks past it; the payload may go on in further slices. A frame read
// from a TAP has exactly one slice.
type Frame struct {
	VNet   VNet
	Header Header
	L3     [][]byte
	// Buf is the memory behind L3[0], when whoever receives the frame may take it over instead of
	// copying; nil when it may not.
	Buf *Buf
}

// Len is the number of bytes of the packet, Ethernet header excluded.
func (f *Frame) Len() int {
	n := 0
	for _, p := range f.L3 {
		n += len(p)
	}
	return n
}

// Buf is a block of memory for one received packet. A reader (the TAP) gets it from an Allocator,
// fills it, and offers it with the frame; a receiver (the gateway) that can use the block as it is
// calls Take, and the reader then allocates another. This is what saves a copy of each 64 KiB.
//
// A Buf is used by one goroutine at a time: the reader's, or the one it hands the frame to, on which Output runs too.
type Buf struct {
	// Data is the whole block; the packet starts at its first byte.
	Data []byte
	// Handle is the allocator's own name for the block.
	Handle any
	taken  bool
}

// Take moves the block to the caller. It reports false when somebody else has it already.
func (b *Buf) Take() bool {
	if b == nil || b.taken {
		return false
	}
	b.taken = true
	return true
}

// Taken reports whether the block has gone to a receiver.
func (b *Buf) Taken() bool { return b.taken }

// Allocator makes blocks for received packets, each with at least n bytes.
type Allocator func(n int) *Buf

// HeapAllocator allocates from the garbage-collected heap; for tests and for ports that feed no gateway.
func HeapAllocator(n int) *Buf { return &Buf{Data: make([]byte, n)} }

// Port is a place where frames leave the switch: a TAP, the gateway, a VTEP. Frames enter the
// switch by bridge.Input, called by whoever reads the port.
type Port interface {
	// Output sends frames out of the port and returns how many it accepted; the rest are dropped
	// and counted by the port. It does not block on a slow far side. It is called by several
	// goroutines at once.
	Output(frames []Frame) (sent int)
	// MTU is the largest packet, in layer 3 bytes, the port carries without VNet segmentation.
	// It is constant for the life of the port.
	MTU() int
	// String names the port in logs: "tap eth0", "gateway".
	String() string
}
