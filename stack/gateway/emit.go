package gateway

import (
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
)

// emitFrame is the frame one EmitIP call sends.
type emitFrame struct{ one [1]l2.Frame }

var emitFrames = sync.Pool{New: func() any { return new(emitFrame) }}

// EmitIP implements ip.Emitter: a complete IP packet towards a container, or to a group on the link.
func (g *Gateway) EmitIP(dst netip.Addr, v l2.VNet, l3 [][]byte) bool {
	mac, ok := g.resolve(dst)
	if !ok {
		g.drops.Add(drop.DstUnknown)
		return false
	}
	n := 0
	for _, b := range l3 {
		n += len(b)
	}
	if n > g.cfg.Spec.MTU && v.GSOType == l2.GSONone {
		err := ip.Fragment(g.cfg.Spec.MTU, v, l3, func(v l2.VNet, l3 [][]byte) { g.emit(mac, dst, v, l3) })
		if err != nil {
			g.drops.Add(drop.IPMalformed)
			return false
		}
		return true
	}
	g.emit(mac, dst, v, l3)
	return true
}

func (g *Gateway) emit(mac l2.MAC, dst netip.Addr, v l2.VNet, l3 [][]byte) {
	t := l2.TypeIPv4
	if dst.Is6() {
		t = l2.TypeIPv6
	}
	e := emitFrames.Get().(*emitFrame)
	e.one[0] = l2.Frame{VNet: v, Header: l2.MakeHeader(mac, g.cfg.Spec.GatewayMAC, t), L3: l3}
	g.svc.Link(e.one[:])
	e.one[0] = l2.Frame{}
	emitFrames.Put(e)
}

// resolve finds the link address of a destination on this link: groups by rule (RFC 1112 §6.4,
// RFC 2464 §7), stations by what they sent last.
func (g *Gateway) resolve(dst netip.Addr) (l2.MAC, bool) {
	switch {
	case dst.Is4() && dst.IsMulticast():
		a := dst.As4()
		return l2.MAC{0x01, 0x00, 0x5e, a[1] & 0x7f, a[2], a[3]}, true
	case dst.IsMulticast():
		a := dst.As16()
		return l2.MAC{0x33, 0x33, a[12], a[13], a[14], a[15]}, true
	case dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return l2.Broadcast, true
	}
	return g.neighbours.lookup(dst)
}

// AddNeighbour tells the gateway where an address lives before it has sent anything.
func (g *Gateway) AddNeighbour(a netip.Addr, m l2.MAC) {
	g.neighbours.set(a, m)
	g.tellStack(a, m)
}

// RemoveNeighbour forgets an address.
func (g *Gateway) RemoveNeighbour(a netip.Addr) {
	g.neighbours.remove(a)
	g.stack.RemoveNeighbor(nicID, netProto(a), toTCPIP(a))
}

// learn notes that a lives at m, for us and for netstack.
func (g *Gateway) learn(a netip.Addr, m l2.MAC) {
	if g.neighbours.learn(a, m) {
		g.tellStack(a, m)
	}
}

// tellStack spares netstack the resolution. It would ask in the name of the address it speaks for
// just then, a host of the outside, and few containers answer that.
func (g *Gateway) tellStack(a netip.Addr, m l2.MAC) {
	if err := g.stack.AddStaticNeighbor(nicID, netProto(a), toTCPIP(a), tcpip.LinkAddress(m[:])); err != nil {
		g.log.Warn("neighbour not added", "addr", a, "mac", m, "err", err.String())
	}
}

// neighbours maps containers' addresses to MACs. Control's entries (set) are always kept; others
// are learned from packets the switch let through, which it did because the source belongs to
// the port, and bounded per MAC so that a container with a whole /64 cannot fill the table.
type neighbours struct {
	mu      sync.RWMutex
	macs    map[netip.Addr]l2.MAC // guarded by mu
	learned map[l2.MAC]int        // guarded by mu; how many of macs came from learn
	fixed   map[netip.Addr]bool   // guarded by mu; entries of set
}

// learnedPerMAC is more addresses than a guest that renumbers holds at once.
const learnedPerMAC = 16

func (n *neighbours) init() {
	n.macs = make(map[netip.Addr]l2.MAC)
	n.learned = make(map[l2.MAC]int)
	n.fixed = make(map[netip.Addr]bool)
}

func (n *neighbours) lookup(a netip.Addr) (l2.MAC, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	m, ok := n.macs[a]
	return m, ok
}

// learn notes that a lives at m and reports whether that is new. Nearly every call finds that it
// is known already.
func (n *neighbours) learn(a netip.Addr, m l2.MAC) (news bool) {
	if !a.IsValid() || a.IsUnspecified() {
		return false
	}
	n.mu.RLock()
	known := n.macs[a]
	n.mu.RUnlock()
	if known == m {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fixed[a] {
		n.macs[a] = m // the container changed its MAC; the entry stays control's
		return true
	}
	if n.learned[m] >= learnedPerMAC {
		return false
	}
	if old, ok := n.macs[a]; ok {
		n.forgetLocked(old)
	}
	n.macs[a] = m
	n.learned[m]++
	return true
}

func (n *neighbours) forgetLocked(m l2.MAC) {
	if n.learned[m]--; n.learned[m] <= 0 {
		delete(n.learned, m)
	}
}

func (n *neighbours) set(a netip.Addr, m l2.MAC) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.macs[a], n.fixed[a] = m, true
}

func (n *neighbours) remove(a netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m, ok := n.macs[a]; ok && !n.fixed[a] {
		n.forgetLocked(m)
	}
	delete(n.macs, a)
	delete(n.fixed, a)
}
