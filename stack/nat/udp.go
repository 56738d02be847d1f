package nat

import (
	"net/netip"
	"sync"
	"time"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// Defaults of spec.Limits.
const (
	defaultUDPFlows = 2048
	udpIdle         = 300 * time.Second // RFC 4787 REQ-5c
	udpIdleDNS      = 30 * time.Second  // REQ-5a, for port 53 only

	// ttlMatters is below what a sender needs for its TTL to be carried: it is a traceroute or the
	// like. Everything else leaves with the host's own, which saves a control message per datagram.
	ttlMatters = 60
)

// UDP carries the datagrams of containers to the outside and back. It is safe for concurrent use.
type UDP struct {
	s *flows

	dirtyMu sync.Mutex // guards what follows and flow.dirty, flow.nextDirty
	dirty   *flow      // flows with something to flush
}

// NewUDP starts the UDP NAT of a Network. Close stops it.
func NewUDP(env Env, p *Policy, n spec.Network) *UDP {
	limit := n.Limits.UDPFlows
	if limit <= 0 {
		limit = defaultUDPFlows
	}
	long, short := udpIdle, udpIdleDNS
	if n.Limits.UDPIdleMillis > 0 {
		long = time.Duration(n.Limits.UDPIdleMillis) * time.Millisecond
		short = min(short, long)
	}
	u := &UDP{s: newFlows(env, "udp", env.UDPSockets, p, n, newTable[*flow](limit, short, long))}
	u.s.deliver = u.deliver
	return u
}

// Input sends a datagram of a container. p is whole, its checksum has been verified, its TTL is above 1; it
// may be a USO packet. It is borrowed until Input returns. What is sent may wait for Flush.
func (u *UDP) Input(p *ip.Packet) {
	payload, ok := p.UDPPayload()
	sport, dport, ok2 := p.Ports()
	if !ok || !ok2 {
		u.s.Drops.Add(drop.IPMalformed)
		return
	}
	dst := netip.AddrPortFrom(p.Dst, dport)
	v := u.s.policy.Check(ip.UDP, dst)
	if !v.Allow {
		u.s.refused(p)
		return
	}
	f := u.s.flow(p, netip.AddrPortFrom(p.Src, sport), classOf(dst), v.Mapped)
	if f == nil {
		return
	}
	f.sent(p, dst, v.Dial)
	m := outMsg{to: netip.AddrPortFrom(v.Dial, dport), dst: dst, tos: p.TOS, data: payload}
	if p.TTL < ttlMatters {
		m.ttl = max(p.TTL, 2) - 1
	}
	if size := int(p.VNet.GSOSize); p.VNet.GSOType == l2.GSOUDPL4 && size > 0 && len(payload) > size {
		m.segment = size
	}
	if u.s.send(f, m, p.DF) {
		u.markDirty(f)
	}
}

// classOf is the idle class a datagram to dst asks for.
func classOf(dst netip.AddrPort) idleClass {
	if dst.Port() == 53 {
		return idleShort
	}
	return idleLong
}

func (u *UDP) markDirty(f *flow) {
	u.dirtyMu.Lock()
	if !f.dirty {
		f.dirty, f.nextDirty, u.dirty = true, u.dirty, f
	}
	u.dirtyMu.Unlock()
}

// Flush sends what waits. Whoever calls Input calls it at the end of each batch of packets.
func (u *UDP) Flush() {
	u.s.endBatch()
	for {
		u.dirtyMu.Lock()
		f := u.dirty
		if f != nil {
			f.dirty, u.dirty, f.nextDirty = false, f.nextDirty, nil
		}
		u.dirtyMu.Unlock()
		if f == nil {
			return
		}
		u.s.flush(f)
	}
}

// HostChanged tells that addresses or routes of the host have changed.
//
// Flows follow by themselves, with the next datagram: their sockets are not connected, so the kernel
// looks up route and source address for each one, and a socket bound to an outbound address that goes works
// again when the address is back; in between, the container is told that the host is unreachable.
// Opening new sockets would only change the outside ports of flows that can go on (RFC 4787 REQ-11). What
// is forgotten is what was learnt of the way out: whether it can take GSO trains, and that trouble has been
// logged.
func (u *UDP) HostChanged() { u.s.hostChanged() }

// Flows returns how many flows there are.
func (u *UDP) Flows() int { return u.s.len() }

// Close ends all flows and returns when their goroutines have. A second call does nothing.
func (u *UDP) Close() error {
	u.s.close()
	return nil
}
