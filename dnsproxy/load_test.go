package dnsproxy

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
)

// RX-13: fifty clients ask for local names as fast as they can, while names come and go. Every query is answered,
// before HandleUDP returns.
func TestRX13(t *testing.T) {
	s := newServer(t, Config{Hosts: testHosts})
	const clients, queries = 50, 400
	q := pack(question("web", dns.TypeA))
	var answered atomic.Int64
	var wg sync.WaitGroup
	for i := range clients {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, byte(100 + i)}), 40000)
		wg.Go(func() {
			for range queries {
				s.HandleUDP(q, from, func(m []byte) {
					if r := new(dns.Msg); r.Unpack(m) == nil && r.Rcode == dns.RcodeSuccess && len(r.Answer) > 0 {
						answered.Add(1)
					}
				})
			}
		})
	}
	for range 100 {
		s.Configure(Config{Hosts: testHosts})
	}
	wg.Wait()
	if got := answered.Load(); got != clients*queries {
		t.Errorf("%d of %d queries were answered", got, clients*queries)
	}
}
