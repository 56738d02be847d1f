package dnsproxy

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"github.com/usernet/usernet/stack/l2"
	"github.com/usernet/usernet/stack/spec"
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

// BenchmarkSetEndpoint is one Endpoint that comes and goes beside 2000 with four names each, one of which all have (RX-12).
func BenchmarkSetEndpoint(b *testing.B) {
	l := newLAN(b, "net")
	endpoint := func(i int) spec.Endpoint {
		return spec.Endpoint{
			ID: fmt.Sprint(i), MAC: l2.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)},
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})},
			Names: []string{fmt.Sprint("c", i), fmt.Sprint("id", i), fmt.Sprint("host", i), "all"},
		}
	}
	for i := range 2000 {
		l.networks["net"].SetEndpoint(endpoint(i))
	}
	ep := endpoint(2000)
	b.ReportAllocs()
	for b.Loop() {
		l.networks["net"].SetEndpoint(ep)
		l.networks["net"].RemoveEndpoint(ep.ID)
	}
}
