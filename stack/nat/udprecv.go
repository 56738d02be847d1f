package nat

import (
	"net/netip"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
)

// Theory of operation: receiving
//
// A write to the TAP costs the same for one datagram as for a train of them, and about as much as everything
// else we do for a datagram. So trains are kept, and made: what the kernel joined on receive (UDP_GRO) goes
// on as one USO packet, and datagrams that lie next to each other in a batch, from one sender and of one
// size, are moved together into one. The container's kernel takes a train apart again at the receiving
// socket; sizes, order and boundaries are as they were sent.
//
// The checksum is left partial: the datagram has been checked by this host's kernel and goes through
// memory only.

// train is a run of datagrams from one sender, segment bytes each but the last.
type train struct {
	from     netip.AddrPort
	ttl, tos uint8
	segment  int
	data     []byte
}

// maxDatagram is the most one UDP packet can carry, by family.
func maxDatagram(v6 bool) int {
	if v6 {
		return 65535 - ip.UDPHeaderLen
	}
	return 65535 - ip.HeaderLen4 - ip.UDPHeaderLen
}

// deliver passes n received messages on to f's container.
func (u *UDP) deliver(f *flow, rb *recvBuf, n int) {
	var t train
	for i := range n {
		m := rb.batch.Message(i)
		if m.Truncated {
			u.s.Drops.Add(drop.SocketError)
			continue
		}
		if !f.knows(m.From.Addr()) {
			u.s.Drops.Add(drop.FilterDenied)
			continue
		}
		if t.segment > 0 && t.join(&m) {
			continue
		}
		u.emit(f, rb, &t)
		t = train{from: m.From, ttl: m.TTL, tos: m.TOS, segment: m.Segment, data: m.Data}
		if t.segment == 0 {
			t.segment = len(m.Data)
		}
		if len(m.Data) == 0 { // nothing can be joined to it
			u.emitOne(f, rb, &t, m.Data)
			t = train{}
		}
	}
	u.emit(f, rb, &t)
}

// join moves the datagrams of m to the end of the train, if they belong there.
func (t *train) join(m *sys.Received) bool {
	single := m.Segment == 0 || len(m.Data) <= m.Segment
	switch {
	case len(m.Data) == 0 || t.from != m.From || t.ttl != m.TTL || t.tos != m.TOS:
		return false
	case len(t.data)%t.segment != 0: // it ends with a shorter one, which is the last
		return false
	case single && len(m.Data) > t.segment || !single && m.Segment != t.segment:
		return false
	case len(t.data)+len(m.Data) > trainMaxBytes || (len(t.data)+len(m.Data))/t.segment > trainMax:
		return false
	}
	// In place: behind a message there is room for the largest.
	t.data = append(t.data, m.Data...)
	return true
}

// emit sends a train, as one packet if the link can take its datagrams unfragmented.
func (u *UDP) emit(f *flow, rb *recvBuf, t *train) {
	if len(t.data) == 0 {
		return
	}
	headers := ip.UDPHeadersLen(t.from.Addr())
	perPacket := t.segment
	if headers+t.segment <= u.s.mtu {
		perPacket *= max(1, maxDatagram(t.from.Addr().Is6())/t.segment)
	}
	for rest := t.data; len(rest) > 0; {
		n := min(perPacket, len(rest))
		u.emitOne(f, rb, t, rest[:n])
		rest = rest[n:]
	}
}

// emitOne sends one packet.
func (u *UDP) emitOne(f *flow, rb *recvBuf, t *train, payload []byte) {
	src := u.s.seen(f, t.from)
	segment := 0
	if len(payload) > t.segment {
		segment = t.segment
	}
	ttl := t.ttl
	if ttl > 1 {
		ttl--
	}
	n := ip.PutUDPHeaders(rb.hdr[:], src, f.key, len(payload), ip.UDPOpts{
		TTL: ttl, TOS: t.tos, Partial: true, DF: ip.UDPHeadersLen(src.Addr())+t.segment <= u.s.mtu,
	})
	if n == 0 {
		u.s.Drops.Add(drop.SocketError)
		return
	}
	rb.parts[0], rb.parts[1] = rb.hdr[:n], payload
	u.s.Emit.EmitIP(f.key.Addr(), ip.UDPVNet(src.Addr(), segment), rb.parts[:])
	rb.parts[1] = nil
}
