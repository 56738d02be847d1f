package load

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// nameServer answers by handle on loopback until the test ends.
func nameServer(t *testing.T, handle func(m *dns.Msg) *dns.Msg) uint16 {
	t.Helper()
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 512)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			var q dns.Msg
			if q.Unpack(b[:n]) != nil {
				continue
			}
			if r := handle(&q); r != nil {
				p, _ := r.Pack()
				_, _ = pc.WriteToUDPAddrPort(p, from)
			}
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	return uint16(pc.LocalAddr().(*net.UDPAddr).Port)
}

// address answers with one.
func address(q *dns.Msg) *dns.Msg {
	r := new(dns.Msg).SetReply(q)
	r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(10, 0, 0, 1)}}
	return r
}

func TestNames(t *testing.T) {
	m, _ := pair(t)
	var asked atomic.Int64
	port := nameServer(t, func(q *dns.Msg) *dns.Msg {
		if q.Question[0].Name == "web." && q.Question[0].Qtype == dns.TypeA && q.RecursionDesired {
			asked.Add(1)
		}
		return address(q)
	})
	r, err := m.Do(Request{Op: Names, To: loopback(port), Name: "web", Streams: 5, Window: window})
	if err != nil || r.Total != uint64(asked.Load()) || r.Lost != 0 || r.Rate <= 0 || r.P50 <= 0 || r.P99 < r.P50 {
		t.Errorf("%+v, %v; the server was asked %d times", r, err, asked.Load())
	}
}

// Clients that have a pace keep it: neither more questions than asked for, nor so few as if they had waited.
func TestNamesAtAPace(t *testing.T) {
	m, _ := pair(t)
	port := nameServer(t, address)
	r, err := m.Do(Request{Op: Names, To: loopback(port), Name: "web", Streams: 5, PerSecond: 500, Window: 10 * window})
	if err != nil || r.Total != 100 || r.Lost != 0 {
		t.Errorf("%+v, %v; want 100 questions", r, err)
	}
}

// A question without an answer is lost and counted; the late answer to it is not taken for the next one's.
func TestNamesLost(t *testing.T) {
	m, _ := pair(t)
	losesAfter(t, time.Second)
	var first *dns.Msg
	asked := 0
	port := nameServer(t, func(q *dns.Msg) *dns.Msg {
		switch asked++; asked {
		case 1:
			first = q
			return nil
		case 2:
			return address(first)
		}
		return address(q)
	})
	r, err := m.Do(Request{Op: Names, To: loopback(port), Name: "web", Streams: 1, PerSecond: 4, Window: time.Second})
	if err != nil || r.Lost != 2 || r.Total != 4 {
		t.Errorf("%+v, %v; want 2 of 4 lost", r, err)
	}
}

func TestNamesRefused(t *testing.T) {
	m, _ := pair(t)
	losesAfter(t, time.Second)
	for want, handle := range map[string]func(q *dns.Msg) *dns.Msg{
		"NXDOMAIN":   func(q *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeNameError) },
		"no address": func(q *dns.Msg) *dns.Msg { return new(dns.Msg).SetReply(q) },
		"a question": func(q *dns.Msg) *dns.Msg { return q },
		"no answer":  func(*dns.Msg) *dns.Msg { return nil },
	} {
		port := nameServer(t, handle)
		_, err := m.Do(Request{Op: Names, To: loopback(port), Name: "web", Streams: 2, Window: window})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := m.Do(Request{Op: Names, To: loopback(1), Name: strings.Repeat("a", 64), Window: window}); err == nil {
		t.Error("a label of 64 bytes is asked for")
	}
}
