package nat

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// Theory of operation
//
// A flow of Ping is a container's address and echo identifier, and a ping socket of the host (icmp(7):
// SOCK_DGRAM with IPPROTO_ICMP) which stands for it. The kernel gives each ping socket an identifier of its
// own, writes it into what we send and delivers only replies that bear it, so two containers that choose the
// same identifier never meet (RFC 5508 REQ-1). Replies get the container's identifier back.
//
// Ping sockets need no privilege but a group within net.ipv4.ping_group_range, which is a setting of the
// host. Where it is not set the container is told that ping is prohibited, and a log line tells the
// person how to allow it.

const (
	defaultPingFlows = 256
	pingIdle         = 60 * time.Second // RFC 5508 REQ-2
	icmpHeaderLen    = 8
)

// Ping carries echo requests of containers to the outside and the replies back. It is safe for
// concurrent use.
type Ping struct{ s *flows }

// NewPing starts the ping NAT of a Network. Close stops it.
func NewPing(env Env, p *Policy, n spec.Network) *Ping {
	limit := n.Limits.PingFlows
	if limit <= 0 {
		limit = defaultPingFlows
	}
	g := &Ping{s: newFlows(env, "ping", env.PingSockets, p, n, newTable[*flow](limit, pingIdle, pingIdle))}
	g.s.deliver = g.deliver
	return g
}

// Input sends an echo request of a container. p is whole, its checksum has been verified, its TTL is
// above 1; it is borrowed until Input returns. Other ICMP messages are dropped: an error about a reply is of
// no use outside, and must not keep a flow alive (RFC 7857 §5).
func (g *Ping) Input(p *ip.Packet) {
	id, _, ok := p.ICMPEcho()
	if !ok {
		g.s.Drops.Add(drop.IPProtocol)
		return
	}
	dst := netip.AddrPortFrom(p.Dst, 0)
	v := g.s.policy.Check(p.Proto, dst)
	if !v.Allow {
		g.s.refused(p)
		return
	}
	f := g.s.flow(p, netip.AddrPortFrom(p.Src, id), idleLong, v.Mapped)
	if f == nil {
		return
	}
	f.sent(p, dst, v.Dial)
	m := outMsg{to: netip.AddrPortFrom(v.Dial, 0), dst: dst, tos: p.TOS, data: p.Payload()}
	if p.TTL < ttlMatters {
		m.ttl = max(p.TTL, 2) - 1
	}
	g.s.send(f, m, p.DF)
}

// deliver passes n received messages on to f's container.
func (g *Ping) deliver(f *flow, rb *recvBuf, n int) {
	for i := range n {
		m := rb.batch.Message(i)
		reply := uint8(0) // RFC 792
		if f.proto == ip.ICMPv6 {
			reply = 129 // RFC 4443 §4.2
		}
		switch {
		case m.Truncated || len(m.Data) < icmpHeaderLen || m.Data[0] != reply || m.Data[1] != 0:
			g.s.Drops.Add(drop.IPProtocol)
			continue
		case !f.knows(m.From.Addr()):
			g.s.Drops.Add(drop.FilterDenied)
			continue
		}
		ttl := m.TTL
		if ttl > 1 {
			ttl--
		}
		rb.echo = ip.AppendEcho(rb.echo[:0], ip.Echo{
			Src: g.s.seen(f, m.From).Addr(), Dst: f.key.Addr(), ID: f.key.Port(), Seq: binary.BigEndian.Uint16(m.Data[6:]),
			Reply: true, TTL: ttl, TOS: m.TOS, Data: m.Data[icmpHeaderLen:],
		})
		if rb.echo == nil {
			g.s.Drops.Add(drop.SocketError)
			continue
		}
		rb.parts[0] = rb.echo
		g.s.Emit.EmitIP(f.key.Addr(), l2.VNet{}, rb.parts[:1])
	}
}

// Flows returns how many flows there are.
func (g *Ping) Flows() int { return g.s.len() }

// HostChanged is UDP.HostChanged for pings.
func (g *Ping) HostChanged() { g.s.hostChanged() }

// Close ends all flows and returns when their goroutines have. A second call does nothing.
func (g *Ping) Close() error {
	g.s.close()
	return nil
}
