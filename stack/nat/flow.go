package nat

import (
	"encoding/binary"
	"net/netip"
	"sync"

	"github.com/usernet/usernet/stack/ip"
	"github.com/usernet/usernet/stack/l2"
)

// flow is one mapping: a container's address and port (or echo identifier) and the host socket that
// stands for it. Its socket's goroutine lives from insert to close; only the table decides when that is.
type flow struct {
	key   netip.AddrPort
	mac   l2.MAC
	proto uint8 // ip.UDP, ip.ICMP or ip.ICMPv6

	// sendMu guards what follows and keeps datagrams in order. It is the one lock held over a system
	// call, a sendmmsg that does not block: two goroutines may flush the same flow.
	sendMu sync.Mutex
	sock   *socket
	out    *sendBuf // waits for Flush; nil while nothing does
	gen    uint32   // flows.hostGen that sock.gsoMax was learnt in
	closed bool

	mu      sync.Mutex // guards what follows
	peers   peers
	recent  recent
	aliases []alias // as many as the Policy has Maps at most

	// Of UDP, guarded by UDP.dirtyMu: the list of flows with something to flush.
	dirty     bool
	nextDirty *flow
}

// recent is the header of the last datagram a flow sent. The host's kernel returns only the payload
// of a datagram an ICMP error is about; for the quote the container gets, the rest is taken from here.
type recent struct {
	dst netip.AddrPort // as the container sees it; invalid when there is no header to quote
	// hdr is an IP header without options or extension headers, and 8 bytes of UDP or ICMP header.
	hdr [ip.HeaderLen6 + 8]byte
}

// alias is an address of the host and the one the container knows it by in this flow, which is the one it sent to last:
// several Maps may lead to one address of the host.
type alias struct{ host, seen netip.Addr }

// sent remembers a datagram on its way to dst, on the host's side peer.
func (f *flow) sent(p *ip.Packet, dst netip.AddrPort, peer netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.peers.add(peer)
	if peer != dst.Addr() || len(f.aliases) > 0 {
		f.nameLocked(peer, dst.Addr())
	}
	f.recent.dst = netip.AddrPort{}
	if p.VNet.GSOType != l2.GSONone {
		return // the header is of the whole train, and of none of its datagrams
	}
	f.recent.dst = dst
	hl := ip.HeaderLen4
	if p.Is6() {
		hl = ip.HeaderLen6
	}
	h := f.recent.hdr[:hl+8]
	copy(h, p.Data[:hl])
	copy(h[hl:], p.Payload()[:8])
	if p.HdrLen == hl {
		return
	}
	length := len(p.Payload())
	if p.Is6() {
		binary.BigEndian.PutUint16(h[4:], uint16(length))
		h[6] = p.Proto
		return
	}
	h[0] = 4<<4 | ip.HeaderLen4/4
	binary.BigEndian.PutUint16(h[2:], uint16(hl+length))
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], ip.Checksum(h[:hl], 0))
}

// nameLocked notes how the container knows a host-side address.
func (f *flow) nameLocked(host, seen netip.Addr) {
	for i := range f.aliases {
		if f.aliases[i].host == host {
			f.aliases[i].seen = seen
			return
		}
	}
	if host != seen {
		f.aliases = append(f.aliases, alias{host, seen})
	}
}

// seen is a host-side address as the container knows it.
func (f *flow) seen(host netip.AddrPort) netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.aliases {
		if f.aliases[i].host == host.Addr() {
			return netip.AddrPortFrom(f.aliases[i].seen, host.Port())
		}
	}
	return host
}

// knows reports whether the container has sent to the host-side address a.
func (f *flow) knows(a netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.peers.has(a)
}

// close ends the flow: its socket's goroutine returns, what waits to be sent is lost.
func (f *flow) close(s *flows) {
	f.sendMu.Lock()
	defer f.sendMu.Unlock()
	f.closed = true
	if f.out != nil {
		s.putSendBuf(f.out)
		f.out = nil
	}
	f.sock.close()
	s.share.Give()
}
