package ip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/usernet/usernet/stack/l2"
)

// Theory of operation: fragmentation (RFC 791 §3.2, RFC 8200 §4.5).
//
// A packet that fits, or that carries instructions for segmenting it (GSO), is passed on untouched:
// segmentation is the receiver's, fragmentation would undo it. Any other is cut into pieces whose
// payload is a multiple of eight bytes, all but the last. Every piece is a slice of headers from a
// pool, and slices of the packet's own payload; only headers are copied. In the first piece the
// headers slice goes on into the transport header, for that is where readers of an l2.Frame look.
//
// A checksum that was left partial is completed first, because the receiver cannot complete it over a
// part of the datagram. It goes into the copied header: the packet given is never changed.
//
// Identification. All pieces carry the packet's own in IPv4, so it must be unlike those of the
// sender's other recent packets: PutUDPHeaders takes a random one for packets without DF, and a
// packet that came with none (0) is given one here. In IPv6 it is random for every packet. Random,
// because a counter tells strangers how much is sent and lets them forge fragments (RFC 7739).

// ErrDontFragment is what Fragment returns for an IPv4 packet with DF; ICMPError FragNeeded is the
// answer to its sender.
var ErrDontFragment = errors.New("fragment packet: it is larger than the MTU and marked don't fragment")

// maxTransport bounds how much of l3[0] behind the IP header is copied to the first piece: the
// largest TCP header, and room for IPv6 destination options.
const maxTransport = 128

// maxHeader bounds the IP header, extension headers included, that Fragment can repeat.
const maxHeader = 256

// pieces is the memory of one Fragment call.
type pieces struct {
	first  [maxHeader + maxTransport]byte
	rest   [maxHeader]byte
	slices [][]byte // the piece being emitted

	left [][]byte // the packet; what is left of it begins at left[next]
	next int
}

var piecesPool = sync.Pool{New: func() any { return new(pieces) }}

// cut is how a packet is to be cut.
type cut struct {
	v6       bool
	hdr      int // bytes of the packet before the payload that is distributed
	firstLen int // length of the first piece's header
	restLen  int // length of the others'
	base     int // offset of the packet itself, when it is a fragment already
	more     bool
}

// Fragment passes the packet in l3 to emit in pieces of at most mtu bytes. The pieces are borrowed
// until emit returns. l3[0] holds the packet's headers. It returns ErrDontFragment, or an error that
// says what is wrong with the packet or the MTU, before anything is emitted.
func Fragment(mtu int, v l2.VNet, l3 [][]byte, emit func(v l2.VNet, l3 [][]byte)) error {
	total := 0
	for _, b := range l3 {
		total += len(b)
	}
	if total <= mtu || v.GSOType&^l2.GSOECN != l2.GSONone {
		emit(v, l3)
		return nil
	}
	f := piecesPool.Get().(*pieces)
	defer f.release()
	c, err := f.prepare(l3[0], total)
	if err != nil {
		return err
	}
	room := (mtu - c.firstLen) &^ 7
	if room < 8 {
		return fmt.Errorf("fragment packet: MTU %d leaves no room behind a header of %d bytes", mtu, c.firstLen)
	}
	prefix := min(maxTransport, len(l3[0])-c.hdr, room)
	copy(f.first[c.firstLen:], l3[0][c.hdr:c.hdr+prefix])
	if v.Flags&l2.VNetNeedsCsum != 0 {
		sum, at, ok := CompleteSum(v, l3)
		if !ok || at < c.hdr || at+2 > c.hdr+prefix {
			return fmt.Errorf("fragment packet: checksum at byte %d is not in its transport header", at)
		}
		binary.BigEndian.PutUint16(f.first[c.firstLen+at-c.hdr:], sum)
	}
	f.left, f.next = append(f.left[:0], l3...), 0
	f.skip(c.hdr + prefix)
	f.emitAll(c, mtu, total-c.hdr, prefix, emit)
	return nil
}

func (f *pieces) release() {
	clear(f.left)
	clear(f.slices)
	piecesPool.Put(f)
}

// emitAll distributes n bytes of payload, of which prefix are in the first header already.
func (f *pieces) emitAll(c cut, mtu, n, prefix int, emit func(v l2.VNet, l3 [][]byte)) {
	hdr, head := f.first[:c.firstLen], f.first[:c.firstLen+prefix]
	for off := 0; off < n; {
		size := n - off
		if room := mtu - len(hdr); size > room {
			size = room &^ 7
		}
		c.patch(hdr, off, size, off+size < n)
		f.slices = append(f.slices[:0], head)
		f.take(size - (len(head) - len(hdr)))
		emit(l2.VNet{}, f.slices)
		off += size
		hdr, head = f.rest[:c.restLen], f.rest[:c.restLen]
	}
}

