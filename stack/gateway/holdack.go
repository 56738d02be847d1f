package gateway

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// # Delayed ACKs
//
// netstack acknowledges each segment at once. A request of a few bytes so is answered by two packets, the ACK and the
// answer, and the ACK is written to the TAP before the request has been given to the host's socket. RFC 1122 §4.2.3.2 lets
// an ACK wait for data that carries it, unless it is for a second full-sized segment.
//
// So when a container sends less than a full segment, or its FIN, we expect the ACK of exactly that. When netstack sends
// that ACK, and nothing with it, it is held. What netstack sends next of the connection says all it said, and
// it is forgotten; if nothing comes, it goes out at the second tick, after ackTick to twice that. A second segment is not waited with.
//
// A sender that waits for the ACK itself before it sends the rest of its request (Nagle) would lose that time again and again. So a
// connection whose ACK had to go out alone has its next ones at once, ackRefrain of them.
//
// What is remembered of a connection is in one of a few slots. Two that share one take it from each other, which costs
// nothing but a packet.
type ackHolder struct {
	g *Gateway

	// live is how many slots expect or hold something, so that whoever has none to look for needs no lock.
	live atomic.Int32

	mu    sync.Mutex         // a leaf
	slots *[ackSlots]ackSlot // guarded by mu; nil before the first
	held  int                // guarded by mu
	timer ackTimer           // guarded by mu; nil before the first
	ticks bool               // guarded by mu; the timer runs
	fresh bool               // guarded by mu; something was held since the last tick
	ended bool               // guarded by mu
}

// ackTimer is a time.Timer.
type ackTimer interface {
	Reset(time.Duration) bool
	Stop() bool
}

const (
	ackSlots = 64
	// ackTick is long enough for a server on this host or near it, and short beside what a sender allows for
	// (RFC 1122: half a second; Linux waits 40 ms).
	ackTick    = 2 * time.Millisecond
	ackRefrain = 64
	// ackPayload is the most that is less than a full segment at an MTU of 1500. With a smaller MTU a single full segment may
	// wait as well, which RFC 1122 lets it.
	ackPayload = 1400
)

// ackState says what a slot is about.
type ackState uint8

const (
	ackNone     ackState = iota
	ackExpected          // number is what netstack will acknowledge
	ackHeld              // pkt waits
)

// ackKey is a connection, as the container's packets name it.
type ackKey struct{ from, to netip.AddrPort }

type ackSlot struct {
	key     ackKey
	number  uint32
	state   ackState
	ticked  bool // held at the last tick already
	refrain int8 // segments of the connection to come that are not expected
	pkt     *gvstack.PacketBuffer
}

// slot spreads ports, of which Linux chooses every second for connections.
func (k ackKey) slot() uint16 { return (k.from.Port()>>1 ^ k.from.Port()>>7 ^ k.to.Port()) % ackSlots }

// expect is told of a segment of a container: the ACK of number may wait.
func (h *ackHolder) expect(k ackKey, number uint32) {
	h.mu.Lock()
	if h.slots == nil {
		h.slots = new([ackSlots]ackSlot)
	}
	s := &h.slots[k.slot()]
	var late *gvstack.PacketBuffer
	if s.key != k {
		late = h.clearLocked(s)
		*s = ackSlot{key: k}
	}
	switch {
	case s.state == ackHeld:
		// It waits until netstack sends the next, which does not.
	case s.refrain > 0:
		s.refrain--
	default:
		if s.state == ackNone {
			h.live.Add(1)
		}
		s.state, s.number = ackExpected, number
	}
	h.mu.Unlock()
	if late != nil {
		h.release(late)
	}
}

