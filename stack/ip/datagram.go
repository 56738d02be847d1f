package ip

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// fewSpans is how many fragments a datagram keeps track of without more memory: 64 KiB in pieces of
// 1480 bytes has 45.
const fewSpans = 48

// spanSize is the memory of one span, counted in the quota when there are more than fewSpans, so that
// very small fragments are not free.
const spanSize = 4

// datagramState is where a datagram is in the diagram of the Reassembler.
type datagramState uint8

const (
	collecting datagramState = iota
	poisoned
)

// datagramKey tells datagrams of one source apart.
type datagramKey struct {
	src, dst netip.Addr
	id       uint32
	proto    uint8 // IPv4 only: RFC 8200 leaves it out
}

// span is a fragment that has come: bytes [from, to) of the datagram's payload.
type span struct{ from, to uint16 }

type datagram struct {
	key     datagramKey
	state   datagramState
	expires time.Time
	block   *block
	spans   []span // sorted, never touching each other's bytes; in few while they fit
	got     int    // bytes in spans
	total   int    // payload length, -1 until the last fragment has come
	hdrLen  int    // length of the headers that end at the block's headRoom, 0 until the first fragment has come
	few     [fewSpans]span
}

// charge is what the datagram counts for in its source's quota.
func (d *datagram) charge() int {
	n := 0
	if cap(d.spans) > fewSpans {
		n = cap(d.spans) * spanSize
	}
	if d.block != nil {
		n += classSize(d.block.class)
	}
	return n
}

// blockClass is the class of d's block, -1 when it has none.
func blockClass(d *datagram) int {
	if d.block == nil {
		return -1
	}
	return d.block.class
}

// keepHeader keeps the headers of the first fragment, made into those of a whole packet but for the length.
func (d *datagram) keepHeader(p *Packet) bool {
	n := p.HdrLen
	if p.Is6() {
		n = p.fragAt
	}
	if n > headRoom {
		return false
	}
	h := d.block.data[headRoom-n : headRoom]
	copy(h, p.Data)
	if p.Is6() {
		h[p.nextAt] = p.Data[p.fragAt]
	} else {
		binary.BigEndian.PutUint16(h[6:], binary.BigEndian.Uint16(h[6:])&flag4DF)
	}
	d.hdrLen = n
	return true
}
