package tap

import (
	"encoding/binary"
	"math/bits"
	"sync"

	"github.com/usernet/usernet/stack/l2"
)

// Theory of operation
//
// A TAP has one queue, and one goroutine reads it, because two would swap packets. While the process has one P that goroutine
// hands on what it has read itself, down to the host's socket. With several P (sys.Processors) that would be the work of
// one of them. So the reader only reads, and puts each frame into one of as many lanes as there are P, by a hash of its
// flow: addresses, protocol and ports. Each lane is a queue of batches with a goroutine that hands them on. A flow's frames are in one
// lane and so stay in order; flows that share a lane share its goroutine.
//
//	              ┌─ lane 0 ──► input, idle
//	TAP ─► reader ┼─ lane 1 ──► input, idle
//	              └─ lane n ──► input, idle
//
// A frame is copied once either way: a small one from the block that was read into its batch, and with a large one the block
// itself changes hands. A lane that is full makes the reader wait, and the TAP's own queue fills, which is where a link
// loses packets.
//
// When the number of P changes the reader waits until the lanes are empty and starts others, so that no frame overtakes one
// of its flow that came before.
//
// The reader is what stays serial: 0.9 µs for a small frame and 6 for one of 64 KiB, so a container sends at most a million frames and 80
// Gbit/s, whatever the number of CPUs. A device of several queues (IFF_MULTI_QUEUE) would share that too, for as many descriptors
// as there are CPUs in each process that keeps the TAP; devices that others made have one queue anyway.

// laneBatches is how many batches wait in a lane: enough that reader and lane need not take turns, few enough that the sender
// notices soon.
const laneBatches = 4

// lanes hands on frames on several goroutines. Its methods belong to the reader.
type lanes struct {
	queues  []chan *batch
	filling []*batch // by lane; nil where there is nothing
	workers sync.WaitGroup
}

// startLanes makes n lanes, which call input and idle as Run does.
func startLanes(n int, input func([]l2.Frame), idle func()) *lanes {
	s := &lanes{queues: make([]chan *batch, n), filling: make([]*batch, n)}
	for i := range s.queues {
		q := make(chan *batch, laneBatches)
		s.queues[i] = q
		s.workers.Go(func() {
			for b := range q {
				b.flush(input)
				idle()
				batches.Put(b)
			}
		})
	}
	return s
}

// adapt returns the lanes for as many P as there are now: s itself if they are that many, nil for one. s may be nil.
func (d *Device) adapt(s *lanes, input func([]l2.Frame), idle func()) *lanes {
	n := d.lanes()
	if s == nil && n <= 1 || s != nil && n == len(s.queues) {
		return s
	}
	s.stop()
	if n <= 1 {
		return nil
	}
	return startLanes(n, input, idle)
}

// batch is where a frame goes, and lane the lane it is in.
func (s *lanes) batch(h *l2.Header, packet []byte) (b *batch, lane int) {
	// The hash's upper half times n, so that all its bits count (Lemire's reduction).
	hi, _ := bits.Mul32(flowHash(h, packet), uint32(len(s.queues)))
	lane = int(hi)
	if s.filling[lane] == nil {
		s.filling[lane] = batches.Get().(*batch)
	}
	return s.filling[lane], lane
}

// send gives the lane what has been put into its batch.
func (s *lanes) send(lane int) {
	if b := s.filling[lane]; b != nil {
		s.filling[lane] = nil
		s.queues[lane] <- b
	}
}

// flush gives all lanes what they have.
func (s *lanes) flush() {
	for i := range s.filling {
		s.send(i)
	}
}

// stop returns when everything has been handed on and the lanes have ended. s may be nil.
func (s *lanes) stop() {
	if s == nil {
		return
	}
	s.flush()
	for _, q := range s.queues {
		close(q)
	}
	s.workers.Wait()
}

const (
	ipv4Header, ipv6Header = 20, 40
	protoTCP, protoUDP     = 6, 17
)

// flowHash is equal for the frames of a flow: of IP packets with equal addresses, protocol and ports. Fragments have no ports, so
// they count as a flow of their own. What is not IP is one flow.
func flowHash(h *l2.Header, packet []byte) uint32 {
	var addrs, ports []byte
	var proto byte
	switch {
	case h.Type() == l2.TypeIPv4 && len(packet) >= ipv4Header:
		proto, addrs = packet[9], packet[12:20]
		const fragment = 0x3fff // more to come, or not the first
		if n := int(packet[0]&15) * 4; binary.BigEndian.Uint16(packet[6:])&fragment == 0 && len(packet) >= n+4 {
			ports = packet[n : n+4]
		}
	case h.Type() == l2.TypeIPv6 && len(packet) >= ipv6Header:
		proto, addrs = packet[6], packet[8:40]
		if len(packet) >= ipv6Header+4 {
			ports = packet[ipv6Header : ipv6Header+4]
		}
	default:
		return 0
	}
	sum := uint64(proto)
	for ; len(addrs) > 0; addrs = addrs[4:] {
		sum = mix(sum, binary.BigEndian.Uint32(addrs))
	}
	if len(ports) == 4 && (proto == protoTCP || proto == protoUDP) {
		sum = mix(sum, binary.BigEndian.Uint32(ports))
	}
	return uint32(sum >> 32)
}

// mix adds a word to a hash: multiplication by a large odd number (Knuth, The Art of Computer Programming 3, 6.4).
func mix(sum uint64, word uint32) uint64 {
	const golden = 0x9e3779b97f4a7c15
	sum = (sum ^ uint64(word)) * golden
	return sum ^ sum>>29
}
