// Package gso does in software what a network card with segmentation and checksum offload does:
// it cuts a large frame into packets of the path's size and fills in checksums.
//
// # Theory of operation
//
// A frame travels the datapath with a VNet header that may say two things. "NeedsCsum": the
// transport checksum field holds only the sum of the pseudo-header, and the sum over the bytes from
// CsumStart to the end is still to be added, complemented and stored. "GSO": the packet is one
// large segment of TCP (TSO) or a run of datagrams (USO) that stands for several of GSOSize payload
// bytes each. Most frames keep it from end to end, and the container's kernel never cuts them at
// all. A port that cannot carry a VNet (a TAP in plain mode, a tunnel, a capture) calls Split.
//
// Splitting copies the headers once per segment into the Splitter's memory, changes what differs,
// and lets the payload stay where it is: a segment is the copied header and slices of the original.
// The frame given is never written to, because other ports may be sending it at the same time.
//
// Per segment, as Linux does in net/ipv4/tcp_offload.c and udp_offload.c:
//
//   - IPv4: total length, identification + 1 per segment, header checksum; IPv6: payload length
//   - TCP: sequence number; FIN and PSH only on the last, CWR only on the first (RFC 3168 §6.1.2);
//     URG until the urgent pointer is passed
//   - UDP: length
//   - the transport checksum in full
//
// # Limits
//
// At most MaxSegments segments come out of a frame; one that asks for more is refused, since each
// segment costs a system call and a container chooses GSOSize. Headers are at most 512 bytes.
package gso

import (
	"encoding/binary"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// MaxSegments is how many packets one frame may be cut into: 64 KiB at the 536 bytes of the
// smallest IPv4 MSS (RFC 9293 §3.7.1) are 123.
const MaxSegments = 128

// Needed reports whether f cannot be sent without its VNet: it is to be cut or to be completed.
func Needed(v l2.VNet) bool { return v.GSOType != l2.GSONone || v.Flags&l2.VNetNeedsCsum != 0 }

// Splitter is the memory for working on one frame at a time. It belongs to one goroutine; the zero
// value is ready.
type Splitter struct {
	seg  l2.Frame
	l3   [][]byte
	head [maxHeader]byte
}

// Split calls emit for each packet of f, in order, each complete: no partial checksum, no GSO. The
// frame passed is borrowed until emit returns; f is not changed. A frame that needs nothing is
// passed as it is.
//
// It returns drop.VNetBad, without a call of emit, for a frame whose VNet contradicts it.
func (s *Splitter) Split(f *l2.Frame, emit func(*l2.Frame)) drop.Reason {
	switch {
	case !Needed(f.VNet):
		emit(f)
		return drop.None
	case f.VNet.GSOType == l2.GSONone:
		return s.complete(f, emit)
	}
	l, r := parse(f)
	if r != drop.None {
		return r
	}
	size := int(f.VNet.GSOSize)
	if l.length-l.payload > size*MaxSegments {
		return drop.VNetBad
	}
	s.seg = l2.Frame{Header: f.Header}
	c := cursor{rest: f.L3}
	c.skip(l.payload)
	for at, i := 0, 0; i == 0 || at < l.length-l.payload; i++ {
		n := min(size, l.length-l.payload-at)
		s.l3 = append(s.l3[:0], s.head[:copy(s.head[:], f.L3[0][:l.payload])])
		s.l3 = c.take(s.l3, n)
		s.patch(&l, at, n, i)
		s.seg.L3 = s.l3
		emit(&s.seg)
		at += n
	}
	s.release()
	return drop.None
}

// patch makes the copied headers those of segment i, whose n bytes of payload begin at.
func (s *Splitter) patch(l *layout, at, n, i int) {
	b := s.head[:l.payload]
	if l.v6 {
		binary.BigEndian.PutUint16(b[4:], uint16(l.payload+n-ipv6Len))
	} else {
		binary.BigEndian.PutUint16(b[2:], uint16(l.payload+n))
		binary.BigEndian.PutUint16(b[4:], binary.BigEndian.Uint16(b[4:])+uint16(i))
		binary.BigEndian.PutUint16(b[10:], 0)
		var sum Sum
		sum.Add(b[:l.transport])
		binary.BigEndian.PutUint16(b[10:], sum.Checksum())
	}
	t := b[l.transport:]
	field := 6
	if l.tcp {
		field = 16
		patchTCP(t, at, i == 0, l.payload+at+n == l.length)
	} else {
		binary.BigEndian.PutUint16(t[4:], uint16(udpLen+n))
	}
	binary.BigEndian.PutUint16(t[field:], 0)
	var sum Sum
	l.pseudo(&sum, b, len(t)+n)
	sum.Add(t)
	for _, p := range s.l3[1:] {
		sum.Add(p)
	}
	binary.BigEndian.PutUint16(t[field:], sum.NonZero())
}

// Flags of TCP, RFC 9293 §3.1.
const (
	flagFIN = 0x01
	flagPSH = 0x08
	flagURG = 0x20
	flagCWR = 0x80
)

func patchTCP(t []byte, at int, first, last bool) {
	binary.BigEndian.PutUint32(t[4:], binary.BigEndian.Uint32(t[4:])+uint32(at))
	if !last {
		t[13] &^= flagFIN | flagPSH
	}
	if !first {
		t[13] &^= flagCWR
	}
	if t[13]&flagURG == 0 {
		return
	}
	// The pointer counts from the segment's own sequence number.
	ptr := int(binary.BigEndian.Uint16(t[18:])) - at
	if ptr <= 0 && at > 0 {
		t[13] &^= flagURG
		ptr = 0
	}
	binary.BigEndian.PutUint16(t[18:], uint16(ptr))
}

// complete fills in the partial checksum of a frame that is not cut.
func (s *Splitter) complete(f *l2.Frame, emit func(*l2.Frame)) drop.Reason {
	start := int(f.VNet.CsumStart) - l2.HeaderLen
	field := start + int(f.VNet.CsumOffset)
	if start < 0 || len(f.L3) == 0 || field+2 > len(f.L3[0]) || field+2 > maxHeader {
		return drop.VNetBad
	}
	// As much as fits, so that the copy holds the headers whole, as l2.Frame promises.
	head := s.head[:copy(s.head[:], f.L3[0])]
	s.l3 = append(s.l3[:0], head, f.L3[0][len(head):])
	s.l3 = append(s.l3, f.L3[1:]...)
	var sum Sum
	sum.Add(head[start:])
	for _, p := range s.l3[1:] {
		sum.Add(p)
	}
	binary.BigEndian.PutUint16(head[field:], sum.NonZero())
	s.seg = l2.Frame{Header: f.Header, L3: s.l3}
	emit(&s.seg)
	s.release()
	return drop.None
}

// release lets go of the caller's memory.
func (s *Splitter) release() {
	clear(s.l3[:cap(s.l3)])
	s.seg = l2.Frame{}
}

// cursor walks the payload of a frame.
type cursor struct {
	rest [][]byte
	off  int // bytes of rest[0] already taken
}

func (c *cursor) skip(n int) { c.off += n }

// take appends the next n bytes to l3 without copying them; the frame has that many.
func (c *cursor) take(l3 [][]byte, n int) [][]byte {
	for n > 0 {
		p := c.rest[0][c.off:]
		if len(p) == 0 {
			c.rest, c.off = c.rest[1:], 0
			continue
		}
		p = p[:min(n, len(p))]
		l3 = append(l3, p)
		c.off += len(p)
		n -= len(p)
	}
	return l3
}
