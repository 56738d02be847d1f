package gateway

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
)

// packets holds parsed packets between frames, so that one that goes to an interface method does
// not cost an allocation.
var packets = sync.Pool{New: func() any { return new(ip.Packet) }}

// reassembly is the reassembler and the timer that clears it. The timer runs only while something
// waits, so that an idle Network never wakes up.
type reassembly struct {
	*ip.Reassembler

	mu    sync.Mutex
	timer *time.Timer // guarded by mu; nil while nothing waits
	ended bool        // guarded by mu
}

// expireEvery is how late a datagram that never became whole may be forgotten.
const expireEvery = time.Second

// arm makes sure the timer runs.
func (r *reassembly) arm() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer == nil && !r.ended {
		r.timer = time.AfterFunc(expireEvery, r.expire)
	}
}

func (r *reassembly) expire() {
	r.Expire(time.Now())
	r.mu.Lock()
	defer r.mu.Unlock()
	if n, _ := r.Pending(); n == 0 || r.ended {
		r.timer = nil
		return
	}
	r.timer.Reset(expireEvery)
}

func (r *reassembly) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	if r.timer != nil {
		r.timer.Stop()
	}
}

// Output implements l2.Port: frames of containers to the gateway. It runs on the goroutine that
// read them; it ends in netstack, in a socket or in an answer, never in a queue of ours.
func (g *Gateway) Output(frames []l2.Frame) int {
	for i := range frames {
		f := &frames[i]
		if i+1 < len(frames) && supersedes(&frames[i+1], f) {
			continue
		}
		switch f.Header.Type() {
		case l2.TypeARP:
			g.inputARP(f)
		default:
			p := packets.Get().(*ip.Packet)
			g.inputFrame(f, p)
			packets.Put(p)
		}
	}
	return len(frames)
}

// Flush sends what waits for the end of a batch. The TAP's reader calls it when it has no more frames.
func (g *Gateway) Flush() {
	if g.svc.UDP != nil {
		g.svc.UDP.Flush()
	}
	if g.svc.FlushPublished != nil {
		g.svc.FlushPublished()
	}
}

// inputFrame takes one IP frame to the transport it is for.
func (g *Gateway) inputFrame(f *l2.Frame, p *ip.Packet) {
	if r := ip.Parse(p, f); r != drop.None {
		g.drops.Add(r)
		if p.Problem.Set {
			g.icmpError(p, ip.ParamProblem, 0)
		}
		return
	}
	if r := g.admit(p); r != drop.None {
		g.drops.Add(r)
		return
	}
	g.learn(p.Src, p.MAC)
	if p.TTL <= 1 && p.Dst != spec.LoopbackDNS && !g.own[p.Dst] && !p.Dst.IsMulticast() && !p.Group {
		g.drops.Add(drop.TTLExceeded)
		g.icmpError(p, ip.TTLExceeded, 0)
		return
	}
	if !p.IsFragment() {
		g.inputPacket(f, p)
		return
	}
	whole, r := g.reasm.Add(time.Now(), p)
	if r != drop.None {
		g.drops.Add(r)
	}
	if whole == nil {
		g.reasm.arm()
		return
	}
	g.inputPacket(nil, whole)
	g.reasm.Release(whole)
}

// limitedBroadcast is every station of the link (RFC 919).
var limitedBroadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// admit refuses, without an answer, what is for a loopback address other than the resolver's, IPv6 where the Network
// has none, and in a Network without a gateway all but what is for the resolver.
func (g *Gateway) admit(p *ip.Packet) drop.Reason {
	switch {
	case p.Dst == spec.LoopbackDNS:
		return drop.None // inputPacket looks at the port
	case p.Dst.IsLoopback():
		return drop.Loopback
	case g.cfg.Spec.NoGateway, p.Is6() && !g.has6():
		return drop.NotForUs
	}
	return drop.None
}

// inputPacket dispatches a whole packet. f is its frame, or nil when it was put together from several.
func (g *Gateway) inputPacket(f *l2.Frame, p *ip.Packet) {
	if !p.VerifyTransport() {
		g.drops.Add(drop.ChecksumBad)
		return
	}
	if _, port, ok := p.Ports(); p.Dst == spec.LoopbackDNS && (!ok || port != 53) {
		g.drops.Add(drop.Loopback)
		return
	}
	switch {
	case g.off(p):
		g.drops.Add(drop.PolicyDenied)
	case p.Proto == ip.TCP:
		g.inputTCP(f, p)
	case p.Proto == ip.UDP:
		g.inputUDP(p)
	case p.Proto == ip.ICMP && !p.Is6(), p.Proto == ip.ICMPv6 && p.Is6():
		g.inputICMP(f, p)
	case p.Group || p.Dst.IsMulticast():
		g.drops.Add(drop.NotForUs) // IGMP and the like stay on the link
	default:
		g.drops.Add(drop.IPProtocol)
		g.icmpError(p, ip.ProtoUnreachable, 0)
	}
}

