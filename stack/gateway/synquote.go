package gateway

import (
	"net/netip"
	"sync"
)

// synQuotes remembers the headers of SYNs that are being dialled, for the ICMP error that may have
// to quote them: netstack does not give them out. It is a ring: what nobody has taken, as nothing failed, is pushed out
// by later ones. A flood may push out one whose dial has not begun, which costs it its ICMP error and nothing else. A Network
// that nobody uses has none.
type synQuotes struct {
	mu   sync.Mutex
	ring *[512]synQuote            // guarded by mu; nil before the first
	at   map[[2]netip.AddrPort]int // guarded by mu; key: source, destination
	next int                       // guarded by mu
}

type synQuote struct {
	key [2]netip.AddrPort
	b   [68]byte // largest IPv4 header with 8 bytes of TCP; IPv6 without extension headers
	n   int
}

func (s *synQuotes) put(src, dst netip.AddrPort, packet []byte) {
	key := [2]netip.AddrPort{src, dst}
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.at[key]
	if !ok {
		if s.at == nil {
			s.at, s.ring = make(map[[2]netip.AddrPort]int), new([512]synQuote)
		}
		i = s.next
		s.next = (s.next + 1) % len(s.ring)
		if s.ring[i].n > 0 {
			delete(s.at, s.ring[i].key)
		}
		s.at[key] = i
	}
	q := &s.ring[i]
	q.key = key
	q.n = copy(q.b[:], packet)
}

// take returns and forgets the headers of a SYN, nil when they are gone.
func (s *synQuotes) take(src, dst netip.AddrPort) []byte {
	key := [2]netip.AddrPort{src, dst}
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.at[key]
	if !ok {
		return nil
	}
	delete(s.at, key)
	b := append([]byte(nil), s.ring[i].b[:s.ring[i].n]...)
	s.ring[i] = synQuote{}
	return b
}
