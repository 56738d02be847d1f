package dnsproxy

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

func BenchmarkLocal(b *testing.B) {
	s := newServer(b, Config{Hosts: testHosts})
	q := pack(question("web", dns.TypeA))
	b.ReportAllocs()
	for b.Loop() {
		s.HandleUDP(q, clientAddr, func([]byte) {})
	}
}

// BenchmarkForward asks one query after the other; the upstream, on loopback, is part of what is measured.
func BenchmarkForward(b *testing.B) {
	up := startUpstream(b, echo, nil)
	s := newServer(b, Config{Upstreams: []netip.AddrPort{up.addr}})
	q := pack(question("www.example.com", dns.TypeA))
	b.ReportAllocs()
	for b.Loop() {
		askRaw(b, s, q, clientAddr)
	}
}

// BenchmarkForwardParallel keeps 64 different queries in flight.
func BenchmarkForwardParallel(b *testing.B) {
	up := startUpstream(b, echo, nil)
	s := newServer(b, Config{Upstreams: []netip.AddrPort{up.addr}})
	b.SetParallelism(32)
	var qtype uint16
	free := make(chan uint16, 4096)
	for qtype = 1000; len(free) < cap(free); qtype++ {
		free <- qtype
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n := <-free
			askRaw(b, s, pack(question("www.example.com", n)), clientAddr)
			free <- n
		}
	})
}

// echo is the cheapest upstream: the query with the response bit.
func echo(q []byte, _ netip.AddrPort) []byte {
	q[2] |= 0x80
	return q
}
