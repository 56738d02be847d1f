package gateway

import (
	"maps"
	"net/netip"
	"slices"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	gvstack "gvisor.dev/gvisor/pkg/tcpip/stack"

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
		err := ip.Fragment(g.cfg.Spec.MTU, v, l3, func(v l2.VNet, l3 [][]byte) { g.emit(mac, etherType(dst), v, l3) })
		if err != nil {
			g.drops.Add(drop.IPMalformed)
			return false
		}
		return true
	}
	g.emit(mac, etherType(dst), v, l3)
	return true
}

func etherType(a netip.Addr) l2.EtherType {
	if a.Is6() {
		return l2.TypeIPv6
	}
	return l2.TypeIPv4
}

// emit sends one frame.
func (g *Gateway) emit(mac l2.MAC, t l2.EtherType, v l2.VNet, l3 [][]byte) {
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

// Station returns the link address behind an address: who is charged for what it does. It is zero for addresses that are
// not known; nothing could be sent to them anyway.
func (g *Gateway) Station(a netip.Addr) l2.MAC {
	mac, _ := g.neighbours.lookup(a)
	return mac
}

// AddNeighbour tells the gateway where an address lives before it has sent anything.
func (g *Gateway) AddNeighbour(a netip.Addr, m l2.MAC) {
	g.neighbours.set(a, m)
	g.tell(a)
}

// RemoveNeighbour forgets an address.
func (g *Gateway) RemoveNeighbour(a netip.Addr) {
	g.neighbours.remove(a)
	g.tell(a)
}

// learn notes that a lives at m, for us and for netstack.
func (g *Gateway) learn(a netip.Addr, m l2.MAC) {
	news, gone := g.neighbours.learn(a, m)
	if news {
		g.tell(a)
	}
	for _, a := range gone {
		g.tell(a)
	}
}

// tell has netstack, if there is one, know of an address what is known now. That spares it the resolution: it would ask in the name of
// the address it speaks for just then, a host of the outside, and few containers answer that.
//
// Several may tell of one address at a time, and the last to do so may be the one with the oldest news. So each looks again: who
// comes last has then told what is known still.
func (g *Gateway) tell(a netip.Addr) {
	s := g.stack.known.Load()
	if s == nil {
		return
	}
	for m, ok := g.neighbours.lookup(a); ; {
		g.tellNow(s, a, m, ok)
		now, still := g.neighbours.lookup(a)
		if now == m && still == ok {
			return
		}
		m, ok = now, still
	}
}

// tellNow tells netstack that a lives at m, or, if not ok, that nobody knows where.
func (g *Gateway) tellNow(s *gvstack.Stack, a netip.Addr, m l2.MAC, ok bool) {
	if !ok {
		s.RemoveNeighbor(nicID, netProto(a), toTCPIP(a))
		return
	}
	if err := s.AddStaticNeighbor(nicID, netProto(a), toTCPIP(a), tcpip.LinkAddress(m[:])); err != nil {
		g.log.Warn("neighbour not added", "addr", a, "mac", m, "err", err.String())
	}
}

// neighbours maps containers' addresses to MACs. Control's entries (set) are always kept; others
// are learned from packets the switch let through, which it did because the source belongs to
// the port. Those are bounded per MAC, so that a container with a whole /64 cannot fill the table, and in
// MACs, since nobody says when a guest that configured itself is gone: the one known for longest is
// forgotten then, and found again by the next packet it sends.
type neighbours struct {
	mu      sync.RWMutex
	macs    map[netip.Addr]l2.MAC   // guarded by mu
	fixed   map[netip.Addr]bool     // guarded by mu; entries of set
	learned map[l2.MAC][]netip.Addr // guarded by mu; the entries that came from learn
	order   []l2.MAC                // guarded by mu; keys of learned, in the order they came
}

const (
	// learnedPerMAC is more addresses than a guest that renumbers holds at once.
	learnedPerMAC = 16
	// learnedMACs is more guests than one Network has at once.
	learnedMACs = 4096
)

func (n *neighbours) init() {
	n.macs = make(map[netip.Addr]l2.MAC)
	n.fixed = make(map[netip.Addr]bool)
	n.learned = make(map[l2.MAC][]netip.Addr)
}

func (n *neighbours) lookup(a netip.Addr) (l2.MAC, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	m, ok := n.macs[a]
	return m, ok
}

// all is what is known now.
func (n *neighbours) all() map[netip.Addr]l2.MAC {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return maps.Clone(n.macs)
}

// learn notes that a lives at m and reports whether that is new, and which addresses were forgotten for
// it. Nearly every call finds that it is known already.
func (n *neighbours) learn(a netip.Addr, m l2.MAC) (news bool, gone []netip.Addr) {
	if !a.IsValid() || a.IsUnspecified() {
		return false, nil
	}
	n.mu.RLock()
	known := n.macs[a]
	n.mu.RUnlock()
	if known == m {
		return false, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fixed[a] {
		n.macs[a] = m // the container changed its MAC; the entry stays control's
		return true, nil
	}
	if len(n.learned[m]) >= learnedPerMAC {
		return false, nil
	}
	n.unlearnLocked(a)
	if n.learned[m] == nil {
		if len(n.order) >= learnedMACs {
			gone = n.learned[n.order[0]]
			for _, a := range gone {
				delete(n.macs, a)
			}
			delete(n.learned, n.order[0])
			n.order = slices.Delete(n.order, 0, 1)
		}
		n.order = append(n.order, m)
	}
	n.macs[a] = m
	n.learned[m] = append(n.learned[m], a)
	return true, gone
}

// unlearnLocked takes a off the account of the MAC it was learned of, if it was.
func (n *neighbours) unlearnLocked(a netip.Addr) {
	m, ok := n.macs[a]
	if !ok || n.fixed[a] {
		return
	}
	delete(n.macs, a)
	left := slices.DeleteFunc(n.learned[m], func(b netip.Addr) bool { return a == b })
	if len(left) > 0 {
		n.learned[m] = left
		return
	}
	delete(n.learned, m)
	n.order = slices.DeleteFunc(n.order, func(o l2.MAC) bool { return o == m })
}

func (n *neighbours) set(a netip.Addr, m l2.MAC) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.unlearnLocked(a)
	n.macs[a], n.fixed[a] = m, true
}

func (n *neighbours) remove(a netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.unlearnLocked(a)
	delete(n.macs, a)
	delete(n.fixed, a)
}