// off tells whether p is of a protocol that the Network does not have: whoever waits for an answer waits in vain.
func (g *Gateway) off(p *ip.Packet) bool {
	policy := &g.cfg.Spec.Policy
	switch p.Proto {
	case ip.TCP:
		return policy.NoTCP
	case ip.ICMP, ip.ICMPv6: // neighbour discovery and errors are not meant
		_, _, echo := p.ICMPEcho()
		return policy.NoICMP && echo
	}
	return false
}

func (g *Gateway) inputTCP(f *l2.Frame, p *ip.Packet) {
	src, dst, ok := p.Ports()
	switch {
	case !ok:
		g.drops.Add(drop.IPMalformed)
		return
	case p.Group || p.Dst.IsMulticast():
		g.drops.Add(drop.NotForUs)
		return
	case src == 0 || dst == 0 || p.Src == p.Dst:
		// Nobody can answer these, and a LAND segment would make netstack talk to itself.
		g.drops.Add(drop.IPMalformed)
		return
	}
	const fin, syn, rst, ack = 0x01, 0x02, 0x04, 0x10
	segment := p.Payload()
	offset := min(int(segment[12]>>4)*4, len(segment)) // netstack refuses a bad data offset
	flags := segment[13]
	switch flags & (syn | rst | ack) {
	case syn:
		g.syns.put(netip.AddrPortFrom(p.Src, src), netip.AddrPortFrom(p.Dst, dst), p.Data)
	case ack:
		if n := len(segment) - offset + int(flags&fin); n > 0 && n <= ackPayload {
			k := ackKey{from: netip.AddrPortFrom(p.Src, src), to: netip.AddrPortFrom(p.Dst, dst)}
			g.acks.expect(k, binary.BigEndian.Uint32(segment[4:])+uint32(n))
		}
	}
	headers := p.HdrLen + offset
	network := 0
	if bare(p) {
		network = p.HdrLen
	}
	g.link.inject(f, netProto(p.Src), p.Data, network, headers)
}

// bare reports whether the IP header of a packet for one station has no options and no extension headers, so that all there is
// to say about it is said.
func bare(p *ip.Packet) bool {
	if p.Is6() {
		return p.HdrLen == ip.HeaderLen6 && !p.Dst.Is4In6()
	}
	return p.HdrLen == ip.HeaderLen4 && p.Dst != limitedBroadcast
}

func (g *Gateway) inputUDP(p *ip.Packet) {
	src, port, ok := p.Ports()
	if !ok {
		g.drops.Add(drop.IPMalformed)
		return
	}
	if g.cfg.Spec.Policy.NoUDP {
		// Guests may configure themselves all the same.
		if g.svc.Autoconf == nil || !g.svc.Autoconf.Input(p) {
			g.drops.Add(drop.PolicyDenied)
		}
		return
	}
	if g.own[p.Dst] && g.inputInside(p, src, port) {
		return
	}
	if g.svc.Published != nil && g.svc.Published(p) {
		return
	}
	if port == 53 && g.svc.DNS != nil && slices.Contains(g.dnsAddrs, p.Dst) {
		g.inputDNS(p)
		return
	}
	if g.svc.Autoconf != nil && g.svc.Autoconf.Input(p) {
		return
	}
	if p.Group || p.Dst.IsMulticast() {
		g.drops.Add(drop.NotForUs)
		return
	}
	if g.own[p.Dst] && !g.cfg.Policy.Check(ip.UDP, netip.AddrPortFrom(p.Dst, port)).Allow {
		g.drops.Add(drop.PolicyDenied)
		g.icmpError(p, ip.PortUnreachable, 0)
		return
	}
	if g.svc.UDP != nil {
		g.svc.UDP.Input(p)
	}
}

// inputDNS hands a query to the name server and sends its answer from the address it was sent to.
func (g *Gateway) inputDNS(p *ip.Packet) {
	src, dst, _ := p.Ports()
	query, ok := p.UDPPayload()
	if !ok {
		g.drops.Add(drop.DNSMalformed)
		return
	}
	client, server := netip.AddrPortFrom(p.Src, src), netip.AddrPortFrom(p.Dst, dst)
	g.svc.DNS.HandleUDP(query, client, func(msg []byte) {
		var hdr [ip.HeaderLen6 + ip.UDPHeaderLen]byte
		n := ip.PutUDPHeaders(hdr[:], server, client, len(msg), ip.UDPOpts{Payload: msg})
		g.EmitIP(client.Addr(), l2.VNet{}, [][]byte{hdr[:n], msg})
	})
}
