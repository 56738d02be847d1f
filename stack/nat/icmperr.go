package nat

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/sys"
	"github.com/usernet/usernet/stack/drop"
	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
)

// Theory of operation: ICMP errors (RFC 4787 REQ-12 and REQ-13, RFC 5508 REQ-3 to REQ-6)
//
// An error about a datagram we sent reaches us in two ways. A router's or the destination's comes
// through the socket's error queue, where the kernel has matched it to the socket by the outside
// port and kept what it quoted of the payload. Our own kernel's comes as the errno of the send.
//
// Both become an ICMP error to the container that quotes the datagram as the container sent it, from its own
// address and port to the destination it knows. The source is the offender, so a traceroute shows
// the routers; unless that is an address the container could not reach or one of this host, which then
// hides behind the gateway.
//
// An error that quotes a destination the flow has not sent to is forged or stale, and is dropped: one
// unconnected socket per flow means that the kernel asks for no more than the port. No error ends a flow
// or refreshes it.

// errBuf is memory for reading and making ICMP errors.
type errBuf struct {
	queue *sys.ErrQueue
	pkt   ip.Packet
	quote []byte // capacity for any quote
	out   [1280]byte
	parts [1][]byte
}

func newErrBuf() *errBuf { return &errBuf{queue: sys.NewErrQueue(), quote: make([]byte, 0, 4096)} }

// readErrors takes all there is off the error queue of f's socket and returns how many it took.
func (s *flows) readErrors(f *flow, sock *socket) (n int) {
	eb := s.errBufs.Get().(*errBuf)
	defer s.errBufs.Put(eb)
	for ; ; n++ {
		e, err := eb.queue.Read(sock.rc)
		if err != nil {
			return n
		}
		// What this host found out itself was an errno of the send, with the datagram at hand.
		if e.Origin == sys.OriginICMP || e.Origin == sys.OriginICMP6 {
			s.received(f, eb, &e)
		}
	}
}

// received passes on an ICMP error.
func (s *flows) received(f *flow, eb *errBuf, e *sys.SockError) {
	v6 := e.Origin == sys.OriginICMP6
	kind, ok := ip.KindOf(v6, e.Type, e.Code)
	if !ok || v6 != f.key.Addr().Is6() || !f.knows(e.Dst.Addr()) {
		s.Drops.Add(drop.ICMPUnmatched)
		return
	}
	if !s.errorsAllowed(f.mac) {
		return
	}
	mtu := 0
	if kind == ip.FragNeeded {
		if mtu = int(e.Info); mtu == 0 { // a router that does not say; the kernel made a guess
			mtu = pathMTU(e.Dst.Addr(), s.bindAddr(v6))
		}
	}
	dst := s.seen(f, e.Dst)
	if !eb.setQuote(f, dst, e.Payload) {
		s.Drops.Add(drop.ICMPUnmatched)
		return
	}
	from := dst.Addr()
	if e.Offender != e.Dst.Addr() {
		from = s.offender(e.Offender, v6)
	}
	s.emit(eb, &eb.pkt, from, kind, mtu)
}

// seen is a host-side address as f's container knows it.
func (s *flows) seen(f *flow, ap netip.AddrPort) netip.AddrPort {
	if !s.policy.mapsAny() {
		return ap
	}
	return f.seen(ap)
}

// offender is the source an error is shown to come from.
func (s *flows) offender(a netip.Addr, v6 bool) netip.Addr {
	proto := uint8(ip.ICMP)
	if v6 {
		proto = ip.ICMPv6
	}
	if !a.IsValid() || a.Is6() != v6 || !s.policy.Check(proto, netip.AddrPortFrom(a, 0)).Allow || isLocal(a) {
		return s.gateway(v6)
	}
	return a
}