// hold takes a packet netstack sends, if it is an ACK that may wait, and otherwise forgets an ACK that the packet makes
// redundant.
func (h *ackHolder) hold(pkt *gvstack.PacketBuffer) bool {
	if h.live.Load() == 0 {
		return false
	}
	k, tcp, ok := ackKeyOf(pkt)
	if !ok {
		return false
	}
	h.mu.Lock()
	s := &h.slots[k.slot()] // there are slots, since one of them is live
	switch {
	case s.key != k || s.state == ackNone:
		h.mu.Unlock()
		return false
	case s.state == ackExpected && tcp.Flags() == header.TCPFlagAck && pkt.Data().Size() == 0 && tcp.AckNumber() == s.number && !h.ended:
		h.holdLocked(s, pkt)
		h.mu.Unlock()
		return true
	}
	redundant := h.clearLocked(s)
	h.mu.Unlock()
	if redundant != nil {
		redundant.DecRef()
	}
	return false
}

func (h *ackHolder) holdLocked(s *ackSlot, pkt *gvstack.PacketBuffer) {
	s.state, s.pkt, s.ticked = ackHeld, pkt.IncRef(), false
	h.held++
	h.fresh = true
	switch {
	case h.ticks:
		return
	case h.timer == nil:
		h.timer = time.AfterFunc(ackTick, h.tick)
	default:
		h.timer.Reset(ackTick)
	}
	h.ticks = true
}

// clearLocked makes a slot expect and hold nothing. It returns what was held.
func (h *ackHolder) clearLocked(s *ackSlot) *gvstack.PacketBuffer {
	if s.state == ackNone {
		return nil
	}
	h.live.Add(-1)
	if s.state == ackHeld {
		h.held--
	}
	pkt := s.pkt
	s.state, s.pkt = ackNone, nil
	return pkt
}

// release sends an ACK that has waited.
func (h *ackHolder) release(pkt *gvstack.PacketBuffer) {
	var one gvstack.PacketBufferList
	one.PushBack(pkt)
	h.g.link.write(one)
	one.DecRef()
}

// tick sends what has been held since before the last tick. It comes back while anything is held, and once more.
func (h *ackHolder) tick() {
	if !h.g.enter() {
		return
	}
	defer h.g.wg.Done()
	var late [ackSlots]*gvstack.PacketBuffer
	h.mu.Lock()
	for i := range h.slots {
		s := &h.slots[i]
		switch {
		case s.state != ackHeld:
		case !s.ticked:
			s.ticked = true
		default:
			late[i] = h.clearLocked(s)
			s.refrain = ackRefrain
		}
	}
	if h.ticks = h.held > 0 || h.fresh; h.ticks {
		h.fresh = false
		h.timer.Reset(ackTick)
	}
	h.mu.Unlock()
	for _, pkt := range late {
		if pkt != nil {
			h.release(pkt)
		}
	}
}

// close forgets what is held. Nothing is held after it.
func (h *ackHolder) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	if h.timer != nil {
		h.timer.Stop()
	}
	if h.slots == nil {
		return
	}
	for i := range h.slots {
		if pkt := h.clearLocked(&h.slots[i]); pkt != nil {
			pkt.DecRef()
		}
	}
}

// ackKeyOf tells which connection a packet of netstack is of, if it is of any.
func ackKeyOf(pkt *gvstack.PacketBuffer) (k ackKey, tcp header.TCP, ok bool) {
	tcp = header.TCP(pkt.TransportHeader().Slice())
	if pkt.TransportProtocolNumber != header.TCPProtocolNumber || len(tcp) < header.TCPMinimumSize {
		return k, nil, false
	}
	var src, dst netip.Addr
	switch b := pkt.NetworkHeader().Slice(); {
	case pkt.NetworkProtocolNumber == header.IPv4ProtocolNumber && len(b) >= header.IPv4MinimumSize:
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	case pkt.NetworkProtocolNumber == header.IPv6ProtocolNumber && len(b) >= header.IPv6MinimumSize:
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	default:
		return k, nil, false
	}
	return ackKey{from: netip.AddrPortFrom(dst, tcp.DestinationPort()), to: netip.AddrPortFrom(src, tcp.SourcePort())}, tcp, true
}
