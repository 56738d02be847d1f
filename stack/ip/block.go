package ip

import (
	"math/bits"
	"sync"
)

// headRoom is kept in front of every block for the headers of the first fragment. It bounds the
// part of an IPv6 packet before its fragment header; an IPv4 header is at most 60 bytes.
const headRoom = 128

// Sizes of blocks: headRoom and 2 KiB, doubling up to 64 KiB. The smallest holds an ordinary
// datagram of two fragments of a 1500-byte link without growing twice.
const (
	minBlock     = 2 << 10
	blockClasses = 6
)

// block is the memory a datagram is put together in. Its payload starts at headRoom.
type block struct {
	data  []byte
	class int
	whole Packet // what Add returns when the datagram is complete
}

var blocks [blockClasses]sync.Pool

// classFor returns the smallest class that holds n bytes of payload, n at most 64 KiB.
func classFor(n int) int {
	if n <= minBlock {
		return 0
	}
	return bits.Len(uint(n-1) / minBlock)
}

// classSize is the memory a block of the class takes.
func classSize(class int) int { return headRoom + minBlock<<class }

func newBlock(class int) *block {
	if b, ok := blocks[class].Get().(*block); ok {
		return b
	}
	return &block{data: make([]byte, classSize(class)), class: class}
}

func (b *block) free() { blocks[b.class].Put(b) }