// sendFailed counts a message the kernel refused and tells the container why, where ICMP has a word for it.
func (s *flows) sendFailed(f *flow, m *outMsg, errno syscall.Errno) {
	var kind ip.ErrorKind
	reason := drop.SocketError
	switch errno {
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
		reason = drop.QueueFull
	case unix.EMSGSIZE:
		kind = ip.FragNeeded
	case unix.ENETUNREACH, unix.ENETDOWN:
		kind = ip.NetUnreachable
	case unix.EHOSTUNREACH, unix.EHOSTDOWN, unix.EADDRNOTAVAIL, unix.ENODEV:
		kind = ip.HostUnreachable
	case unix.EACCES, unix.EPERM: // a broadcast address of this host's links; a firewall
		kind = ip.AdminProhibited
	}
	s.Drops.AddN(reason, m.lost)
	if kind == 0 || !s.errorsAllowed(f.mac) {
		return
	}
	data := m.data
	if m.segment > 0 {
		data = data[:min(m.segment, len(data))]
	}
	v6 := f.key.Addr().Is6()
	mtu, size := 0, ip.HeaderLen4+len(data)
	if v6 {
		size = ip.HeaderLen6 + len(data)
	}
	if f.proto == ip.UDP {
		size += ip.UDPHeaderLen
	}
	if kind == ip.FragNeeded {
		mtu = pathMTU(m.to.Addr(), s.bindAddr(v6))
		if mtu == 0 || mtu >= size {
			return // not for the path's sake
		}
	}
	eb := s.errBufs.Get().(*errBuf)
	defer s.errBufs.Put(eb)
	if eb.setQuote(f, m.dst, data) {
		s.emit(eb, &eb.pkt, s.gateway(v6), kind, mtu)
	}
}

// setQuote makes eb.pkt the beginning of the datagram f sent to dst. data is what is known of it: of UDP
// the payload, of ICMP the message.
func (eb *errBuf) setQuote(f *flow, dst netip.AddrPort, data []byte) bool {
	src := f.key.Addr()
	hl, most := ip.HeaderLen4, 576
	if src.Is6() {
		hl, most = ip.HeaderLen6, 1280
	}
	data = data[:min(len(data), most)] // more than fits
	if f.proto == ip.UDP {
		n := ip.PutUDPHeaders(eb.quote[:hl+8], f.key, dst, len(data), ip.UDPOpts{Payload: data})
		if n == 0 {
			return false
		}
		eb.quote = append(eb.quote[:n], data...)
	} else {
		if len(data) < 8 || src.Is6() != dst.Addr().Is6() {
			return false
		}
		eb.quote = ip.AppendEcho(eb.quote[:0], ip.Echo{
			Src: src, Dst: dst.Addr(), ID: f.key.Port(), Seq: binary.BigEndian.Uint16(data[6:]), Data: data[8:],
		})
	}
	f.restoreHeader(eb.quote, hl, dst)
	eb.pkt = ip.Packet{Src: src, Dst: dst.Addr(), Proto: f.proto, HdrLen: hl, Data: eb.quote, MAC: f.mac}
	return true
}

// restoreHeader puts the header as it was over one that was made up, when the datagram is the last
// that was sent: lengths before the quote was cut, identification, TTL, checksum.
func (f *flow) restoreHeader(quote []byte, hl int, dst netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.recent.dst != dst {
		return
	}
	old := f.recent.hdr[:hl+8]
	if f.proto == ip.UDP {
		if int(binary.BigEndian.Uint16(old[hl+4:])) < len(quote)-hl {
			return // another one, shorter than this
		}
	} else if [4]byte(old[hl+4:]) != [4]byte(quote[hl+4:]) { // identifier and sequence number
		return
	}
	copy(quote, old)
}

// errorsAllowed says whether a container may be sent one more ICMP error, and counts when not.
func (s *flows) errorsAllowed(container l2.MAC) bool {
	ok := s.errLimit.Allow(time.Now(), container)
	if !ok {
		s.Drops.Add(drop.ICMPLimit)
	}
	return ok
}

// emitError answers p with an ICMP error.
func (s *flows) emitError(p *ip.Packet, from netip.Addr, kind ip.ErrorKind) {
	eb := s.errBufs.Get().(*errBuf)
	s.emit(eb, p, from, kind, 0)
	s.errBufs.Put(eb)
}

func (s *flows) emit(eb *errBuf, p *ip.Packet, from netip.Addr, kind ip.ErrorKind, mtu int) {
	if !from.IsValid() { // a Network whose gateway is of the other family only
		from = p.Dst
	}
	b := ip.ICMPError(eb.out[:], p, from, kind, mtu)
	if b == nil {
		return
	}
	eb.parts[0] = b
	s.Emit.EmitIP(p.Src, l2.VNet{}, eb.parts[:])
}

// refused counts a packet the Policy does not let through, and says so to its sender.
func (s *flows) refused(p *ip.Packet) {
	s.Drops.Add(drop.PolicyDenied)
	if s.errorsAllowed(p.MAC) {
		s.emitError(p, s.gateway(p.Is6()), ip.AdminProhibited)
	}
}