// patch writes what differs from piece to piece.
func (c *cut) patch(h []byte, off, size int, more bool) {
	word := uint16(c.base + off)
	if c.v6 {
		if more {
			word |= 1
		}
		binary.BigEndian.PutUint16(h[4:], uint16(len(h)-HeaderLen6+size))
		binary.BigEndian.PutUint16(h[len(h)-fragHdrLen+2:], word)
		return
	}
	word /= 8
	if more || c.more {
		word |= flag4MF
	}
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+size))
	binary.BigEndian.PutUint16(h[6:], word)
	putHeaderSum(h)
}

// take moves n bytes of what is left of the packet to the piece.
func (f *pieces) take(n int) {
	for n > 0 {
		b := f.left[f.next]
		b = b[:min(n, len(b))]
		if len(b) > 0 {
			f.slices = append(f.slices, b)
		}
		f.skip(len(b))
		n -= len(b)
	}
}

// skip drops n bytes from what is left, none of them behind the current slice; an empty slice is left behind.
func (f *pieces) skip(n int) {
	f.left[f.next] = f.left[f.next][n:]
	if len(f.left[f.next]) == 0 {
		f.next++
	}
}

// prepare writes the two headers and says how to cut.
func (f *pieces) prepare(h []byte, total int) (cut, error) {
	if len(h) < HeaderLen4 {
		return cut{}, errors.New("fragment packet: no whole IP header in its first slice")
	}
	switch h[0] >> 4 {
	case 4:
		return f.prepare4(h, total)
	case 6:
		return f.prepare6(h, total)
	}
	return cut{}, fmt.Errorf("fragment packet: IP version %d", h[0]>>4)
}

func (f *pieces) prepare4(h []byte, total int) (cut, error) {
	hl := int(h[0]&15) * 4
	if hl < HeaderLen4 || hl > len(h) || total > maxPacket {
		return cut{}, fmt.Errorf("fragment packet: header of %d bytes in a packet of %d", hl, total)
	}
	word := binary.BigEndian.Uint16(h[6:])
	if word&flag4DF != 0 {
		return cut{}, ErrDontFragment
	}
	c := cut{hdr: hl, firstLen: hl, base: int(word&0x1fff) * 8, more: word&flag4MF != 0}
	if c.base+total-hl > maxPacket {
		return cut{}, fmt.Errorf("fragment packet: a fragment that ends at byte %d", c.base+total-hl)
	}
	copy(f.first[:], h[:hl])
	if binary.BigEndian.Uint16(h[4:]) == 0 && c.base == 0 && !c.more {
		binary.BigEndian.PutUint16(f.first[4:], randomID())
	}
	// Only options with the copy bit go into the others (RFC 791 §3.1).
	rest := append(f.rest[:0], f.first[:HeaderLen4]...)
	for o := h[HeaderLen4:hl]; len(o) > 0 && o[0] != opt4End; {
		n := 1
		if o[0] != opt4Nop {
			if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
				return cut{}, errors.New("fragment packet: malformed IPv4 options")
			}
			n = int(o[1])
		}
		if o[0]&0x80 != 0 {
			rest = append(rest, o[:n]...)
		}
		o = o[n:]
	}
	for len(rest)%4 != 0 {
		rest = append(rest, opt4End)
	}
	c.restLen = len(rest)
	rest[0] = 4<<4 | uint8(len(rest)/4)
	return c, nil
}

func (f *pieces) prepare6(h []byte, total int) (cut, error) {
	if len(h) < HeaderLen6 || total-HeaderLen6 > maxPacket {
		return cut{}, fmt.Errorf("fragment packet: header of %d bytes in a packet of %d", len(h), total)
	}
	// The fragment header goes behind the last header that routers look at: hop-by-hop options
	// and routing, and destination options if they stand before routing.
	end, nextAt := HeaderLen6, 6
	for at, next, from := HeaderLen6, h[6], 6; ; {
		if next == nextFragment {
			return cut{}, errors.New("fragment packet: it has an IPv6 fragment header already")
		}
		if next != nextHopByHop && next != nextRouting && next != nextDestOpts {
			break
		}
		if at+8 > len(h) || at+8+int(h[at+1])*8 > min(len(h), maxHeader-fragHdrLen) {
			return cut{}, errors.New("fragment packet: IPv6 extension headers too long to repeat")
		}
		kind := next
		next, from, at = h[at], at, at+8+int(h[at+1])*8
		if kind != nextDestOpts {
			end, nextAt = at, from
		}
	}
	c := cut{v6: true, hdr: end, firstLen: end + fragHdrLen, restLen: end + fragHdrLen}
	copy(f.first[:], h[:end])
	fh := f.first[end:c.firstLen]
	clear(fh)
	fh[0], f.first[nextAt] = f.first[nextAt], nextFragment
	binary.BigEndian.PutUint32(fh[4:], rand.Uint32())
	copy(f.rest[:], f.first[:c.firstLen])
	return c, nil
}

// randomID returns an IPv4 identification that is not 0.
func randomID() uint16 { return uint16(1 + rand.Uint32N(0xffff)) }
