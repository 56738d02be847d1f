package bridge

import (
	"time"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/l2"
)

// Input takes a batch of frames that came in by the port and sends each where it belongs, in order, before
// it returns. The frames are borrowed; their Bufs may have been taken by then. Unicast allocates nothing.
func (p *Port) Input(frames []l2.Frame) {
	if len(frames) == 0 {
		return
	}
	if p.detached.Load() {
		p.b.drops.AddN(drop.TAPDown, len(frames))
		return
	}
	p.framesIn.Add(uint64(len(frames)))
	now := p.b.now()
	p.b.age(now)
	ports := p.b.ports.Load()

	// frames[run:i] wait to leave by the port to.
	run, to := 0, (*Port)(nil)
	for i := range frames {
		next, flood := p.route(ports, now, &frames[i])
		if next != nil && next == to {
			continue
		}
		if to != nil {
			to.output(frames[run:i])
		}
		run, to = i, next
		if flood {
			p.floodFrame(ports, frames[i:i+1])
		}
	}
	if to != nil {
		to.output(frames[run:])
	}
}

// route returns the port a unicast frame leaves by, or that it is to be flooded, or neither when it was
// dropped and counted.
func (p *Port) route(ports *snapshot, now time.Time, f *l2.Frame) (to *Port, flood bool) {
	segments := 1
	if !p.cfg.Trusted {
		var r drop.Reason
		if segments, r = p.admit(ports, now, f); r != drop.None {
			return p.refuse(r)
		}
	}
	dst := f.Header.Dst()
	if dst.IsMulticast() {
		if toLoopback(f) {
			return p.refuse(drop.Loopback)
		}
		if !p.cfg.Trusted && !p.flood.take(now, segments) {
			return p.refuse(drop.BroadcastLimit)
		}
		return nil, true
	}
	to, ok := p.b.table.Resolve(dst)
	if !ok || to == p || to.detached.Load() {
		return p.refuse(drop.DstUnknown)
	}
	if toLoopback(f) && !to.cfg.Trusted {
		return p.refuse(drop.Loopback)
	}
	if p.apart(to) && !p.hole(to, f) {
		return p.refuse(drop.PortIsolated)
	}
	return to, false
}

// toLoopback reports whether f is an IPv4 packet to 127/8. Sandboxes send such packets to the resolver in the gateway, and
// so their kernels take them from the wire as well (route_localnet): what listens on a container's 127.0.0.1 would
// be open to its neighbours. Source addresses are the guard's.
func toLoopback(f *l2.Frame) bool {
	return f.Header.Type() == l2.TypeIPv4 && len(f.L3) > 0 && len(f.L3[0]) >= minIPv4Header && f.L3[0][16] == 127
}

// admit is what a frame from somebody else's code passes: validate, guard, learn.
func (p *Port) admit(ports *snapshot, now time.Time, f *l2.Frame) (segments int, r drop.Reason) {
	segments, r = Validate(f)
	if r != drop.None {
		return 0, r
	}
	if f.VNet != (l2.VNet{}) && !p.cfg.VNet {
		return 0, drop.VNetBad
	}
	if p.cfg.Strict && f.Header.Src() != p.cfg.MAC {
		return 0, drop.SrcMACSpoofed
	}
	switch f.Header.Type() {
	case l2.TypeIPv4:
		r = p.guardIPv4(ports, f)
	case l2.TypeARP:
		r = p.guardARP(ports, f)
	case l2.TypeIPv6:
		r = p.guardIPv6(ports, f)
	}
	if r == drop.None && !p.cfg.Strict && !p.learn(now, f.Header.Src()) {
		r = drop.SrcMACSpoofed
	}
	return segments, r
}

// learn binds a source address to the port and reports whether it is the port's.
func (p *Port) learn(now time.Time, src l2.MAC) bool {
	if !p.b.table.Map(now, src, p, p.maxMACs()).OK() {
		return false
	}
	if p.detached.Load() {
		// Detach may have cleared the table just before Map wrote to it.
		p.b.table.DetachPort(p)
		return false
	}
	return true
}

// floodFrame sends one frame to every port it may go to. frame has length 1: a part of the caller's batch, so
// that nothing is allocated for it.
func (p *Port) floodFrame(ports *snapshot, frame []l2.Frame) {
	// Several receivers read the same memory, so none of them may keep it.
	buf := frame[0].Buf
	frame[0].Buf = nil
	for _, q := range ports.list {
		if q != p && (!p.apart(q) || p.hole(q, &frame[0])) {
			q.output(frame)
		}
	}
	frame[0].Buf = buf
}

// output sends frames out of the port and counts.
func (p *Port) output(frames []l2.Frame) {
	sent := p.out.Output(frames)
	p.framesOut.Add(uint64(sent))
	if lost := len(frames) - sent; lost > 0 {
		p.framesLost.Add(uint64(lost))
	}
}

// refuse counts a frame that goes nowhere. It returns route's results for that.
func (p *Port) refuse(r drop.Reason) (*Port, bool) {
	p.b.drops.Add(r)
	p.framesRefused.Add(1)
	return nil, false
}

// age forgets expired addresses now and then. Any ingress goroutine does it in passing: while no frame
// comes in, nobody needs the room.
func (b *Bridge) age(now time.Time) {
	at := int64(now.Sub(b.epoch))
	if next := b.nextAge.Load(); at >= next && b.nextAge.CompareAndSwap(next, at+int64(ageEvery)) {
		b.table.Age(now)
	}
}
