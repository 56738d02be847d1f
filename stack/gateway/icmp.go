package gateway

import (
	"time"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
)

// ICMP and ICMPv6 types, RFC 792, RFC 4443, RFC 4861.
const (
	icmp4Unreachable = 3
	icmp6LastError   = 127
	icmp6RouterSol   = 133
	icmp6NeighborSol = 135
	icmp6NeighborAdv = 136
)

// echoesPerSecond bounds the pings to our own addresses that are answered to one container (HC-26).
const echoesPerSecond = 1000

func (g *Gateway) inputICMP(f *l2.Frame, p *ip.Packet) {
	b := p.Payload()
	if len(b) < 8 {
		g.drops.Add(drop.IPMalformed)
		return
	}
	if _, _, echo := p.ICMPEcho(); echo {
		switch {
		case g.own[p.Dst] && !g.echoes.Allow(time.Now(), p.MAC):
			g.drops.Add(drop.ICMPLimit)
		case g.own[p.Dst]:
			g.link.inject(f, netProto(p.Src), p.Data, 0, len(p.Data))
		case p.Group || p.Dst.IsMulticast():
			g.drops.Add(drop.NotForUs) // no smurf
		case g.svc.Ping != nil:
			g.svc.Ping.Input(p)
		}
		return
	}
	switch {
	case p.Is6() && b[0] == icmp6RouterSol:
		if g.svc.Autoconf == nil || !g.svc.Autoconf.Input(p) {
			g.drops.Add(drop.NotForUs)
		}
	case p.Is6() && b[0] == icmp6NeighborSol:
		g.inputSolicitation(p, b)
	case p.Is6() && b[0] == icmp6NeighborAdv:
		g.inputAnswer(f, netProto(p.Src), p.Data)
	case p.Is6() && b[0] <= icmp6LastError, !p.Is6() && b[0] == icmp4Unreachable:
		g.inputError(f, p)
	default:
		g.drops.Add(drop.NotForUs)
	}
}

// The least path MTU that is believed. Below it netstack would cut a stream into segments down to one byte
// each, at our cost and on the container's word alone.
const (
	minPathMTU4 = 552  // Linux, net.ipv4.route.min_pmtu
	minPathMTU6 = 1280 // RFC 8201 §4
)

// inputError passes an ICMP error about one of our TCP segments to netstack. Errors about UDP end
// here: RFC 4787 REQ-12 forbids that they change a mapping, and no one outside needs them.
func (g *Gateway) inputError(f *l2.Frame, p *ip.Packet) {
	var q ip.Quoted
	if r := ip.ParseQuoted(&q, p); r != drop.None {
		g.drops.Add(r)
		return
	}
	if q.Proto != ip.TCP || q.Dst.Addr() != p.Src {
		g.drops.Add(drop.ICMPUnmatched)
		return
	}
	least := minPathMTU4
	if p.Is6() {
		least = minPathMTU6
	}
	if q.Kind == ip.FragNeeded && q.MTU < least {
		g.drops.Add(drop.ICMPUnmatched)
		return
	}
	if g.stack.known.Load() == nil { // there is no connection that it could be about
		g.drops.Add(drop.ICMPUnmatched)
		return
	}
	g.link.inject(f, netProto(p.Src), p.Data, 0, len(p.Data))
}

// icmpError answers p with an ICMP error from the gateway's address.
func (g *Gateway) icmpError(p *ip.Packet, kind ip.ErrorKind, mtu int) {
	from := g.cfg.Spec.Gateway4
	if p.Is6() {
		from = g.cfg.Spec.Gateway6
	}
	if !from.IsValid() {
		return
	}
	mac := p.MAC
	if mac.IsZero() { // a packet made up for its quote
		mac = g.Station(p.Src)
	}
	if !g.icmpErrors.Allow(time.Now(), mac) {
		g.drops.Add(drop.ICMPLimit)
		return
	}
	var buf [1280]byte
	if b := ip.ICMPError(buf[:], p, from, kind, mtu); b != nil {
		g.EmitIP(p.Src, l2.VNet{}, [][]byte{b})
	}
}
